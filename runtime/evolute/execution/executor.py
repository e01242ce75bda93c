"""The one door: every function call and every transaction of the server's own enters here.

Clients' calls, HTTP calls, scheduled jobs and the calls that actions make back all become a `Call`; the server's own
work is a plain function given to `run_system`. This is also the only place that retries:

    run on a snapshot ──► wait until the log has published that snapshot ──► commit ──► durable, published, answered
          ▲                                                                     │
          └── take a turn in the line of the key, wait for the winner ◄── Conflict

A transaction that keeps losing runs serially in the end: the committer holds all others for the length of one run. So
no mutation fails because of contention. Faults of functions are values (`Outcome.error`); what is raised here is
for whoever called: Overloaded, ShuttingDown, StorageFull, StorageFailed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from evolute.clock import NS_PER_MS, Clock, random_bytes
from evolute.database.database import Database
from evolute.database.fill import Fill
from evolute.database.read_set import ReadSet
from evolute.database.transaction import Transaction
from evolute.errors import (
    EvoluteError,
    FunctionCrashed,
    FunctionNotFound,
    FunctionTimedOut,
    LimitReached,
    OutOfRetention,
    Overtaken,
    Withdrawn,
    WorkerDied,
    WrongDeployment,
)
from evolute.execution.admission import Admission
from evolute.execution.attempts import FIRST, Attempted, Attempts, Mode, OnCommit
from evolute.execution.call_log import CallLog, CallLogEntry
from evolute.execution.callbacks import answer_callback
from evolute.execution.executor_statistics import ExecutorStatistics
from evolute.execution.query_cache import QueryBatch, QueryCache
from evolute.execution.query_result import QueryResult
from evolute.execution.request import (
    JOB_CHANGED,
    NOT_YET_KNOWN,
    WRONG_DEPLOYMENT,
    Call,
    CallError,
    CallResult,
    FunctionOutcome,
    Outcome,
    RequestKind,
)
from evolute.execution.runners import Runners
from evolute.limits import Limits
from evolute.registry.job_options import class_names
from evolute.registry.registry import RegistryReport
from evolute.storage.keyspace import DEPLOYMENT
from evolute.values.function_path import missing_text

T = TypeVar("T")
logger = logging.getLogger("evolute.executor")
_REFUSALS_MAX = 1000


@dataclass(frozen=True)
class SystemRun(Generic[T]):
    """What a transaction of the server's own gave, at `ts`: its commit, or its snapshot if it wrote nothing."""

    value: T
    ts: int
    read_set: ReadSet


class JobChanged(EvoluteError):
    """The job is no longer what the scheduler saw: cancelled, finished, or gone. Nothing was run."""


class Executor:
    """Lives on the event loop. `query_cache` is the session layer's way to ask for many queries at one timestamp.

    `width` is how many runs of a mutation are under way at a time if they get in each other's way.
    """

    def __init__(
        self, database: Database, runners: Runners, clock: Clock, limits: Limits, call_log: CallLog, width: int = 8
    ) -> None:
        self._database = database
        self._runners = runners
        self._clock = clock
        self._limits = limits
        self._call_log = call_log
        self._attempts = Attempts(database, limits, width)
        self._admission = Admission()
        self.query_cache = QueryCache(self._begin_queries, database.log, database.subscriptions, clock, limits)

    @property
    def report(self) -> RegistryReport:
        """The functions of the active deployment."""
        return self._runners.report

    # --- Calls -----------------------------------------------------------------------------------------------------

    async def query(self, call: Call) -> Outcome:
        """The query's answer now: every commit that was published before this call is in it."""
        with self._admission.admit(always=call.depth > 0):
            return _as_outcome(await self.query_cache.latest(call))

    async def query_at(self, call: Call, ts: int) -> Outcome:
        """The query's answer as of `ts`, which is published. Raises OutOfRetention if that cannot be known any more.

        The store keeps one snapshot, so the query is run on the latest, and the log is asked whether a commit after
        `ts` touched what it read.
        """
        with self._admission.admit():
            result = await self.query_cache.latest(call)
            if not result.good_at(ts) and self._database.log.first_published_touch(result.read_set, ts) is not None:
                raise OutOfRetention(
                    f"What '{call.path}' reads has changed since {ts}. Ask for the latest timestamp, and run all "
                    "queries that belong together again."
                )
            return _as_outcome(result)._replace(ts=ts)

    async def query_batch(self, calls: Sequence[Call]) -> dict[Call, Outcome]:
        """The answers of several queries at one time. Every commit that was published before this call is in them."""
        if not calls:
            return {}
        with self._admission.admit():
            results = await self.query_cache.latest_together(calls)
            return {call: _as_outcome(result) for call, result in results.items()}

    async def queries_at(
        self, stale: list[Call], held: list[QueryResult], *, at_least_ts: int
    ) -> tuple[int, dict[Call, QueryResult]]:
        """A session's queries at one timestamp; see `QueryCache.results_at`.

        Also while the executor drains: a mutation is over for its client only with the Transition that follows it.
        """
        with self._admission.admit(always=True):
            return await self.query_cache.results_at(stale, held, at_least_ts=at_least_ts)

    async def mutate(self, call: Call, *, on_commit: OnCommit | None = None) -> Outcome:
        """Runs the mutation to its end: committed, durable and published, or failed without an effect.

        `on_commit(commit_ts)` is called in the event-loop turn that publishes the commit. A call of a session that has
        been committed before answers as it did then. Raises JobChanged for a job that is no longer pending.
        """
        with self._admission.admit(always=call.depth > 0 or call.ending is not None):  # what has run is to be told
            started_ns = self._clock.now_ns()
            attempt = partial(self._attempt_mutation, call)
            ran, ts = await self._attempts.until_committed(attempt, on_commit, path=call.path)
            outcome = Outcome(ran.value, ran.error, ran.log_lines, ts)
            self._log_call(call, "mutation", started_ns, outcome)
            return outcome

    async def act(self, call: Call, *, nested: bool = False) -> Outcome:
        """Runs the action, at most once. `nested`: in a slot that the calling action or an `action_room` holds."""
        # A job, or a cron's run, is in progress already.
        with self._admission.admit(always=call.depth > 0 or call.job is not None or call.cron is not None):
            started_ns = self._clock.now_ns()
            try:
                ran = await self._run_action(call, nested=nested)
            except (FunctionTimedOut, FunctionCrashed, LimitReached, WorkerDied) as error:
                outcome = self.failed(error)
            else:
                result = ran.results[0]
                outcome = Outcome(result.value, result.error, result.log_lines, self._database.log.published_ts)
            self._log_call(call, "action", started_ns, outcome)
            return outcome

    def action_room(self, path: str) -> AbstractAsyncContextManager[int | None]:
        """Entered when the action could run at once; the room is kept for it while the block runs.

        It gives what the call has as its `place`. Waiting for it is no call under way: the executor drains without it.
        Raises ShuttingDown.
        """
        return self._runners.action_room(path)

    async def run_any(self, call: Call, *, on_commit: OnCommit | None = None) -> Outcome:
        """Runs a function of whatever kind it is of."""
        function = self.report.functions.get(call.path)
        if function is None or (call.public_only and function.visibility != "public"):
            text = missing_text(call.path) if call.public_only else f"Could not find function for '{call.path}'."
            return self.failed(FunctionNotFound(text))
        match function.kind:
            case "query":
                return await self.query(call)
            case "mutation":
                return await self.mutate(call, on_commit=on_commit)
            case "action":
                return await self.act(call)

    async def run_system(
        self,
        function: Callable[[Transaction], T],
        *,
        on_commit: OnCommit | None = None,
        fill: Fill | None = None,
        known: Callable[[], Awaitable[tuple[int, ReadSet]]] | None = None,
    ) -> SystemRun[T]:
        """Runs a function of ours on a snapshot in this process, with the same retries and the same committer.

        It may run more than once, and should touch at most `system_rows_per_run_max` rows, because it holds the loop.
        A `fill` is part of its commit. `known` is awaited before each run, and says up to which timestamp something
        else is known that must still be true when this is committed, and of which keys.
        """

        async def attempt(mode: Mode) -> Attempted[SystemRun[T]]:
            known_ts, known_keys = (sys.maxsize, ReadSet()) if known is None else await known()
            snapshot = self._database.snapshot()
            try:
                seed = random_bytes(32)
                now_ns = self._clock.now_ns()
                transaction = Transaction(snapshot, limits=self._limits, now_ns=now_ns, seed=seed, writable=True)
                value = function(transaction)
                write_set, read_set = transaction.write_set(), transaction.read_set
                transaction.close()
            finally:
                snapshot.close()
            await self._database.log.wait_published(snapshot.begin_ts)
            run = SystemRun(value, snapshot.begin_ts, read_set)
            return Attempted(run, min(snapshot.begin_ts, known_ts), read_set.union(known_keys), write_set, fill)

        with self._admission.admit(always=True):
            run, ts = await self._attempts.until_committed(attempt, on_commit)
            return SystemRun(run.value, ts, run.read_set)

    async def run_attempts(self, attempt: Callable[[Mode], Awaitable[Attempted[T]]]) -> T:
        """Runs a transaction of ours that has to wait for something, with the same retries and the same committer."""
        with self._admission.admit(always=True):
            return (await self._attempts.until_committed(attempt, None))[0]

    # --- Life ------------------------------------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether calls are refused, because the server is shutting down."""
        return self._admission.closing

    def held(self) -> AbstractContextManager[None]:
        """While in it, the drain waits: between calls that belong together, as those of a job that is in progress."""
        return self._admission.admit(always=True)

    async def drain(self, timeout_ms: int) -> None:
        """Takes no more calls, and waits until those that run have ended, for at most `timeout_ms`.

        What an action that runs calls is part of it, and still admitted.
        """
        await self._admission.drain(timeout_ms)

    def statistics(self) -> ExecutorStatistics:
        attempts = self._attempts
        return ExecutorStatistics(self._admission.count, attempts.in_line, attempts.conflicts, attempts.serial_runs)

    # --- Transactions ----------------------------------------------------------------------------------------------

    async def _attempt_mutation(self, call: Call, mode: Mode) -> Attempted[CallResult | Outcome]:
        try:
            ran = await self._run("mutation", (call,), mode=mode)
        except (FunctionTimedOut, FunctionCrashed, LimitReached) as error:
            # What it has seen of its chain may never have been, and may be why. After a death it sees none of that.
            if mode.fresh and not isinstance(error, FunctionCrashed):
                return await self._attempt_mutation(call, FIRST)
            outcome = self.failed(error)
            return Attempted(outcome, outcome.ts, ReadSet(), None)
        if ran.refused == JOB_CHANGED:
            raise JobChanged
        result = ran.results[0]
        begin_ts = ran.replayed_ts or ran.begin_ts  # what was replayed has happened then, and writes nothing now
        return Attempted(result, begin_ts, result.read_set, ran.write_set, None, ran.seen, ran.link)

    async def _run(
        self,
        kind: RequestKind,
        calls: tuple[Call, ...],
        *,
        mode: Mode = FIRST,
        deaths: int = 0,
        under_way: Awaitable[FunctionOutcome] | None = None,
    ) -> FunctionOutcome:
        """One run, with the code that belongs to its snapshot. The log has published that, unless the run wants to
        write: then it is told to nobody before it is durable itself, later than that. Raises Withdrawn, Conflict.
        """
        for _ in range(_REFUSALS_MAX):
            run = under_way or self._runners.run(kind, calls, urgent=mode.urgent, fresh=mode.fresh, deaths=deaths)
            try:
                outcome, under_way = await run, None
            except asyncio.CancelledError:
                _abandon(run)
                raise
            if outcome.write_set:  # to the committer in this very turn: outcomes of a chain come there in their order
                return outcome
            if outcome.begin_ts == 0:  # the worker could not even open a snapshot
                outcome = outcome._replace(begin_ts=self._database.log.published_ts)
            if outcome.refused == NOT_YET_KNOWN:
                raise Withdrawn
            if outcome.link is not None and outcome.link.after_id:
                if not outcome.results:  # and nothing is known of what it has read
                    raise Withdrawn
                seen = outcome.results[0].read_set, outcome.begin_ts, outcome.link
                outcome = outcome._replace(begin_ts=self._database.committer.require_seen(*seen))
            await self._database.log.wait_published(outcome.begin_ts)
            self._database.committer.require_standing(outcome.seen)
            if outcome.refused != WRONG_DEPLOYMENT:
                return outcome
        raise WrongDeployment

    async def _run_action(self, call: Call, *, nested: bool) -> FunctionOutcome:
        """A worker that has other code, or is not for it, refuses before anything has run: so it still runs once."""
        for _ in range(_REFUSALS_MAX):
            ran = await self._runners.run_action(call, self._answer_callback, nested=nested)
            if ran.refused is None:
                return ran
        raise WrongDeployment

    def _begin_queries(self, calls: tuple[Call, ...]) -> Callable[[], Awaitable[QueryBatch]]:
        return partial(self._finish_queries, calls, self._clock.now_ns(), self._runners.run("queries", calls))

    async def _finish_queries(
        self, calls: tuple[Call, ...], started_ns: int, under_way: Awaitable[FunctionOutcome]
    ) -> QueryBatch:
        batch = await self._run_batch(calls, under_way)
        for call, result in zip(calls, batch.results, strict=True):
            outcome = Outcome(result.value, result.error, result.log_lines, batch.begin_ts)
            self._log_call(call, "query", started_ns, outcome)
        return batch

    async def _run_batch(
        self, calls: tuple[Call, ...], under_way: Awaitable[FunctionOutcome] | None = None, *, again: bool = False
    ) -> QueryBatch:
        """Runs the calls in one snapshot. One that kills its worker fails alone, after a second death, by itself; if
        none of them does, something else has killed it, or all of them together: that shows when they run `again`."""
        try:
            ran = await self._run("queries", calls, under_way=under_way)
            return QueryBatch(ran.begin_ts, ran.results)
        except (FunctionTimedOut, FunctionCrashed, LimitReached, Overtaken) as error:
            failure = None if isinstance(error, Overtaken) else error
        killers: dict[Call, CallResult] = {}
        for call in calls if len(calls) > 1 else ():
            try:
                await self._run("queries", (call,), deaths=1)
            except (FunctionTimedOut, FunctionCrashed, LimitReached) as error:
                killers[call] = self._crashed(error, call)
        may_run_again = isinstance(failure, FunctionCrashed) and len(calls) > 1 and not again
        if failure and not killers and not may_run_again:  # it is one call, or they cannot do together what each can
            crashed = tuple(self._crashed(failure, call) for call in calls)
            return QueryBatch(self._database.log.published_ts, crashed)
        well = tuple(call for call in calls if call not in killers)
        again = again or (may_run_again and not killers)
        batch = await self._run_batch(well, again=again) if well else QueryBatch(self._database.log.published_ts, ())
        results = killers | dict(zip(well, batch.results, strict=True))
        return QueryBatch(batch.begin_ts, tuple(results[call] for call in calls))

    # --- Results ---------------------------------------------------------------------------------------------------

    def _crashed(self, error: EvoluteError, call: Call) -> CallResult:
        """Nothing is known of what a killed query read; new code is what can mend it."""
        read_set = ReadSet()
        read_set.add_point(DEPLOYMENT)
        return CallResult(None, CallError(str(error), None, error.code), (), read_set, journal=call.journal)

    def failed(self, error: EvoluteError) -> Outcome:
        failure = CallError(str(error), None, error.code, class_names(error))
        return Outcome(None, failure, (), self._database.log.published_ts)

    async def _answer_callback(self, parent: Call, operation: str, payload: Any) -> tuple[bool, Any]:
        try:
            return await answer_callback(self, self._limits, parent, operation, payload)
        except EvoluteError as error:
            return False, CallError(str(error), None, error.code).to_wire()
        except Exception as error:
            # The action waits for a reply; without one it would hang until its time limit.
            logger.exception("unexpected error while %s asked for %s", parent.path, operation)
            return False, CallError(f"{operation} failed unexpectedly: {type(error).__name__}").to_wire()

    def _log_call(self, call: Call, kind: str, started_ns: int, outcome: Outcome) -> None:
        duration_ms = (self._clock.now_ns() - started_ns) / NS_PER_MS
        error = None if outcome.error is None else outcome.error.message
        what = call.path, kind, started_ns, duration_ms, outcome.log_lines, error, call.job, call.session
        self._call_log.add(CallLogEntry(*what))


def _abandon(run: Awaitable[FunctionOutcome]) -> None:
    """Its caller is cancelled, perhaps in the moment in which it has ended."""
    if isinstance(run, asyncio.Future) and run.done() and not run.cancelled() and run.exception() is None:
        run.result().abandon()


def _as_outcome(result: QueryResult) -> Outcome:
    return Outcome(result.value, result.error, result.log_lines, result.begin_ts)
