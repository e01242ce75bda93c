"""The six decorators. Each turns a function into a typed function object and notes it in its own module.

The note is how the loader sees two functions of one name, of which Python keeps only the second. It lives in the
module's namespace and dies with it: nothing here is global.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any, Concatenate, ParamSpec, TypeVar

from evolute.registry.contexts import ActionCtx, MutationCtx, QueryCtx
from evolute.registry.definition import ActionFunction, Function, MutationFunction, QueryFunction

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Function[..., Any])

_NOTE = "__evolute_decorated__"


def query(function: Callable[Concatenate[QueryCtx, P], R], /) -> QueryFunction[P, R]:
    """A function that reads. Clients call it, and subscribe to its result."""
    return _noted(QueryFunction(function, "public", QueryCtx))


def internal_query(function: Callable[Concatenate[QueryCtx, P], R], /) -> QueryFunction[P, R]:
    """A query that only other functions may run."""
    return _noted(QueryFunction(function, "internal", QueryCtx))


def mutation(function: Callable[Concatenate[MutationCtx, P], R], /) -> MutationFunction[P, R]:
    """A function that reads and writes, all or nothing. It may run more than once, so it does nothing else."""
    return _noted(MutationFunction(function, "public", MutationCtx))


def internal_mutation(function: Callable[Concatenate[MutationCtx, P], R], /) -> MutationFunction[P, R]:
    """A mutation that only other functions and the scheduler may run."""
    return _noted(MutationFunction(function, "internal", MutationCtx))


def action(function: Callable[Concatenate[ActionCtx, P], Coroutine[Any, Any, R]], /) -> ActionFunction[P, R]:
    """An `async def` that may talk to the world. It reads and writes through queries and mutations it runs."""
    return _noted(ActionFunction(function, "public", ActionCtx))


def internal_action(function: Callable[Concatenate[ActionCtx, P], Coroutine[Any, Any, R]], /) -> ActionFunction[P, R]:
    """An action that only other functions and the scheduler may run."""
    return _noted(ActionFunction(function, "internal", ActionCtx))


def decorated_in(module: ModuleType) -> list[Function[..., Any]]:
    """Every function that was decorated in `module`, in order, those that were shadowed since included."""
    return list(vars(module).get(_NOTE, ()))


def _noted(function: F) -> F:
    function.python.__globals__.setdefault(_NOTE, []).append(function)
    return function
