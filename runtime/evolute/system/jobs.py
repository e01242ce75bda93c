"""Jobs: functions that run later, as rows of `_scheduled_functions`.

                    ┌──────────────► canceled ◄──────────────────┐
    schedule ──► pending ──► success (a mutation: in its own commit)
                 ▲  │ └────► failed ──► (retried by hand) pending  │
                 │  └──► inProgress (an action: committed first) ──► success | failed
                 └─ with a retry policy, later ─┘

A row is written by the transaction that schedules, so a job exists if and only if that commits. `_pool` and `_due` are
there as long as there is something left to do for it, and `_due` 0 says "due now": then no clock decides about its turn
(semantics A5 to A13). A canceled job is one to do if its completion function has still to be told, or if its action has
not been interrupted yet.

`_mark` is the key of a pending job that has one, which is a string, and the time at which a failed job failed, which is
a number: one index serves both.

Functions see the public fields; those that begin with an underscore are the scheduler's. Long arguments have a row of
their own, so that walking over the jobs stays cheap. Which job is next is `job_queue`'s business, how one ends is
`job_endings`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from evolute.clock import NS_PER_MS
from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.errors import InvalidId, InvalidSchedule, LimitReached
from evolute.storage.keyspace import document_key
from evolute.system.tables import BY_COMPLETED, BY_MARK, SCHEDULED, SCHEDULED_ARGUMENTS, SCHEDULED_NUMBER
from evolute.values.display import display
from evolute.values.document_id import decode_id
from evolute.values.value import SYSTEM_FIELDS, UNSET, Int64, Value, size_of, type_name
from evolute.values.wire_codec import encode

PENDING: Final = "pending"
IN_PROGRESS: Final = "inProgress"
SUCCESS: Final = "success"
FAILED: Final = "failed"
CANCELED: Final = "canceled"

DUE_NOW: Final = Int64(0)
DEFAULT_POOL: Final = "default"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a job is run. `retry` is a retry policy's row, `on_complete` the path of a mutation.

    `key`: at most one job with it is pending. `keep` leaves that one alone; otherwise the new one replaces it.
    """

    pool: str = DEFAULT_POOL
    key: str | None = None
    keep: bool = False
    retry: Mapping[str, Any] | None = None
    on_complete: str | None = None

    def to_wire(self) -> tuple[Any, ...]:
        """For the channel between worker and server."""
        return (self.pool, self.key, self.keep, None if self.retry is None else dict(self.retry), self.on_complete)

    @classmethod
    def from_wire(cls, wire: tuple[Any, ...]) -> JobOptions:
        return cls(*wire)


NO_OPTIONS: Final = JobOptions()


@dataclass(frozen=True, slots=True)
class Job:
    """A job with something left to do. `arguments` is the canonical JSON of one object.

    `turn_ns` orders the jobs that are due. `state` is "pending", "inProgress" or, if only its completion function has
    to be told, "canceled". `deaths` counts the workers that it has killed.
    """

    id: str
    path: str
    arguments: bytes
    turn_ns: float
    state: str
    pool: str = DEFAULT_POOL
    retry: Mapping[str, Any] | None = None
    on_complete: str | None = None
    deaths: int = 0

    @property
    def in_progress(self) -> bool:
        return self.state == IN_PROGRESS


# --- scheduling -------------------------------------------------------------------------------------------------------


def schedule(
    transaction: Transaction,
    *,
    path: str,
    arguments: Value,
    due_ns: int | None,
    scheduled_ms: float,
    parent_job: str | None = None,
    options: JobOptions = NO_OPTIONS,
    arguments_bytes: int | None = None,
) -> str:
    """A new job; returns its id. `due_ns` None is due now. The child of a canceled parent is canceled from the start.
    `arguments_bytes` is the length of the arguments' canonical JSON, for who knows it.

    With a key that a pending job has, that one is canceled, or with `keep` its id is returned. Raises LimitReached for
    too many, or too large arguments, in one transaction: it can be caught, and what was scheduled before stays. The
    counters are not rolled back with a nested mutation (semantics A4).
    """
    count_scheduled(transaction, size_of(arguments))
    now_ms = transaction.now_ns / NS_PER_MS
    row: dict[str, object] = {"name": name_of(path), "scheduledTime": scheduled_ms}
    if options is not NO_OPTIONS and (kept := _kept_options(options)):
        row["_options"] = kept
    is_canceled = parent_job is not None and _is_canceled(transaction, parent_job)
    if is_canceled:
        row |= {"state": {"kind": CANCELED}, "completedTime": now_ms}
        if options.on_complete is not None:
            del row["completedTime"]
            row |= {"_pool": options.pool, "_due": DUE_NOW}
    else:
        holder = _holder(transaction, options.key)
        if holder is not None and options.keep:
            return cast("str", holder["_id"])
        if holder is not None:
            _cancel(transaction, holder)
        due = DUE_NOW if due_ns is None else Int64(due_ns)
        row |= {"state": {"kind": PENDING}, "_pool": options.pool, "_due": due}
        if options.key is not None:
            row["_mark"] = options.key
    if arguments_bytes is None:
        arguments_bytes = len(encode(arguments))
    if arguments_bytes > transaction.limits.scheduled_inline_arguments_bytes_max:
        row["_arguments"] = transaction.insert(SCHEDULED_ARGUMENTS, {"args": [arguments]})
    else:
        row["args"] = [arguments]
    return transaction.insert(SCHEDULED, row)


def cancel(transaction: Transaction, job_id: str, *, own_job: str | None = None) -> None:
    """A pending job will not run, a running action is interrupted; what has ended, or is gone, stays so.

    The completion function of the job is another function's code, and is not run in the transaction of the one that
    cancels: the row stays with the scheduler, which runs it next, exactly once. So does that of a running action, until
    its end is on record. `own_job` is the job on whose behalf
    this is asked for. Raises InvalidSchedule if it is this one; InvalidId.
    """
    if own_job is not None and job_id == own_job:
        raise InvalidSchedule("A mutation cannot cancel itself")
    check_job_id(job_id)
    row = read(transaction, job_id)
    if row is not None and row["state"]["kind"] in (PENDING, IN_PROGRESS):
        _cancel(transaction, row)


def _cancel(transaction: Transaction, row: Row) -> None:
    changes: dict[str, object] = {"state": {"kind": CANCELED}, "_mark": UNSET}
    if options_of(row).get("onComplete") is not None or row["state"]["kind"] == IN_PROGRESS:
        # Somebody has to be told, or the attempt that is interrupted to be put on record: its turn is by now.
        changes["_due"] = Int64(transaction.now_ns)
    else:
        changes |= {"completedTime": transaction.now_ns / NS_PER_MS, "_due": UNSET, "_pool": UNSET}
    with transaction.uncounted():
        transaction.patch(row["_id"], changes)


def check_job_id(job_id: object) -> None:
    """Raises InvalidId for what cannot be the id of a job."""
    if not isinstance(job_id, str):
        raise InvalidId(
            f"Invalid argument `id` for `scheduler.cancel`, expected string but got '{type_name(job_id)}': "
            f"{display(job_id)}"
        )
    try:
        number, _ = decode_id(job_id)
    except InvalidId as error:
        raise InvalidId(f"Invalid argument `id` for `db.cancel_job`: {error}") from None
    if number != SCHEDULED_NUMBER:
        raise InvalidId(f"Invalid scheduled function ID. The ID must be an ID on the '{SCHEDULED}' table.")


def _kept_options(options: JobOptions) -> dict[str, Value]:
    """Those that are not as usual; a row without any has no such field."""
    kept: dict[str, Value] = {}
    if options.pool != DEFAULT_POOL:
        kept["pool"] = options.pool
    if options.key is not None:
        kept["key"] = options.key
    if options.retry is not None:
        kept["retry"] = dict(options.retry)
    if options.on_complete is not None:
        kept["onComplete"] = options.on_complete
    return kept


def _holder(transaction: Transaction, key: str | None) -> Row | None:
    """The pending job of that key. Its absence is remembered too: of two who schedule at once, one is run again."""
    if key is None:
        return None
    with transaction.uncounted():
        return transaction.query(SCHEDULED).with_index(BY_MARK, _mark=key).first()


def count_scheduled(transaction: Transaction, arguments_bytes: int) -> None:
    """One more of what a mutation may schedule. Raises LimitReached."""
    limits = transaction.limits
    transaction.scheduled_count += 1
    transaction.scheduled_bytes += arguments_bytes
    if transaction.scheduled_count > limits.scheduled_per_mutation_max:
        raise LimitReached(
            f"Too many functions scheduled by this mutation (limit: {limits.scheduled_per_mutation_max}). "
            f"The setting is `scheduled_per_mutation_max`."
        )
    if transaction.scheduled_bytes > limits.scheduled_arguments_bytes_max:
        raise LimitReached(
            f"Too large total size of the arguments of scheduled functions from this mutation "
            f"(limit: {limits.scheduled_arguments_bytes_max} bytes). The setting is `scheduled_arguments_bytes_max`."
        )


def _is_canceled(transaction: Transaction, job_id: str) -> bool:
    row = read(transaction, job_id)
    return row is not None and row["state"]["kind"] == CANCELED


# --- states -----------------------------------------------------------------------------------------------------------


def begin(transaction: Transaction, job_id: str) -> bool:
    """Take a pending job in progress. False if it is not pending any more, and then it must not be run.

    In the transaction of the mutation that is the job. Its key is free from now on. That it is in progress is written
    only if somebody looks before it ends: see `job_endings.settle`.
    """
    row = read(transaction, job_id)
    if row is None or row["state"]["kind"] != PENDING:
        return False
    transaction.deferred.defer(
        document_key(*decode_id(job_id)), SCHEDULED_NUMBER, lambda: _put_begun(transaction, job_id)
    )
    return True


def mark_in_progress(transaction: Transaction, job_id: str) -> bool:
    """`begin` for an action, in a commit of its own: it is told when it was started."""
    row = read(transaction, job_id)
    if row is None or row["state"]["kind"] != PENDING:
        return False
    _put_begun(transaction, job_id, _started=transaction.now_ns / NS_PER_MS)
    return True


def _put_begun(transaction: Transaction, job_id: str, **changes: object) -> None:
    with transaction.uncounted():
        transaction.patch(job_id, {"state": {"kind": IN_PROGRESS}, "_mark": UNSET, **changes})


def end(
    transaction: Transaction,
    job_id: str,
    state: Mapping[str, Value],
    now_ms: float,
    changes: Mapping[str, object] | None = None,
) -> None:
    """Nothing is left to do for the job, whatever it was."""
    gone = {"_due": UNSET, "_pool": UNSET, "_started": UNSET}
    mark = now_ms if state["kind"] == FAILED else UNSET
    with transaction.uncounted():
        patch = {"state": dict(state), "completedTime": now_ms, **gone, "_mark": mark, **(changes or {})}
        transaction.patch(job_id, patch)


def retry(transaction: Transaction, job_id: str) -> bool:
    """A failed job is pending again and due now, with all its attempts on record. False if it is not a failed one.

    Its completion function hears of its new end as well. It has no key any more. Its turn is by now, behind what is due
    already; so its time is that of the clock, and not `DUE_NOW`.
    """
    row = read(transaction, job_id)
    if row is None or row["state"]["kind"] != FAILED:
        return False
    gone = ("completedTime", "completionError", "_mark", "_tries", "_deaths", "_started")
    options = {name: value for name, value in options_of(row).items() if name != "key"}
    due = {"state": {"kind": PENDING}, "_due": Int64(transaction.now_ns), "_pool": options.get("pool", DEFAULT_POOL)}
    with transaction.uncounted():
        transaction.patch(job_id, {**dict.fromkeys(gone, UNSET), "_options": options or UNSET, **due})
    return True


# --- rows -------------------------------------------------------------------------------------------------------------


def public_row(transaction: Transaction, row: Mapping[str, Any]) -> Row:
    """What functions see of a row. Reads long arguments from their own row."""
    shown = {name: value for name, value in row.items() if not name.startswith("_") or name in SYSTEM_FIELDS}
    shown["args"] = _arguments(transaction, row)
    return shown


def purge_completed(transaction: Transaction, *, before_ms: float, limit: int) -> int:
    """Delete up to `limit` jobs that ended before `before_ms`, with their arguments; returns how many."""
    with transaction.uncounted():
        ended = transaction.query(SCHEDULED).with_index(BY_COMPLETED, completedTime=Range(gte=0, lt=before_ms))
        rows = ended.take(limit)
        for row in rows:
            delete(transaction, row)
    return len(rows)


def delete(transaction: Transaction, row: Row) -> None:
    """The row and its arguments."""
    with transaction.uncounted():
        if "_arguments" in row:
            transaction.delete(row["_arguments"])
        transaction.delete(row["_id"])


def read(transaction: Transaction, job_id: str) -> Row | None:
    """The row, hidden fields and all."""
    with transaction.uncounted():
        return transaction.get(job_id)


def find(transaction: Transaction, job_id: str) -> Job | None:
    """The job if there is something left to do for it."""
    row = read(transaction, job_id)
    return None if row is None or "_due" not in row else job_of(transaction, row)


def job_of(transaction: Transaction, row: Row) -> Job:
    """A row with something left to do."""
    options = options_of(row)
    return Job(
        id=row["_id"],
        path=path_of(row["name"]),
        arguments=encode(_arguments(transaction, row)[0]),
        turn_ns=turn_ns(row),
        state=row["state"]["kind"],
        pool=row["_pool"],
        retry=options.get("retry"),
        on_complete=options.get("onComplete"),
        deaths=int(row.get("_deaths", 0)),
    )


def turn_ns(row: Mapping[str, Any]) -> float:
    """What is due at once takes its turn by when it was scheduled, or those due at their time might never have one."""
    return int(row["_due"]) or row["_creationTime"] * NS_PER_MS


def options_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", row.get("_options", {}))


def _arguments(transaction: Transaction, row: Mapping[str, Any]) -> list[Value]:
    if "args" in row:
        return cast("list[Value]", row["args"])
    with transaction.uncounted():
        kept = transaction.get(row["_arguments"])
    assert kept is not None, f"the arguments of job {row['_id']} are gone"
    return cast("list[Value]", kept["args"])


def name_of(path: str) -> str:
    """`messages:send` is shown as `messages.py:send`."""
    module, _, function = path.partition(":")
    return f"{module}.py:{function}"


def path_of(name: str) -> str:
    module, _, function = name.partition(":")
    return f"{module.removesuffix('.py')}:{function}"
