from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest

from evolute.registry.contexts import ActionCtx, MutationCtx, QueryCtx
from evolute.registry.decorators import (
    action,
    decorated_in,
    internal_action,
    internal_mutation,
    internal_query,
    mutation,
    query,
)
from evolute.registry.definition import Function


def test_each_decorator_gives_kind_and_visibility() -> None:
    def plain(ctx: Any) -> None: ...

    async def waiting(ctx: Any) -> None: ...

    decorated: list[Function[..., Any]] = [
        *[decorate(plain) for decorate in (query, internal_query, mutation, internal_mutation)],
        *[decorate(waiting) for decorate in (action, internal_action)],
    ]

    assert [(function.kind, function.visibility) for function in decorated] == [
        ("query", "public"),
        ("query", "internal"),
        ("mutation", "public"),
        ("mutation", "internal"),
        ("action", "public"),
        ("action", "internal"),
    ]
    assert [function.context for function in decorated[::2]] == [QueryCtx, MutationCtx, ActionCtx]


def test_a_decorated_function_knows_where_it_was_written() -> None:
    @query
    def find(ctx: QueryCtx, text: str) -> str:
        """Finds it."""
        return text

    assert (find.module, find.name, find.file) == (__name__, "find", __file__)
    assert find.line == inspect.getsourcelines(find.python)[1]
    assert find.__doc__ == "Finds it."
    assert list(inspect.signature(find).parameters) == ["ctx", "text"]
    assert repr(find) == f"<public query {__name__}:find>"


def test_it_can_be_called_with_a_context_in_unit_tests() -> None:
    @query
    def double(ctx: QueryCtx, n: int) -> int:
        return 2 * n

    @action
    async def triple(ctx: ActionCtx, n: int) -> int:
        return 3 * n

    assert double(object(), 2) == double(object(), n=2) == 4
    assert asyncio.run(triple(object(), n=2)) == 6


def test_a_wrapped_function_keeps_its_own_place() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    def find(ctx: QueryCtx) -> None: ...

    assert query(logged(find)).line == find.__code__.co_firstlineno


def test_only_plain_functions_are_decorated_and_only_once() -> None:
    def find(ctx: QueryCtx) -> None: ...

    with pytest.raises(TypeError, match="find is already a query; it cannot be a mutation too"):
        mutation(query(find))
    with pytest.raises(TypeError, match="@query decorates a function written with `def`, but this is of type partial"):
        query(functools.partial(find))


def test_a_module_remembers_what_was_decorated_in_it_even_when_shadowed() -> None:
    @query
    def find(ctx: QueryCtx) -> None: ...

    first = find

    @mutation  # type: ignore[no-redef]
    def find(ctx: MutationCtx) -> None: ...

    noted = decorated_in(sys.modules[__name__])
    assert noted[-2:] == [first, find]
