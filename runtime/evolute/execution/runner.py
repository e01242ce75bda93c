"""Runs what a request asks for, on one snapshot: inside a worker, or in a test's own process.

Nothing here commits. A run gives plain data back: what it returned, what it read, what it wants to write. The active
deployment is read inside the snapshot, so code never runs on a snapshot that belongs to other code, and publishing new
code touches the read set of everything that the old code computed.
"""

from __future__ import annotations

from evolute.clock import NS_PER_MS
from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.execution import side_effects
from evolute.execution.call_failure import INTERNAL_CODE, call_error
from evolute.execution.context import Attempt
from evolute.execution.function_log import LogLines, captured
from evolute.execution.invocation import Invocation
from evolute.execution.process_guard import ProcessGuard, builtins_changed
from evolute.execution.request import (
    JOB_CHANGED,
    WRONG_DEPLOYMENT,
    Call,
    CallError,
    CallResult,
    FunctionOutcome,
    FunctionRequest,
)
from evolute.execution.time_limits import CallClock
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.system import deployments, jobs, sessions


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
                    return FunctionOutcome(request.id, snapshot.begin_ts, (), refused=WRONG_DEPLOYMENT)
                results.append(self._run_call(request, call, transaction))
            finally:
                transaction.close()
        return FunctionOutcome(request.id, snapshot.begin_ts, tuple(results), exiting=self.broken)

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
                return FunctionOutcome(request.id, snapshot.begin_ts, (), refused=WRONG_DEPLOYMENT)
            if call.session is not None:
                record = sessions.find(transaction, *call.session)
                if record is not None:
                    replayed = CallResult(record.value, None, tuple(record.log_lines), transaction.read_set)
                    return FunctionOutcome(request.id, snapshot.begin_ts, (replayed,), replayed_ts=record.commit_ts)
            if call.job is not None and jobs.begin(transaction, call.job) is None:
                return FunctionOutcome(request.id, snapshot.begin_ts, (), refused=JOB_CHANGED)
            result = self._run_call(request, call, transaction)
            write_set = transaction.write_set() if result.error is None else None
            return FunctionOutcome(request.id, snapshot.begin_ts, (result,), write_set, exiting=self.broken)
        finally:
            transaction.close()

    def _is_active(self, request: FunctionRequest, transaction: Transaction) -> bool:
        """Whether the snapshot belongs to the code that is loaded here; the record is read first, and remembered."""
        return deployments.active(transaction) == self._registry.deployment == request.deployment

    def _run_call(self, request: FunctionRequest, call: Call, transaction: Transaction) -> CallResult:
        limits, clock, lines = self._limits, self._clock, LogLines(self._limits)
        attempt = Attempt(self._registry, limits, clock, transaction, call, request.now_ns, request.seed)
        value: bytes | None = None
        error: CallError | None = None
        try:
            value = self._invoke(attempt, lines, is_query=request.kind == "queries")
            if request.kind == "mutation":
                self._record_success(attempt, value, lines.finish())
            if transaction.poisoned is not None:  # and the function swallowed the error
                raise transaction.poisoned
        except BaseException as failure:
            self.broken = self.broken or clock.fired is not None or isinstance(failure, MemoryError)
            value, error = None, call_error(clock.fired or failure, self.package, limits)
            self.broken = self.broken or error.code == INTERNAL_CODE
        return CallResult(value, error, lines.finish(), transaction.read_set, clock.user_ns, clock.total_ns)

    def _invoke(self, attempt: Attempt, lines: LogLines, *, is_query: bool) -> bytes:
        limits, clock = self._limits, self._clock
        if is_query:
            clock.start(limits.query_user_ms_max, "query_user_ms_max")
        else:
            clock.start(limits.mutation_user_ms_max, "mutation_user_ms_max")
        try:
            with captured(lines), side_effects.refused():
                value = Invocation(attempt).outermost()
        finally:
            changed = self._guard.restore() if self._guard is not None else []
            clock.stop()
            if changed:
                self.broken = True
                raise builtins_changed(attempt.call.path, changed)
        if clock.fired is not None:
            raise clock.fired
        return value

    def _record_success(self, attempt: Attempt, value: bytes, log_lines: tuple[str, ...]) -> None:
        """The result of a session's mutation, or the end of a job, is part of its own transaction."""
        call, transaction = attempt.call, attempt.transaction
        if call.session is not None:
            sessions.record(transaction, *call.session, value, log_lines)
        if call.job is not None:
            jobs.succeed(transaction, call.job, (attempt.now_ns + self._clock.total_ns) / NS_PER_MS)
