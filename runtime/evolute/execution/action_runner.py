"""Runs actions: many at once on one event loop, each in a task and a context of its own.

An action may run for `action_ms_max`; then its task is cancelled and its error shows where it waited. One that blocks
the loop instead of waiting is interrupted by the `LoopWatchdog`. Tasks that it started and left running end with it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeAlias
from weakref import WeakSet

from evolute.clock import Clock, monotonic_ns
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.errors import TimeLimit
from evolute.execution.action_call import given_out, refusal, taken_in
from evolute.execution.action_context import ActionCalls, ActionContext, AskServer
from evolute.execution.call_failure import call_error, in_user_code
from evolute.execution.function_log import Captured, LogLines
from evolute.execution.limit_warnings import LimitWarnings
from evolute.execution.process_guard import ProcessGuard, builtins_changed
from evolute.execution.request import Call, CallError, CallResult, FunctionOutcome, FunctionRequest
from evolute.execution.snapshot_names import SnapshotNames
from evolute.execution.time_limits import user_limit_text
from evolute.limits import Limits
from evolute.registry.definition import FunctionDefinition
from evolute.registry.registry import Registry

CANCELLED = CallError("The action was cancelled by the server.", None, "ActionCancelled")

UserTask: TypeAlias = asyncio.Task[Any]

_running: ContextVar[RunningAction | None] = ContextVar("evolute_action", default=None)


class RunningAction:
    """One action while it runs. `tasks` are all that were started on its behalf, its own first task included."""

    def __init__(self) -> None:
        self.tasks: WeakSet[UserTask] = WeakSet()
        self.failure: BaseException | None = None
        self.cancelled = False

    def cancel_tasks(self) -> None:
        for task in list(self.tasks):
            task.cancel()


class ActionRunner:
    """Lives on one event loop, whose tasks it keeps apart by action."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        clock: Clock,
        open_snapshot: Callable[[], Snapshot],
        guard: ProcessGuard | None = None,
    ) -> None:
        self._guard = guard
        self._registry = registry
        self._limits = limits
        self._warnings = LimitWarnings(limits)
        self._clock = clock
        self._names = SnapshotNames(open_snapshot, limits)
        self._actions: dict[int, RunningAction] = {}

    async def run_action(self, request: FunctionRequest, ask: AskServer) -> FunctionOutcome:
        """Runs the request's one call to its end. Never raises for what the action does."""
        (call,) = request.calls
        refused = refusal(request, self._registry, blocking=False)
        if refused is not None:
            return FunctionOutcome(request.id, 0, (), refused=refused)
        action = self._actions[request.id] = RunningAction()
        lines = LogLines(self._limits)
        started_ns = monotonic_ns()
        value: bytes | None = None
        error: CallError | None = None
        try:
            value = await self._invoke(action, call, lines, request.seed, ask)
        except asyncio.CancelledError as failure:
            error = CANCELLED if action.cancelled else self._error(failure)
        except BaseException as failure:
            error = self._error(failure)
        finally:
            del self._actions[request.id]
        total_ns = monotonic_ns() - started_ns
        self._warnings.of_call(lines, call.arguments, value, total_ns, "action_ms_max")
        result = CallResult(value, error, lines.finish(), ReadSet(), total_ns, total_ns)
        return FunctionOutcome(request.id, 0, (result,))

    def cancel(self, request_id: int) -> None:
        """Ends the action at its next await, if it runs here."""
        action = self._actions.get(request_id)
        if action is not None:
            action.cancelled = True
            action.cancel_tasks()

    async def _invoke(self, action: RunningAction, call: Call, lines: LogLines, seed: bytes, ask: AskServer) -> bytes:
        definition, named = taken_in(self._registry, call, self._names, self._limits)
        calls = ActionCalls(self._registry, self._limits, self._names, call, ask)
        context = ActionContext(calls, self._clock, seed)
        try:
            returned = await self._within_limit(action, _user_code(action, definition, context, named, lines))
        finally:
            changed = self._guard.restore() if self._guard is not None else []
            unawaited = calls.close()
            action.cancel_tasks()
            if unawaited:
                lines.add(
                    "WARN",
                    f"{len(unawaited)} unawaited operation(s): [{', '.join(unawaited)}]. "
                    "Async operations should be awaited or they might not run.",
                )
            if changed:
                raise builtins_changed(definition.path, changed)
        return given_out(definition, returned, self._names, self._limits)

    async def _within_limit(self, action: RunningAction, code: Coroutine[Any, Any, object]) -> object:
        context = contextvars.copy_context()
        context.run(_running.set, action)
        task = asyncio.get_running_loop().create_task(code, context=context)
        action.tasks.add(task)
        done, _ = await asyncio.wait({task}, timeout=self._limits.action_ms_max / 1000)
        if done:
            return _outcome_of(task, action)
        task.cancel()
        await asyncio.wait({task})  # An action that does not end now is ended by the server, with this process.
        failure = action.failure
        trace = failure.__traceback__ if failure is not None else None
        raise TimeLimit(user_limit_text(self._limits.action_ms_max, "action_ms_max")).with_traceback(trace)

    def _error(self, failure: BaseException) -> CallError:
        return call_error(failure, self._registry.package, self._limits)


async def _user_code(
    action: RunningAction,
    definition: FunctionDefinition,
    context: ActionContext,
    named: dict[str, Any],
    lines: LogLines,
) -> object:
    """What the action raises is kept and not raised: SystemExit would end the event loop."""
    with Captured(lines):
        try:
            return await definition.function.python(context, **named)
        except BaseException as failure:
            action.failure = failure
            return None


def _outcome_of(task: UserTask, action: RunningAction) -> object:
    if action.failure is not None:
        raise action.failure
    return task.result()


def task_of_action(
    loop: asyncio.AbstractEventLoop, code: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> UserTask:
    """A task factory for the loop: a task belongs to the action that started it, directly or through others."""
    context: contextvars.Context | None = options.get("context")
    action = _running.get() if context is None else context.get(_running)
    task: UserTask = asyncio.Task(code, loop=loop, **options)
    if action is not None:
        action.tasks.add(task)
    return task


def interruptible(frame: FrameType | None, package: str) -> bool:
    """Whether an exception may be raised in `frame`: it runs for an action, and is not the runtime's own code."""
    if _running.get() is None:
        return False
    return in_user_code(frame, package, otherwise=True)
