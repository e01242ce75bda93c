"""Validators beside a signature: `@mutation(args={"body": v.string()}, returns=v.null())`.

They win: where `args` is given, hints of parameters are only for people and type checkers, and `returns` takes the
place of the return hint. What they say and what the function can receive must agree, or it is an error at load.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from evolute.errors import DefinitionError
from evolute.values.containers import Field, ObjectOf, UnionOf, checked_fields, checked_validator
from evolute.values.validators import AnyValue, Describable, Validator

Args: TypeAlias = Mapping[str, Describable] | ObjectOf | UnionOf | AnyValue
Returns: TypeAlias = Validator | Mapping[str, Describable]


def checked_args(args: Args | None, function: str) -> ObjectOf | UnionOf | AnyValue | None:
    """The validator of all arguments. Raises DefinitionError naming the function and the parameter."""
    if args is None or isinstance(args, (ObjectOf, AnyValue)):
        return args
    if isinstance(args, UnionOf) and args.members:
        for member in args.members:
            if not isinstance(member, (ObjectOf, UnionOf)):
                raise DefinitionError(f"{function}: args is a union of v.object(…), and not of {member.describe()}")
            checked_args(member, function)
        return args
    if isinstance(args, Validator):
        raise DefinitionError(f"{function}: args is v.object(…), a union of these, or v.any(), not {args.describe()}")
    return ObjectOf(checked_fields(args, f"{function}: args"))


def all_fields(args: ObjectOf | UnionOf) -> ObjectOf:
    """What a call may give, whichever member of a union it is for: what some lack may be absent."""
    if isinstance(args, ObjectOf):
        return args
    members = [all_fields(member).fields for member in args.members if isinstance(member, (ObjectOf, UnionOf))]
    fields: dict[str, Field] = {}
    for name in sorted(set().union(*members)):
        given = [member[name] for member in members if name in member]
        optional = len(given) < len(members) or any(field.optional for field in given)
        fields[name] = Field(UnionOf(tuple(field.validator for field in given)), optional=optional)
    return ObjectOf(fields)


def checked_returns(returns: Returns | None, function: str) -> Validator | None:
    """The validator of the result. Raises DefinitionError naming the function."""
    if isinstance(returns, Mapping):
        return ObjectOf(checked_fields(returns, f"{function}: returns"))
    return None if returns is None else checked_validator(returns, f"{function}: returns")


def mismatches(
    args: ObjectOf, parameters: Mapping[str, inspect.Parameter], taken: Collection[str], *, rest: bool
) -> Iterator[str]:
    """Where `args` and the function's parameters, by their names outside, do not agree.

    `taken` are all names that Python can bind, the context's included; `rest` says whether there is a `**rest`.
    """
    for name, parameter in parameters.items():
        field = args.fields.get(name)
        if field is None:
            yield (
                f"parameter {parameter.name}: `args` does not name it, so no call could give it; "
                "add it to `args`, or remove the parameter"
            )
        elif field.optional and parameter.default is inspect.Parameter.empty:
            yield f"parameter {parameter.name}: `args` says that it may be absent, so it needs a default"
    for name in args.fields:
        if name in parameters:
            continue
        if name in taken:
            yield f"parameter {name}: `args` names it, but the function uses this name for something else"
        elif not rest:
            yield f"parameter {name}: `args` names it, but the function has no such parameter; add it, or `**rest`"
