"""What `define_table` takes, and the validator that it becomes.

    define_table(Message)                        a row type: TypedDict, best a Document, or dataclass
    define_table(TextMessage | ImageMessage)     rows of one shape or another
    define_table({"body": v.string()})           a dict of validators, the same as v.object(…)
    define_table(v.union(v.object(…), …))        shapes again
    define_table(v.any())                        anything, as without an argument

The system fields are implied: a row type may declare them, for type checkers; a validator must not.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import UnionType
from typing import TypeAlias

from evolute.errors import DefinitionError
from evolute.values.annotations import Tables, row_validator
from evolute.values.containers import ObjectOf, UnionOf, checked_fields
from evolute.values.validators import AnyValue, Describable, Validator
from evolute.values.value import SYSTEM_FIELDS

Rows: TypeAlias = type | UnionType | Validator | Mapping[str, Describable]


def rows_validator(rows: Rows | None, tables: Tables) -> Validator:
    """What each row must match, without its system fields. Raises DefinitionError naming the field."""
    if rows is None:
        return AnyValue()
    if isinstance(rows, Mapping):
        rows = ObjectOf(checked_fields(rows, "define_table"))
    if isinstance(rows, Validator):
        _check(rows)
        return rows
    if isinstance(rows, type):
        return row_validator(rows, tables)
    if typing.get_origin(rows) in (UnionType, typing.Union):
        return UnionOf(tuple(row_validator(row, tables) for row in typing.get_args(rows)))
    raise DefinitionError(f"define_table takes a row type, validators or nothing, not {rows!r}")


def _check(validator: Validator) -> None:
    """A row is an object that holds no fields of the runtime's."""
    if isinstance(validator, UnionOf) and validator.members:
        for member in validator.members:
            _check(member)
        return
    if isinstance(validator, ObjectOf):
        for name in validator.fields:
            if name in SYSTEM_FIELDS:
                raise DefinitionError(f"field `{name}`: every row has it; leave it out")
            if name.startswith("_"):
                raise DefinitionError(
                    f"field `{name}`: Field '{name}' starts with an underscore, "
                    "which is only allowed for system fields like '_id'"
                )
        return
    if not isinstance(validator, AnyValue):
        raise DefinitionError(f"a row is v.object(…), a union of these, or v.any(), and not {validator.describe()}")
