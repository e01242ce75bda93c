"""The six decorators. Each turns a function into a typed function object and notes it in its own module.

The note is how the loader sees two functions of one name, of which Python keeps only the second. It lives in the
module's namespace and dies with it: nothing here is global.

All take explicit validators, which win over type hints: `@query(args={"limit": v.number()}, returns=v.any())`.
Mutations and actions take options, which say how their jobs are run: `@action(pool="email", retry=Retry(attempts=3))`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from evolute.registry.contexts import ActionCtx, BlockingActionCtx, MutationCtx, QueryCtx
from evolute.registry.definition import (
    ActionFunction,
    AsyncActionFunction,
    BlockingActionFunction,
    Function,
    MutationFunction,
    QueryFunction,
    Visibility,
)
from evolute.registry.explicit_validators import Args, Returns
from evolute.registry.job_options import Retry

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Function[..., Any])

_NOTE = "__evolute_decorated__"


class QueryDecorator(Protocol):
    def __call__(self, function: Callable[Concatenate[QueryCtx, P], R], /) -> QueryFunction[P, R]: ...


class MutationDecorator(Protocol):
    def __call__(self, function: Callable[Concatenate[MutationCtx, P], R], /) -> MutationFunction[P, R]: ...


class ActionDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[Concatenate[ActionCtx, P], Coroutine[Any, Any, R]], /
    ) -> AsyncActionFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[BlockingActionCtx, P], R], /) -> BlockingActionFunction[P, R]: ...


@overload
def query(function: Callable[Concatenate[QueryCtx, P], R], /) -> QueryFunction[P, R]: ...
@overload
def query(*, args: Args | None = None, returns: Returns | None = None) -> QueryDecorator: ...
def query(function: Any = None, /, *, args: Args | None = None, returns: Returns | None = None) -> Any:
    """A function that reads. Clients call it, and subscribe to its result."""
    return _query(function, "public", args, returns)


@overload
def internal_query(function: Callable[Concatenate[QueryCtx, P], R], /) -> QueryFunction[P, R]: ...
@overload
def internal_query(*, args: Args | None = None, returns: Returns | None = None) -> QueryDecorator: ...
def internal_query(function: Any = None, /, *, args: Args | None = None, returns: Returns | None = None) -> Any:
    """A query that only other functions may run."""
    return _query(function, "internal", args, returns)


@overload
def mutation(function: Callable[Concatenate[MutationCtx, P], R], /) -> MutationFunction[P, R]: ...
@overload
def mutation(
    *, pool: str | None = None, args: Args | None = None, returns: Returns | None = None
) -> MutationDecorator: ...
def mutation(
    function: Any = None,
    /,
    *,
    pool: str | None = None,
    args: Args | None = None,
    returns: Returns | None = None,
) -> Any:
    """A function that reads and writes, all or nothing. It may run more than once, so it does nothing else.

    Jobs of it run in `pool`, one of `functions/pools.py`. Whatever crashes, a job of it happens exactly once.
    """
    return _mutation(function, "public", pool, args, returns)


@overload
def internal_mutation(function: Callable[Concatenate[MutationCtx, P], R], /) -> MutationFunction[P, R]: ...
@overload
def internal_mutation(
    *, pool: str | None = None, args: Args | None = None, returns: Returns | None = None
) -> MutationDecorator: ...
def internal_mutation(
    function: Any = None,
    /,
    *,
    pool: str | None = None,
    args: Args | None = None,
    returns: Returns | None = None,
) -> Any:
    """A mutation that only other functions and the scheduler may run."""
    return _mutation(function, "internal", pool, args, returns)


@overload
def action(function: Callable[Concatenate[ActionCtx, P], Coroutine[Any, Any, R]], /) -> AsyncActionFunction[P, R]: ...
@overload
def action(function: Callable[Concatenate[BlockingActionCtx, P], R], /) -> BlockingActionFunction[P, R]: ...
@overload
def action(
    *,
    pool: str | None = None,
    retry: Retry | None = None,
    args: Args | None = None,
    returns: Returns | None = None,
) -> ActionDecorator: ...
def action(
    function: Any = None,
    /,
    *,
    pool: str | None = None,
    retry: Retry | None = None,
    args: Args | None = None,
    returns: Returns | None = None,
) -> Any:
    """A function that may talk to the world. It reads and writes through queries and mutations it runs.

    An `async def` (`ctx: ActionCtx`) shares the event loop of its process with others. A plain `def` (`ctx:
    BlockingActionCtx`) has a process of its own for as long as it runs, so it may block and compute.

    It runs at most once: a job of it that fails, or that a crash cuts short, ends `failed`. With `retry`, a job of it
    is tried again and MAY RUN MORE THAN ONCE, so what it does outside must bear being done twice. Calls that are not
    jobs are never tried again. Jobs of it run in `pool`, one of `functions/pools.py`.
    """
    return _action(function, "public", pool, retry, args, returns)


@overload
def internal_action(
    function: Callable[Concatenate[ActionCtx, P], Coroutine[Any, Any, R]], /
) -> AsyncActionFunction[P, R]: ...
@overload
def internal_action(function: Callable[Concatenate[BlockingActionCtx, P], R], /) -> BlockingActionFunction[P, R]: ...
@overload
def internal_action(
    *,
    pool: str | None = None,
    retry: Retry | None = None,
    args: Args | None = None,
    returns: Returns | None = None,
) -> ActionDecorator: ...
def internal_action(
    function: Any = None,
    /,
    *,
    pool: str | None = None,
    retry: Retry | None = None,
    args: Args | None = None,
    returns: Returns | None = None,
) -> Any:
    """An action that only other functions and the scheduler may run. With `retry` it may run more than once."""
    return _action(function, "internal", pool, retry, args, returns)


def decorated_in(module: ModuleType) -> list[Function[..., Any]]:
    """Every function that was decorated in `module`, in order, those that were shadowed since included."""
    return list(vars(module).get(_NOTE, ()))


def _query(function: Any, visibility: Visibility, args: Args | None, returns: Returns | None) -> Any:
    def decorate(python: Any, /) -> QueryFunction[..., Any]:
        return _noted(QueryFunction(python, visibility, QueryCtx, args=args, returns=returns))

    return decorate if function is None else decorate(function)


def _mutation(
    function: Any, visibility: Visibility, pool: str | None, args: Args | None, returns: Returns | None
) -> Any:
    _check_options(pool, None)

    def decorate(python: Any, /) -> MutationFunction[..., Any]:
        return _noted(MutationFunction(python, visibility, MutationCtx, pool=pool, args=args, returns=returns))

    return decorate if function is None else decorate(function)


def _action(
    function: Any,
    visibility: Visibility,
    pool: str | None,
    retry: Retry | None,
    args: Args | None,
    returns: Returns | None,
) -> Any:
    _check_options(pool, retry)
    options: dict[str, Any] = {"pool": pool, "retry": retry, "args": args, "returns": returns}

    def decorate(python: Any, /) -> ActionFunction[..., Any]:
        if inspect.iscoroutinefunction(python) or isinstance(python, Function):  # which is an error, for any class
            return _noted(AsyncActionFunction(python, visibility, ActionCtx, **options))
        return _noted(BlockingActionFunction(python, visibility, BlockingActionCtx, **options))

    return decorate if function is None else decorate(function)


def _check_options(pool: object, retry: object) -> None:
    if pool is not None and not isinstance(pool, str):
        raise TypeError(f"`pool` is the name of a pool of functions/pools.py, not {pool!r}")
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"`retry` is a Retry(…), not {retry!r}")


def _noted(function: F) -> F:
    function.python.__globals__.setdefault(_NOTE, []).append(function)
    return function
