"""`ctx` of a blocking action: that of an action, each of whose calls is waited for where it is made.

The context is `ActionContext` itself. Its coroutines wait for one thing only, the answer of the server, and the `ask`
of a blocking action returns when that has come: so they run to their end in one step, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime
from random import Random
from typing import Any, NoReturn, TypeAlias, TypeVar

from evolute.clock import Clock
from evolute.execution.action_context import ActionCalls, ActionContext, ActionContextScheduler, AskServer
from evolute.execution.context import Reference
from evolute.execution.request import Call
from evolute.execution.scope import OTHER_THREAD
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.values.validators import Resolver

# (operation, payload) -> (ok, payload), when the server has answered; see `channel`.
BlockingAsk: TypeAlias = Callable[[str, Any], tuple[bool, Any]]
T = TypeVar("T")


def blocking_calls(registry: Registry, limits: Limits, resolver: Resolver, call: Call, ask: BlockingAsk) -> ActionCalls:
    return ActionCalls(registry, limits, resolver, call, _as_coroutine(ask), OTHER_THREAD)


def _as_coroutine(ask: BlockingAsk) -> AskServer:
    async def answered(operation: str, payload: Any) -> tuple[bool, Any]:
        return ask(operation, payload)

    return answered


def _result(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, which waits for nothing but a blocking `ask`. Raises what it raises."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("a call of a blocking action waited for something else than the server")


class BlockingActionContext:
    """See `registry.contexts.BlockingActionCtx`."""

    def __init__(self, calls: ActionCalls, clock: Clock, seed: bytes) -> None:
        self._context = ActionContext(calls, clock, seed)
        self.auth = self._context.auth
        self.scheduler = BlockingContextScheduler(self._context.scheduler)

    @property
    def now(self) -> datetime:
        return self._context.now

    @property
    def now_ms(self) -> float:
        return self._context.now_ms

    @property
    def random(self) -> Random:
        return self._context.random

    def run_query(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        return _result(self._context.run_query(function, *args, **kwargs))

    def run_mutation(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        return _result(self._context.run_mutation(function, *args, **kwargs))

    def run_action(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        return _result(self._context.run_action(function, *args, **kwargs))

    def __getattr__(self, name: str) -> NoReturn:
        self._context.__getattr__(name)


class BlockingContextScheduler:
    """`ctx.scheduler` of a blocking action."""

    def __init__(self, scheduler: ActionContextScheduler) -> None:
        self._scheduler = scheduler

    def options(self, **given: object) -> BlockingContextScheduler:
        return BlockingContextScheduler(self._scheduler.options(**given))

    def run_after(self, delay: object, function: Reference, /, *args: object, **kwargs: object) -> str:
        return _result(self._scheduler.run_after(delay, function, *args, **kwargs))

    def run_at(self, time: object, function: Reference, /, *args: object, **kwargs: object) -> str:
        return _result(self._scheduler.run_at(time, function, *args, **kwargs))

    def cancel(self, id: str, /) -> None:
        _result(self._scheduler.cancel(id))
