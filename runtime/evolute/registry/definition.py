"""A function as its author wrote it, and as the runtime knows it.

    def send(ctx, channel: Id[Channel], body: str)      Python
         │ @mutation
    Function                 what the decorator returns: still callable, and a typed reference for `ctx.run_*`
         │ define()          at load, with the schema's tables
    FunctionDefinition       path and validators: turns arguments into keyword arguments, and results into values

The signature is the validator: parameters after `ctx` are the named arguments, one with a default may be left out,
`**rest` takes any further ones, the return annotation checks the result. `from_` is called `from` outside. Beside
`**rest`, write `ctx, /`: a further argument may then be called `ctx` too, and type checkers insist on it.
Explicit `args` and `returns` take the place of the hints (`explicit_validators.py`).
"""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar

from evolute.errors import DefinitionError, ValidationFailed
from evolute.registry.explicit_validators import Args, Returns, all_fields, checked_args, checked_returns, mismatches
from evolute.registry.job_options import Retry
from evolute.values.annotations import Tables, signature_hints, validator_for
from evolute.values.containers import Field, ObjectOf, UnionOf
from evolute.values.function_path import is_name
from evolute.values.pagination import PAGE_OF_ANYTHING, PaginationResult
from evolute.values.validators import AnyValue, Resolver, Validator
from evolute.values.value import Value

Kind = Literal["query", "mutation", "action"]
Visibility = Literal["public", "internal"]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Function(Generic[P, R_co]):
    """A decorated function: what other functions name when they run or schedule it.

    `python` is the function itself, `context` the class its first parameter has. `pool` and `retry` say how its jobs
    are run; `args` and `returns` are the explicit validators, if there are any. Equal only to itself.
    """

    kind: Kind

    def __init__(
        self,
        python: Callable[Concatenate[Any, P], Any],
        visibility: Visibility,
        context: type,
        *,
        pool: str | None = None,
        retry: Retry | None = None,
        args: Args | None = None,
        returns: Returns | None = None,
    ) -> None:
        kind, given = type(self).kind, type(python).__name__
        if isinstance(python, Function):
            raise TypeError(f"{python.name} is already a {python.kind}; it cannot be a {kind} too")
        if not isinstance(python, FunctionType):
            raise TypeError(f"@{kind} decorates a function written with `def`, but this is of type {given}")
        self.python = python
        self.visibility = visibility
        self.context = context
        self.pool = pool
        self.retry = retry
        self.args = checked_args(args, python.__name__)
        self.returns = checked_returns(returns, python.__name__)
        self.module = python.__module__
        self.name = python.__name__
        code = inspect.unwrap(python).__code__
        self.file, self.line = code.co_filename, code.co_firstlineno
        self.__wrapped__ = python
        self.__name__, self.__qualname__ = python.__name__, python.__qualname__
        self.__module__, self.__doc__ = python.__module__, python.__doc__

    def __repr__(self) -> str:
        return f"<{self.visibility} {self.kind} {self.module}:{self.name}>"


class QueryFunction(Function[P, R_co]):
    kind: Literal["query"] = "query"

    def __call__(self, ctx: object, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Runs the plain function in the caller's transaction; validators are skipped. Meant for unit tests."""
        result: R_co = self.python(ctx, *args, **kwargs)
        return result


class SchedulableFunction(Function[P, R_co]):
    """What `run_after` and `run_at` take."""


class MutationFunction(SchedulableFunction[P, R_co]):
    kind: Literal["mutation"] = "mutation"

    def __call__(self, ctx: object, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Runs the plain function in the caller's transaction; validators are skipped. Meant for unit tests."""
        result: R_co = self.python(ctx, *args, **kwargs)
        return result


class ActionFunction(SchedulableFunction[P, R_co]):
    """What `run_action` takes: an action of either form."""

    kind: Literal["action"] = "action"


class AsyncActionFunction(ActionFunction[P, R_co]):
    """An action that is an `async def`: many run side by side on the event loop of one process."""

    async def __call__(self, ctx: object, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Runs the plain function as part of the caller; validators are skipped. Meant for unit tests."""
        result: R_co = await self.python(ctx, *args, **kwargs)
        return result


class BlockingActionFunction(ActionFunction[P, R_co]):
    """An action that is a plain `def`: it has a process of its own while it runs."""

    def __call__(self, ctx: object, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Runs the plain function as part of the caller; validators are skipped. Meant for unit tests."""
        result: R_co = self.python(ctx, *args, **kwargs)
        return result


@dataclass(frozen=True)
class FunctionDefinition:
    """A function under its path. `parameters` maps the arguments whose Python name differs; `rest` checks further
    arguments, None refuses them. The arguments are one object, or one of several, which have no rest."""

    path: str
    function: Function[..., Any]
    arguments: ObjectOf | UnionOf
    returns: Validator
    parameters: Mapping[str, str]
    rest: Validator | None = None

    @property
    def kind(self) -> Kind:
        return self.function.kind

    @property
    def visibility(self) -> Visibility:
        return self.function.visibility

    @property
    def blocking(self) -> bool:
        """Whether it is an action that is run in a process of its own."""
        return isinstance(self.function, BlockingActionFunction)

    def bind(self, arguments: Mapping[str, Value], resolver: Resolver) -> dict[str, Any]:
        """The keyword arguments of one call. Raises ValidationFailed naming the field (E3)."""
        validator = self.arguments if self.rest is None else self._with_rest(self.rest, arguments)
        try:
            parsed = validator.parse(dict(arguments), resolver)
        except ValidationFailed as error:
            raise ValidationFailed(f"ArgumentValidationError: {error}") from None
        assert isinstance(parsed, dict)
        if not self.parameters:
            return parsed
        return {self.parameters.get(name, name): value for name, value in parsed.items()}

    def unbind(self, named: Mapping[str, object], resolver: Resolver) -> Value:
        """What `bind` takes, from the keyword arguments of a caller in Python. Raises ValidationFailed (E3)."""
        outside = {python: name for name, python in self.parameters.items()}
        arguments = {outside.get(name, name): value for name, value in named.items()}
        validator = self.arguments if self.rest is None else self._with_rest(self.rest, arguments)
        try:
            return validator.dump(arguments, resolver)
        except ValidationFailed as error:
            raise ValidationFailed(f"ArgumentValidationError: {error}") from None

    def result(self, returned: object, resolver: Resolver) -> Value:
        """What the function returned, as a value. Raises ValidationFailed naming the field (E3)."""
        returns = self.returns
        if isinstance(returned, PaginationResult) and isinstance(returns, AnyValue):
            returns = PAGE_OF_ANYTHING
        try:
            return returns.dump(returned, resolver)
        except ValidationFailed as error:
            raise ValidationFailed(f"ReturnsValidationError: {error}") from None

    def arguments_json(self) -> dict[str, Any]:
        return AnyValue().to_json() if self.rest is not None else self.arguments.to_json()

    def _with_rest(self, rest: Validator, arguments: Mapping[str, object]) -> ObjectOf:
        assert isinstance(self.arguments, ObjectOf), "a union has no rest"
        taken = {*self.arguments.fields, *self._names}
        further = [name for name in arguments if name not in taken]
        return ObjectOf({**self.arguments.fields, **{name: Field(rest) for name in further}})

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        """The names of Python's that `**rest` cannot receive."""
        parameters = inspect.signature(self.function.python).parameters.values()
        return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def define(function: Function[..., Any], path: str, tables: Tables) -> FunctionDefinition:
    """Reads the signature. Raises DefinitionError with one line for each fault: file, line, path, parameter."""
    reading = _SignatureReading(function, path.rpartition(":")[2], tables)
    reading.read()
    if reading.faults:
        where = f"{function.file}:{function.line} {path}"
        raise DefinitionError("\n".join(f"{where} {fault}" for fault in reading.faults))
    arguments = reading.union or ObjectOf(reading.fields)
    return FunctionDefinition(path, function, arguments, reading.returns, reading.parameters, reading.rest)


def named_arguments(
    definition: FunctionDefinition, positional: tuple[object, ...], named: Mapping[str, object]
) -> Mapping[str, object]:
    """Python lets a typed reference be called with arguments by position; functions receive them by name.

    Raises ValidationFailed for too many of them, and for one that is given twice.
    """
    if not positional:
        return named
    parameters = inspect.signature(definition.function.python).parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][1:]
    if len(positional) > len(names):
        raise ValidationFailed(
            f"ArgumentValidationError: {definition.path} takes {len(names)} arguments, but {len(positional)} were given"
        )
    by_position = dict(zip(names, positional, strict=False))
    for name in by_position:
        if name in named:
            raise ValidationFailed(f"ArgumentValidationError: {definition.path} was given `{name}` twice")
    return {**by_position, **named}


class _SignatureReading:
    """One pass over a signature, gathering what the definition needs and every fault on the way."""

    def __init__(self, function: Function[..., Any], name: str, tables: Tables) -> None:
        self.function = function
        self.name = name
        self.tables = tables
        self.hints: Mapping[str, object] = {}
        self.fields: dict[str, Field] = {}
        self.union: UnionOf | None = None
        self.parameters: dict[str, str] = {}
        self.rest: Validator | None = None
        self.returns: Validator = AnyValue()
        self.faults: list[str] = []

    def read(self) -> None:
        if not is_name(self.name):
            self.faults.append("has a name that clients cannot write: use ASCII letters, digits and `_`, at most 64")
        self.faults.extend(_faults_of_kind(self.function))
        args, returns = self.function.args, self.function.returns
        parameters = list(inspect.signature(self.function.python).parameters.values())
        unread = {parameter.name for parameter in parameters[1:]} if args is not None else set()
        if returns is not None:
            unread.add("return")
        try:
            self.hints = signature_hints(self.function.python, unread)
        except DefinitionError as error:
            self.faults.append(str(error).removeprefix(f"{self.function.python.__qualname__}, "))
        self.hints = {name: hint for name, hint in self.hints.items() if name not in unread}
        self._read_context(parameters[0] if parameters else None)
        for parameter in parameters[1:]:
            self._read_parameter(parameter)
        self.returns = self._validator("return", "return annotation") if returns is None else returns
        if args is not None:
            self._take(args, parameters)

    def _read_context(self, parameter: inspect.Parameter | None) -> None:
        context = self.function.context
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if parameter is None or parameter.kind not in positional:
            self.faults.append(f"has no context: its first parameter is `ctx: {context.__name__}`")
            return
        hint = self.hints.get(parameter.name)
        if isinstance(hint, type) and hint.__module__ == context.__module__ and hint not in context.__mro__:
            what = f"a {self.function.kind}'s context is a {context.__name__}, not a {hint.__name__}"
            if isinstance(self.function, BlockingActionFunction):
                what = (
                    f"an action written with `def` blocks, and its context is a {context.__name__}: write "
                    f"`{parameter.name}: {context.__name__}`, or `async def` and await what you call"
                )
            elif isinstance(self.function, AsyncActionFunction):
                what = (
                    f"an action written with `async def` has an {context.__name__}: write "
                    f"`{parameter.name}: {context.__name__}`, or drop `async`: a plain `def` may block"
                )
            self.faults.append(f"parameter {parameter.name}: {what}")

    def _read_parameter(self, parameter: inspect.Parameter) -> None:
        where = f"parameter {parameter.name}"
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            self.faults.append(f"{where}: arguments are given by name; `*{parameter.name}` can receive none")
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            self.faults.append(f"{where}: arguments are given by name; remove the `/` after it")
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            self.rest = self._validator(parameter.name, where)
        else:
            name = outside_name(parameter.name)
            if not name.isascii():
                self.faults.append(f"{where}: the name of an argument is ASCII")
            if name != parameter.name:
                self.parameters[name] = parameter.name
            optional = parameter.default is not inspect.Parameter.empty
            self.fields[name] = Field(self._validator(parameter.name, where), optional=optional)

    def _take(self, args: ObjectOf | UnionOf | AnyValue, parameters: list[inspect.Parameter]) -> None:
        """Explicit validators in place of what was read."""
        if isinstance(args, AnyValue):
            self._take_anything()
            return
        named = {outside_name(p.name): p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        taken = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        fields = all_fields(args)
        self.faults.extend(mismatches(fields, named, taken, rest=self.rest is not None))
        self.fields, self.rest = dict(fields.fields), None
        self.union = args if isinstance(args, UnionOf) else None

    def _take_anything(self) -> None:
        """`args=v.any()`: whatever a call gives, by whatever name, the function must be able to receive."""
        if self.rest is None:
            self.faults.append("has args=v.any(), so a call may name any argument: it needs `**rest` to receive them")
        for name, field in self.fields.items():
            if not field.optional:
                python = self.parameters.get(name, name)
                self.faults.append(f"parameter {python}: with args=v.any() it may be absent, so it needs a default")
            self.fields[name] = Field(AnyValue(), optional=True)
        self.rest = AnyValue()

    def _validator(self, name: str, where: str) -> Validator:
        if name not in self.hints:
            return AnyValue()
        try:
            return validator_for(self.hints[name], self.tables)
        except DefinitionError as error:
            self.faults.append(f"{where}: {error}")
            return AnyValue()


def _faults_of_kind(function: Function[..., Any]) -> Iterator[str]:
    """Queries and mutations are plain functions, actions may be coroutine functions, and none is a generator."""
    python, kind = function.python, function.kind
    if inspect.isgeneratorfunction(python) or inspect.isasyncgenfunction(python):
        yield f"is a generator; {'an' if kind == 'action' else 'a'} {kind} returns its result: return a list"
    elif kind != "action" and inspect.iscoroutinefunction(python):
        yield f"is a {kind} written with `async def`; drop `async`: its `ctx` calls are plain. To wait, use an action"


def outside_name(parameter: str) -> str:
    """`from_` is called `from`: a trailing underscore that only makes a keyword legal is not part of the name."""
    stem = parameter.removesuffix("_")
    return stem if keyword.iskeyword(stem) else parameter
