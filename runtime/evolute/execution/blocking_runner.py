"""Runs blocking actions, one after the other: inside a worker's process, or on a thread of a test.

The action is called where `run_action` is, and what it asks of the server is answered before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.clock import Clock, monotonic_ns
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.execution.action_call import given_out, refusal, taken_in
from evolute.execution.action_timer import ActionTimer
from evolute.execution.blocking_context import BlockingActionContext, BlockingAsk, blocking_calls
from evolute.execution.call_failure import INTERNAL_CODE, call_error
from evolute.execution.function_log import Captured, LogLines
from evolute.execution.limit_warnings import LimitWarnings
from evolute.execution.process_guard import ProcessGuard, builtins_changed
from evolute.execution.request import Call, CallError, CallResult, FunctionOutcome, FunctionRequest
from evolute.execution.snapshot_names import SnapshotNames
from evolute.limits import Limits
from evolute.registry.registry import Registry


class BlockingRunner:
    """`timer` limits the time of actions and `guard` puts back what they break, where each has a process of its own."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        clock: Clock,
        open_snapshot: Callable[[], Snapshot],
        timer: ActionTimer | None = None,
        guard: ProcessGuard | None = None,
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._warnings = LimitWarnings(limits)
        self._clock = clock
        self._names = SnapshotNames(open_snapshot, limits)
        self._timer = timer
        self._guard = guard

    def run_action(self, request: FunctionRequest, ask: BlockingAsk) -> FunctionOutcome:
        """Runs the request's one call to its end. Never raises for what the action does.

        The outcome is `exiting` if the action has ended in a way that leaves the process in doubt.
        """
        (call,) = request.calls
        refused = refusal(request, self._registry, blocking=True)
        if refused is not None:
            return FunctionOutcome(request.id, 0, (), refused=refused)
        lines = LogLines(self._limits)
        started_ns = monotonic_ns()
        value: bytes | None = None
        error: CallError | None = None
        broken = False
        try:
            value = self._invoke(call, lines, request.seed, ask)
        except BaseException as failure:
            fired = None if self._timer is None else self._timer.fired
            error = call_error(fired or failure, self._registry.package, self._limits)
            broken = fired is not None or isinstance(failure, MemoryError) or error.code == INTERNAL_CODE
        total_ns = monotonic_ns() - started_ns
        self._warnings.of_call(lines, call.arguments, value, total_ns, "action_ms_max")
        result = CallResult(value, error, lines.finish(), ReadSet(), total_ns, total_ns)
        return FunctionOutcome(request.id, 0, (result,), exiting=broken)

    def _invoke(self, call: Call, lines: LogLines, seed: bytes, ask: BlockingAsk) -> bytes:
        definition, named = taken_in(self._registry, call, self._names, self._limits)
        calls = blocking_calls(self._registry, self._limits, self._names, call, ask)
        context = BlockingActionContext(calls, self._clock, seed)
        timer = self._timer
        try:
            if timer is not None:
                timer.start()
            with Captured(lines):
                returned = definition.function.python(context, **named)
        finally:
            if timer is not None:
                timer.stop()
            calls.close()
            changed = self._guard.restore() if self._guard is not None else []
            if changed:
                raise builtins_changed(definition.path, changed)
        if timer is not None and timer.fired is not None:  # and the action has swallowed it
            raise timer.fired
        return given_out(definition, returned, self._names, self._limits)
