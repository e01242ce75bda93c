"""Runs what a request asks for, on one snapshot: inside a worker, or in a test's own process.

Nothing here commits. A run gives plain data back: what it returned, what it read, what it wants to write. The active
deployment is read inside the snapshot, so code never runs on a snapshot that belongs to other code, and publishing new
code touches the read set of everything that the old code computed.
"""

from __future__ import annotations

import dataclasses

from evolute.clock import NS_PER_MS
from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.execution import side_effects
from evolute.execution.call_failure import INTERNAL_CODE, call_error
from evolute.execution.completion import CompletionSpoiled, completion_call
from evolute.execution.context import Attempt
from evolute.execution.function_log import Captured, LogLines
from evolute.execution.invocation import Invocation
from evolute.execution.journal import Journal
from evolute.execution.limit_warnings import LimitWarnings
from evolute.execution.process_guard import ProcessGuard, builtins_changed
from evolute.execution.request import (
    COMPLETION_FAILED,
    JOB_CHANGED,
    WRONG_DEPLOYMENT,
    Call,
    CallError,
    CallResult,
    FunctionOutcome,
    FunctionRequest,
    Refusal,
)
from evolute.execution.time_limits import CallClock
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.system import crons, deployments, jobs, sessions
from evolute.system.crons import Due
from evolute.system.job_endings import Ending, JobEnd, record_untold, settle


class Runner:
    """Runs queries and mutations of one deployment, one request at a time, on one thread.

    `clock` limits the time of calls if it is installed. `broken` is true once a call has ended in a way that leaves the
    process in doubt (a time limit, memory used up, a fault of the runtime, changed builtins): the worker then ends when
    it has answered.
    """

    def __init__(
        self, registry: Registry, limits: Limits, clock: CallClock | None = None, guard: ProcessGuard | None = None
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._warnings = LimitWarnings(limits)
        self._clock = clock or CallClock(limits)
        self._guard = guard
        self.broken = False
        side_effects.install()

    @property
    def package(self) -> str:
        """Whose frames errors show."""
        return self._registry.package

    def run(self, request: FunctionRequest, snapshot: Snapshot) -> FunctionOutcome:
        """Runs queries or a mutation; the snapshot stays the caller's to close."""
        if request.kind == "queries":
            return self.run_queries(request, snapshot)
        assert request.kind == "mutation", f"this lane runs no {request.kind}"
        return self.run_mutation(request, snapshot)

    def run_queries(self, request: FunctionRequest, snapshot: Snapshot) -> FunctionOutcome:
        """Every call in the same snapshot, each with its own read set. One that raises fails alone."""
        results: list[CallResult] = []
        for number, call in enumerate(request.calls):
            transaction = Transaction(
                snapshot,
                limits=self._limits,
                now_ns=request.now_ns,
                seed=request.seed + number.to_bytes(4, "big"),
                writable=False,
                schema=self._registry.schema,
            )
            try:
                if not self._is_active(request, transaction):
                    return _refused(request, snapshot, WRONG_DEPLOYMENT)
                results.append(self._run_call(request, call, transaction))
            finally:
                transaction.close()
        return FunctionOutcome(request.id, snapshot.begin_ts, tuple(results), exiting=self.broken, seen=snapshot.seen)

    def run_mutation(self, request: FunctionRequest, snapshot: Snapshot) -> FunctionOutcome:
        """The request's one call, unless its session shows that it has been committed before."""
        (call,) = request.calls
        transaction = Transaction(
            snapshot,
            limits=self._limits,
            now_ns=request.now_ns,
            seed=request.seed,
            writable=True,
            schema=self._registry.schema,
        )
        try:
            if not self._is_active(request, transaction):
                return _refused(request, snapshot, WRONG_DEPLOYMENT)
            if call.session is not None:
                record = sessions.find(transaction, *call.session)
                if record is not None:
                    replayed = CallResult(record.value, None, tuple(record.log_lines), transaction.read_set)
                    seen, replayed_ts = snapshot.seen, record.commit_ts
                    return FunctionOutcome(
                        request.id, snapshot.begin_ts, (replayed,), replayed_ts=replayed_ts, seen=seen
                    )
            if call.job is not None:
                due = self._begin_job(call, transaction)
                if due is None:
                    return _refused(request, snapshot, JOB_CHANGED)
                call = due
            if call.cron is not None and not crons.begin(transaction, Due(*call.cron), call.path, call.arguments):
                return _refused(request, snapshot, JOB_CHANGED)
            result = self._run_call(request, call, transaction)
            write_set = transaction.write_set() if result.error is None else None
            seen, exiting = snapshot.seen, self.broken
            return FunctionOutcome(request.id, snapshot.begin_ts, (result,), write_set, exiting=exiting, seen=seen)
        finally:
            transaction.close()

    def _begin_job(self, call: Call, transaction: Transaction) -> Call | None:
        """The call to run for a job: itself, or its completion function. None if the job is not what it was."""
        assert call.job is not None
        if call.ending is None or call.ending.untold is not None:
            return call if jobs.begin(transaction, call.job) else None
        end = settle(transaction, call.job, call.ending)
        return None if end is None else completion_call(self._registry, call.path, end)

    def _is_active(self, request: FunctionRequest, transaction: Transaction) -> bool:
        """Whether the snapshot belongs to the code that is loaded here; the record is read first, and remembered."""
        return deployments.active(transaction) == self._registry.deployment == request.deployment

    def _run_call(self, request: FunctionRequest, call: Call, transaction: Transaction) -> CallResult:
        limits, clock, lines = self._limits, self._clock, LogLines(self._limits)
        journal = Journal(call.journal)
        attempt = Attempt(
            self._registry, limits, clock, transaction, call, request.now_ns, request.seed, journal=journal
        )
        value: bytes | None = None
        error: CallError | None = None
        try:
            value = self._invoke(attempt, lines, is_query=request.kind == "queries")
            if request.kind == "mutation":
                self._record_success(attempt, value, lines)
            if transaction.poisoned is not None:  # and the function swallowed the error
                raise transaction.poisoned
        except BaseException as failure:
            self.broken = self.broken or clock.fired is not None or isinstance(failure, MemoryError)
            told = failure.failure if isinstance(failure, CompletionSpoiled) else failure
            value, error = None, call_error(clock.fired or told, self.package, limits)
            if told is not failure:
                error = dataclasses.replace(error, code=COMPLETION_FAILED)
            self.broken = self.broken or error.code == INTERNAL_CODE
        read_set, noted = transaction.read_set, journal.result if request.kind == "queries" else None
        times_ns = clock.user_ns, clock.total_ns
        return CallResult(value, error, lines.finish(), read_set, *times_ns, noted, attempt.saw_identity)

    def _invoke(self, attempt: Attempt, lines: LogLines, *, is_query: bool = False) -> bytes:
        limits, clock = self._limits, self._clock
        setting = "query_user_ms_max" if is_query else "mutation_user_ms_max"
        clock.start(getattr(limits, setting), setting)
        value: bytes | None = None
        try:
            with Captured(lines), side_effects.Refused():
                value = Invocation(attempt).outermost()
        finally:
            changed = self._guard.restore() if self._guard is not None else []
            clock.stop()
            self._warnings.of_transaction(lines, attempt, value, clock.user_ns, setting)
            if changed:
                self.broken = True
                raise builtins_changed(attempt.call.path, changed)
        if clock.fired is not None:
            raise clock.fired
        return value

    def _record_success(self, attempt: Attempt, value: bytes, lines: LogLines) -> None:
        """The result of a session's mutation, the end of a job or of a cron's run are part of its own transaction."""
        call, transaction = attempt.call, attempt.transaction
        if call.session is not None:
            sessions.record(transaction, *call.session, value, lines.finish())
        if call.job is not None:
            self._end_job(attempt, call.job, value, lines)
        if call.cron is not None:
            ended_ns = attempt.now_ns + self._clock.total_ns
            run = crons.Run(value, None, lines.finish(), self._clock.total_ns / NS_PER_MS, ended_ns)
            crons.end(transaction, Due(*call.cron), run)

    def _end_job(self, attempt: Attempt, job_id: str, value: bytes, lines: LogLines) -> None:
        """The terminal state, and the completion function if there is one to run."""
        untold = None if attempt.call.ending is None else attempt.call.ending.untold
        now_ms = (attempt.now_ns + self._clock.total_ns) / NS_PER_MS
        end = settle(attempt.transaction, job_id, Ending("success", value), now_ms=now_ms, untold=untold)
        assert end is not None, "it was begun in this transaction"
        if end.on_complete is not None:
            self._complete(attempt, end.on_complete, end, lines)

    def _complete(self, attempt: Attempt, path: str, end: JobEnd, lines: LogLines) -> None:
        """Runs the completion function in the job's own transaction. What it raises is recorded, and undone.

        Raises CompletionSpoiled for what cannot be undone: a limit that it reached, memory that it used up.
        """
        transaction = attempt.transaction
        savepoint = transaction.savepoint()
        try:
            call = completion_call(self._registry, path, end)
            self._invoke(dataclasses.replace(attempt, call=call, seed=attempt.seed + b"completion"), lines)
            if transaction.poisoned is not None:  # and the function swallowed the error
                raise transaction.poisoned
        except BaseException as failure:
            if self._clock.fired is not None or transaction.poisoned is not None or not isinstance(failure, Exception):
                raise CompletionSpoiled(failure) from None
            transaction.rollback(savepoint)
            record_untold(transaction, end.id, call_error(failure, self.package, self._limits).message)


def _refused(request: FunctionRequest, snapshot: Snapshot, refusal: Refusal) -> FunctionOutcome:
    return FunctionOutcome(request.id, snapshot.begin_ts, (), refused=refusal, seen=snapshot.seen)
