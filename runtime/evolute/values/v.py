"""Validators as authors write them, where no type hint says what a value is: `from evolute import v`.

    args={"channel": v.id("channels"), "body": v.string(), "limit": v.optional(v.number())}

The functions have the names that Convex gives them, some of which are names of Python's too: they are used as
`v.any()`, never imported one by one. A number arrives as `int` if it is whole, else as `float`. Every mistake raises
DefinitionError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from evolute.errors import DefinitionError
from evolute.values.containers import (
    ArrayOf,
    Field,
    ObjectOf,
    RecordOf,
    UnionOf,
    checked_fields,
    checked_validator,
    is_record_key,
)
from evolute.values.pagination import OPTIONS, result_of
from evolute.values.validators import (
    AnyValue,
    Boolean,
    Bytes,
    Describable,
    IdOf,
    Int64Number,
    Literal,
    Null,
    Number,
    String,
    Validator,
)
from evolute.values.value import WHOLE_MAX, Int64


def any() -> AnyValue:
    """Any value."""
    return AnyValue()


def null() -> Null:
    """None."""
    return Null()


def boolean() -> Boolean:
    """True or False."""
    return Boolean()


def number() -> Number:
    """A float64, whole or not; never an Int64."""
    return Number()


def float64() -> Number:
    """The same as `number`."""
    return Number()


def int64() -> Int64Number:
    """An Int64."""
    return Int64Number()


def bigint() -> Int64Number:
    """The same as `int64`."""
    return Int64Number()


def commit_ts() -> Int64Number:
    """An Int64 that a mutation may leave to its commit, by storing COMMIT_TS."""
    return Int64Number()


def string() -> String:
    """A str."""
    return String()


def bytes() -> Bytes:
    """A bytes."""
    return Bytes()


def id(table: str) -> IdOf:
    """An id of this table, whether there is such a document or not."""
    if not isinstance(table, str):
        raise DefinitionError(f"v.id takes the name of a table, not {table!r}")
    return IdOf(table)


def literal(value: str | int | float | bool) -> Literal:
    """Exactly this value; an Int64 is one, too."""
    if not isinstance(value, (str, int, float)):
        raise DefinitionError(f"v.literal takes a str, a number, an Int64 or a bool, not {value!r}")
    if isinstance(value, int) and not isinstance(value, Int64) and abs(value) > WHOLE_MAX:
        raise DefinitionError(f"v.literal: {value} is beyond ±2^53, where numbers are not exact; use Int64({value})")
    if isinstance(value, float) and not math.isfinite(value):
        raise DefinitionError(f"v.literal: {value} is no number to compare with")
    return Literal(value)


def array(item: Validator) -> ArrayOf:
    """A list of such items."""
    return ArrayOf(checked_validator(item, "v.array"))


def object(fields: Mapping[str, Describable]) -> ObjectOf:
    """A dict with these fields and no others. It has `pick`, `omit`, `extend` and `partial`."""
    return ObjectOf(checked_fields(fields, "v.object"))


def record(keys: Validator, values: Validator) -> RecordOf:
    """A dict with any such keys, which are strings or ids, and such values."""
    if isinstance(keys, Field):
        raise DefinitionError("v.record: Record validator cannot have optional keys")
    if isinstance(values, Field):
        raise DefinitionError("v.record: Record validator cannot have optional values")
    if not is_record_key(checked_validator(keys, "v.record")):
        raise DefinitionError(f"v.record: keys are v.string(), v.id(…) or unions of these, not {keys.describe()}")
    return RecordOf(keys, checked_validator(values, "v.record"))


def union(*members: Validator) -> UnionOf:
    """What any of these accepts."""
    return UnionOf(tuple(checked_validator(member, "v.union") for member in members))


def nullable(validator: Validator) -> UnionOf:
    """The same, or None."""
    return UnionOf((checked_validator(validator, "v.nullable"), Null()))


def pagination_options() -> ObjectOf:
    """What the React hooks send as `paginationOpts`; it arrives as PaginationOptions."""
    return OPTIONS


def pagination_result(item: Validator) -> ObjectOf:
    """A page of such items: PaginationResult."""
    return result_of(checked_validator(item, "v.pagination_result"))


def optional(validator: Describable) -> Field:
    """A field that may be absent, which is not the same as None."""
    if isinstance(validator, Field):
        return Field(validator.validator, optional=True)
    return Field(checked_validator(validator, "v.optional"), optional=True)
