"""What crosses between server and worker: a request goes down, an outcome comes back, and both are plain data.

    executor ── FunctionRequest(calls) ──► worker ── FunctionOutcome(begin_ts, results, write set) ──► executor

Values stay canonical JSON bytes on both sides of the boundary, so the server never decodes what a user stored.
`to_wire` gives tuples of bytes, strings, numbers and None, which `channel` writes with marshal; `from_wire` reads them
back. Nothing here changes once it is made, and a `Call` is hashable because it is the query cache's key. What is made
anew for every call is a named tuple, because these are made the fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from evolute.database.chain import Chain, ChainMark, Link
from evolute.database.pending_view import PendingView
from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from evolute.system.job_endings import Ending

Kind: TypeAlias = Literal["query", "mutation", "action"]
RequestKind: TypeAlias = Literal["queries", "mutation", "action"]
Refusal: TypeAlias = Literal["WrongDeployment", "WrongLane", "JobChanged", "SnapshotGone", "NotYetKnown"]
Wire: TypeAlias = tuple[Any, ...]

WRONG_DEPLOYMENT: Refusal = "WrongDeployment"
WRONG_LANE: Refusal = "WrongLane"
JOB_CHANGED: Refusal = "JobChanged"
SNAPSHOT_GONE: Refusal = "SnapshotGone"
NOT_YET_KNOWN: Refusal = "NotYetKnown"
# The code of an error that a job's completion function caused in a way that spoils the transaction.
COMPLETION_FAILED = "CompletionFailed"


class Call(NamedTuple):
    """One call of one function. `arguments` is the canonical JSON of one object.

    `kind` None takes a function of any kind; `public_only` hides internal functions as if they did not exist.
    `identity` is the canonical JSON of the caller's identity object, or None. `session` is (session id, request id) of
    a mutation that must run once. `job` is the scheduled job that this call runs; `parent_job` the one on whose behalf
    it runs (a mutation called by a scheduled action). `depth` counts nested calls. `cron` is the run of a cron, (its
    id, when it is due), that this call is. `place` is the number of the place that a blocking action on whose behalf it
    runs has in its lane. `journal` is what an earlier run of the query has noted.

    With `ending` the job has run, and this call ends it: `path` is its completion function, which is given the outcome.
    Only if `ending.untold` is set the call is the job once more, whose completion function cannot be run.
    """

    path: str
    arguments: bytes
    kind: Kind | None = None
    public_only: bool = True
    identity: bytes | None = None
    session: tuple[str, int] | None = None
    job: str | None = None
    parent_job: str | None = None
    depth: int = 0
    cron: tuple[str, int] | None = None
    ending: Ending | None = None
    place: int | None = None
    journal: str | None = None

    def __hash__(self) -> int:
        """Of what tells queries apart: who is in the query cache is looked up by every session for every change."""
        return hash((self.path, self.arguments, self.identity, self.journal))

    def of_anyone(self) -> Call:
        """The same, by a caller whose identity nobody knows."""
        return self if self.identity is None else self._replace(identity=None)

    def to_wire(self) -> Wire:
        if self.cron is None and self.ending is None:
            return tuple(self)
        cron = None if self.cron is None else tuple(self.cron)
        ending = None if self.ending is None else tuple(self.ending)
        return tuple({**self._asdict(), "cron": cron, "ending": ending}.values())

    @classmethod
    def from_wire(cls, wire: Wire) -> Call:
        call = cls(*wire)
        return call if call.ending is None else call._replace(ending=Ending(*call.ending))


@dataclass(frozen=True, slots=True)
class CallError:
    """Why a call failed.

    `message` is the whole text with the frames of the user's files, as a developer sees it; `data` is the canonical
    JSON of a ConvexError's data; `code` is the short name of semantics G1. `classes` are the names of the exception's
    class and its bases, by which retry policies know it.
    """

    message: str
    data: bytes | None = None
    code: str = "FunctionFault"
    classes: tuple[str, ...] = ()

    def client_text(self, request_id: str, *, redact: bool) -> str:
        """The text that a client is sent (semantics G3). `data` is always delivered beside it."""
        head = f"[Request ID: {request_id}] Server Error"
        return head if redact else f"{head}\n{self.message}"

    def to_wire(self) -> Wire:
        return (self.message, self.data, self.code, self.classes)

    @classmethod
    def from_wire(cls, wire: Wire) -> CallError:
        return cls(*wire)


class CallResult(NamedTuple):
    """How one call ended: `value` (canonical JSON) or `error`, never both.

    `read_set` is what it read, whether it succeeded or raised. `user_ns` leaves out the time spent inside `ctx`.
    `journal` is for the next run of the same query: its `Call.journal`. Unless `saw_identity` the answer is the same
    for every caller.
    """

    value: bytes | None
    error: CallError | None
    log_lines: tuple[str, ...]
    read_set: ReadSet
    user_ns: int = 0
    total_ns: int = 0
    journal: str | None = None
    saw_identity: bool = True

    def to_wire(self) -> Wire:
        return (
            self.value,
            None if self.error is None else self.error.to_wire(),
            self.log_lines,
            self.read_set.to_wire(),
            self.user_ns,
            self.total_ns,
            self.journal,
            self.saw_identity,
        )

    @classmethod
    def from_wire(cls, wire: Wire) -> CallResult:
        value, error, log_lines, read_set, user_ns, total_ns, journal, saw_identity = wire
        return cls(
            value,
            None if error is None else CallError.from_wire(error),
            log_lines,
            ReadSet.from_wire(read_set),
            user_ns,
            total_ns,
            journal,
            saw_identity,
        )


class FunctionRequest(NamedTuple):
    """Work for one worker: a batch of queries for one snapshot, one mutation, or one action.

    `now_ns` and `seed` (32 random bytes) are new for each attempt; with them and the snapshot a run can be repeated.
    `pending` is what a mutation sees beyond the store; on the channel, the part that the worker has not been shown.
    `kept` is the number of a snapshot that the worker keeps. With `chained` a mutation sees what the runs before it in
    its worker want to write, too.
    """

    id: int
    kind: RequestKind
    deployment: str
    calls: tuple[Call, ...]
    now_ns: int
    seed: bytes
    pending: PendingView | None = None
    kept: int = 0
    chained: ChainMark | None = None

    def to_wire(self) -> Wire:
        request_id, kind, deployment, calls, now_ns, seed, pending, kept, chained = self
        return (
            request_id,
            kind,
            deployment,
            tuple(map(Call.to_wire, calls)),
            now_ns,
            seed,
            None if pending is None else pending.to_wire(),
            kept,
            None if chained is None else tuple(chained),
        )

    @classmethod
    def from_wire(cls, wire: Wire) -> FunctionRequest:
        request_id, kind, deployment, calls, now_ns, seed, pending, kept, chained = wire
        view = None if pending is None else PendingView(*pending)
        those = tuple(map(Call.from_wire, calls))
        mark = None if chained is None else ChainMark(*chained)
        return cls(request_id, kind, deployment, those, now_ns, seed, view, kept, mark)


class FunctionOutcome(NamedTuple):
    """What became of a request. There is one result for each call, in order, unless the request was `refused`.

    `write_set` is what a mutation that succeeded wants to commit. `replayed_ts` is the commit timestamp of the earlier
    run when a session's record was found: the function was not run again. `refused` says why nothing was run
    (WRONG_DEPLOYMENT, WRONG_LANE, JOB_CHANGED, SNAPSHOT_GONE, NOT_YET_KNOWN). `exiting` means that the worker process
    ends after this outcome. `seen` is the snapshot's; `busy_ns` is how long a transaction worker was busy with it.
    `chained` is the origin of the chain that it was run in, and the last run that it has seen of it; of this the server
    makes `link`.
    """

    id: int
    begin_ts: int
    results: tuple[CallResult, ...]
    write_set: WriteSet | None = None
    replayed_ts: int | None = None
    refused: Refusal | None = None
    exiting: bool = False
    seen: int | None = None
    busy_ns: int = 0
    chained: tuple[int, int] | None = None
    link: Link | None = None

    def to_wire(self) -> Wire:
        return (
            self.id,
            self.begin_ts,
            tuple(map(CallResult.to_wire, self.results)),
            None if self.write_set is None else self.write_set.to_wire(),
            self.replayed_ts,
            self.refused,
            self.exiting,
            self.seen,
            self.busy_ns,
            self.chained,
        )

    def abandon(self) -> None:
        """Nobody is going to commit what it wants to write: its chain must not wait for that."""
        if self.link is not None and self.write_set:
            self.link.refuse()

    @classmethod
    def from_wire(cls, wire: Wire, chain: Chain | None = None) -> FunctionOutcome:
        """`chain` is that of the worker that it comes from."""
        request_id, begin_ts, results, write_set, replayed_ts, refused, exiting, seen, busy_ns, chained = wire
        return cls(
            request_id,
            begin_ts,
            tuple(map(CallResult.from_wire, results)),
            None if write_set is None else WriteSet.from_wire(write_set),
            replayed_ts,
            refused,
            exiting,
            seen,
            busy_ns,
            chained,
            None if chain is None or chained is None else Link(chain, chained[0], request_id, chained[1]),
        )


class Outcome(NamedTuple):
    """What a caller of the executor gets: `value` or `error`, at the timestamp `ts` (a mutation's commit timestamp)."""

    value: bytes | None
    error: CallError | None
    log_lines: tuple[str, ...]
    ts: int
