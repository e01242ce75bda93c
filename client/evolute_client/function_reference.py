"""What to call: a function's path, or the decorated Python function itself, which says its types too.

    from todo import tasks

    await client.query("tasks:list_open")       anything
    await client.query(tasks.list_open)         list[Task], and its arguments are checked

The function is not run here: it is only named. Import it as the functions do among themselves, by the package name of
their folder.
"""

from __future__ import annotations

import keyword
from collections.abc import Coroutine, Mapping
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Named(Protocol):
    """What every decorated function has."""

    @property
    def kind(self) -> Literal["query", "mutation", "action"]: ...

    @property
    def module(self) -> str: ...

    @property
    def name(self) -> str: ...


class QueryReference(Protocol[P, R_co]):
    @property
    def kind(self) -> Literal["query"]: ...

    @property
    def module(self) -> str: ...

    @property
    def name(self) -> str: ...

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class MutationReference(Protocol[P, R_co]):
    @property
    def kind(self) -> Literal["mutation"]: ...

    @property
    def module(self) -> str: ...

    @property
    def name(self) -> str: ...

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class AsyncActionReference(Protocol[P, R_co]):
    @property
    def kind(self) -> Literal["action"]: ...

    @property
    def module(self) -> str: ...

    @property
    def name(self) -> str: ...

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...


class ActionReference(Protocol[P, R_co]):
    """Of a blocking action."""

    @property
    def kind(self) -> Literal["action"]: ...

    @property
    def module(self) -> str: ...

    @property
    def name(self) -> str: ...

    def __call__(self, ctx: Any, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


AnyFunction: TypeAlias = str | Named


def path_of(function: AnyFunction, kind: str | None = None) -> str:
    """Raises TypeError for a function of another kind than is called."""
    if isinstance(function, str):
        return function
    if kind is not None and function.kind != kind:
        raise TypeError(f"{function.module}:{function.name} is a {function.kind}, not a {kind}")
    _, _, module = function.module.partition(".")
    return f"{(module or function.module).replace('.', '/')}:{function.name}"


def named_arguments(
    function: AnyFunction, positional: tuple[object, ...], named: Mapping[str, object]
) -> Mapping[str, object]:
    """By the names that they have outside of Python: `from_` is `from`. Raises TypeError for one without a name."""
    if positional:
        raise TypeError(f"arguments of a function are given by name, but {positional[0]!r} has none")
    if isinstance(function, str):
        return named
    return {_outside_name(name): value for name, value in named.items()}


def _outside_name(parameter: str) -> str:
    stem = parameter.removesuffix("_")
    return stem if keyword.iskeyword(stem) else parameter
