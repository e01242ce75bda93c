"""`ctx` of an action: no transaction, but calls back to the server, each a transaction of its own.

    await ctx.run_mutation(…) ─► ("callback", request, number, "run_mutation", Call) ─► executor
                              ◄─ ("reply", number, ok, canonical JSON or CallError) ◄──

Calls may run side by side, up to `action_calls_max`. What the other function raised is raised here: a ConvexError with
its data, anything else as `CalledFunctionFailed` with its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from random import Random
from threading import get_ident
from typing import Any, NoReturn, TypeAlias

from evolute.clock import NS_PER_MS, Clock
from evolute.errors import CalledFunctionFailed, ContextClosed, ConvexError, LimitReached
from evolute.execution.arguments import encode_arguments
from evolute.execution.context import ContextAuth, Reference, datetime_of
from evolute.execution.invocation import check_depth, check_kind
from evolute.execution.request import Call, CallError, Kind
from evolute.execution.schedule_options import NO_OPTIONS, Options, options_of
from evolute.execution.scheduling import Due, due_after, due_at, target_of
from evolute.execution.scope import RETURNED
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.system import jobs
from evolute.values import wire_codec
from evolute.values.validators import Resolver

# (operation, payload) -> (ok, payload); see `channel`.
AskServer: TypeAlias = Callable[[str, Any], Awaitable[tuple[bool, Any]]]


OTHER_THREAD = (
    "`ctx` of an action was used by another thread than the one of its event loop. Await it in the action, "
    "or hand it over with asyncio.run_coroutine_threadsafe."
)


class ActionCalls:
    """The calls of one action to the server, as long as it runs."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        resolver: Resolver,
        call: Call,
        ask: AskServer,
        other_thread: str = OTHER_THREAD,
    ) -> None:
        self.registry = registry
        self.limits = limits
        self.resolver = resolver
        self.call = call
        self._ask = ask
        self._other_thread = other_thread
        self._open = True
        self._thread = get_ident()
        self._running: Counter[str] = Counter()

    def close(self) -> list[str]:
        """The action has ended. Returns the names of calls that nobody has waited for."""
        self._open = False
        return sorted(self._running.elements())

    async def ask(self, operation: str, payload: Any) -> bytes:
        """The server's answer. Raises what the other function raised, ContextClosed, LimitReached."""
        if not self._open:
            raise ContextClosed(RETURNED)
        if get_ident() != self._thread:
            raise ContextClosed(self._other_thread)
        if self._running.total() >= self.limits.action_calls_max:
            raise LimitReached(
                f"Too many calls of `ctx` run side by side in one action (limit: {self.limits.action_calls_max}; "
                "the setting is action_calls_max)"
            )
        self._running[operation] += 1
        try:
            ok, answer = await self._ask(operation, payload)
        finally:
            self._running[operation] -= 1
        if ok:
            assert isinstance(answer, bytes)
            return answer
        error = CallError.from_wire(answer)
        if error.data is not None:
            raise ConvexError(wire_codec.decode_canonical(error.data))
        raise CalledFunctionFailed(error.message)


class ActionContext:
    """`ctx` of an action; see `registry.contexts.ActionCtx`."""

    def __init__(self, calls: ActionCalls, clock: Clock, seed: bytes) -> None:
        self._calls = calls
        self._clock = clock
        self._seed = seed
        self._random: Random | None = None
        self.auth = ContextAuth(calls.call.identity)
        self.scheduler = ActionContextScheduler(calls, clock)

    @property
    def now(self) -> datetime:
        return datetime_of(self._clock.now_ns())

    @property
    def now_ms(self) -> float:
        return self._clock.now_ns() / NS_PER_MS

    @property
    def random(self) -> Random:
        if self._random is None:
            self._random = Random(self._seed)
        return self._random

    async def run_query(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        return await self._run("query", function, args, kwargs)

    async def run_mutation(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        return await self._run("mutation", function, args, kwargs)

    async def run_action(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        return await self._run("action", function, args, kwargs)

    async def _run(
        self, kind: Kind, reference: Reference, positional: tuple[object, ...], named: Mapping[str, object]
    ) -> object:
        calls = self._calls
        definition = calls.registry.resolve(reference)
        check_kind(definition, kind)
        depth = calls.call.depth + 1
        check_depth(depth, calls.limits)
        arguments = encode_arguments(definition, positional, named, calls.resolver, calls.limits)
        call = Call(
            definition.path,
            arguments,
            kind,
            public_only=False,
            identity=calls.call.identity,
            parent_job=calls.call.job or calls.call.parent_job,
            depth=depth,
        )
        answer = await calls.ask(f"run_{kind}", call.to_wire())
        return definition.returns.parse(wire_codec.decode_canonical(answer), calls.resolver)

    def __getattr__(self, name: str) -> NoReturn:
        hints = {
            "db": ": an action reads and writes through ctx.run_query and ctx.run_mutation",
            "crons": ": a mutation makes and removes crons; run one with ctx.run_mutation",
        }
        hint = hints.get(name, "")
        raise AttributeError(f"`ctx` of an action has no {name!r}{hint}")


class ActionContextScheduler:
    """`ctx.scheduler` of an action: each call commits by itself."""

    def __init__(self, calls: ActionCalls, clock: Clock, options: Options = NO_OPTIONS) -> None:
        self._calls = calls
        self._clock = clock
        self._options = options

    def options(self, **given: object) -> ActionContextScheduler:
        return ActionContextScheduler(self._calls, self._clock, options_of(self._calls.registry, given))

    async def run_after(self, delay: object, function: Reference, /, *args: object, **kwargs: object) -> str:
        due = due_after(delay, self._clock.now_ns(), self._calls.limits)
        return await self._schedule(due, function, args, kwargs)

    async def run_at(self, time: object, function: Reference, /, *args: object, **kwargs: object) -> str:
        due = due_at(time, self._clock.now_ns(), self._calls.limits)
        return await self._schedule(due, function, args, kwargs)

    async def cancel(self, id: str, /) -> None:
        jobs.check_job_id(id)
        await self._calls.ask("cancel", id)

    async def _schedule(
        self, due: Due, reference: Reference, positional: tuple[object, ...], named: Mapping[str, object]
    ) -> str:
        calls = self._calls
        target = target_of(calls.registry, reference, positional, named, calls.resolver, calls.limits, self._options)
        payload = (target.path, target.arguments, due.due_ns, due.scheduled_ms, target.options.to_wire())
        answer = await calls.ask("schedule", payload)
        job = wire_codec.decode_canonical(answer)
        assert isinstance(job, str)
        return job
