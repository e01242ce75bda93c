"""Type hints become validators: what an author may write as an annotation, and what it means.

    None  bool  str  bytes  Int64         themselves
    int                                   a number that must be whole, and arrives as int
    float                                 any number; arrives as float
    list[X]  dict[str, X]                 arrays and records; bare ones hold anything
    Literal["a", 1, True]                 these values
    X | None  Optional[X]  Union[X, Y]    any of them
    TypedDict  dataclass                  an object; if it is a row type of the schema or a Document, the document
    pydantic model  msgspec Struct        the same, where these libraries are used
    Id[Row]  Id["table"]  Id              an id of that table, or of any
    PaginationOptions                     the argument `paginationOpts` of a paginated query
    PaginationResult[X]                   a page of these
    Any  object                           any value

`Annotated[X, …]` is X. Anything else is a DefinitionError, which says where inside the hint it was found.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

from evolute.errors import DefinitionError
from evolute.values.containers import ArrayOf, Field, ObjectOf, RecordOf, UnionOf, field_name_fault, is_record_key
from evolute.values.pagination import OPTIONS, PAGE_OF_ANYTHING, PaginationOptions, PaginationResult, result_of
from evolute.values.row_types import RowType, row_type, unresolved
from evolute.values.validators import (
    AnyValue,
    Boolean,
    Bytes,
    IdOf,
    Int64Number,
    Literal,
    Null,
    Number,
    String,
    Validator,
)
from evolute.values.value import SYSTEM_FIELDS, Id, Int64

_PLAIN: Final[Mapping[object, Validator]] = {
    None: Null(),
    types.NoneType: Null(),
    bool: Boolean(),
    int: Number(whole=True),
    float: Number(as_float=True),
    str: String(),
    bytes: Bytes(),
    Int64: Int64Number(),
    Any: AnyValue(),
    object: AnyValue(),
    inspect.Parameter.empty: AnyValue(),
    list: ArrayOf(AnyValue()),
    dict: RecordOf(String(), AnyValue()),
    Id: IdOf(None),
    PaginationOptions: OPTIONS,
    PaginationResult: PAGE_OF_ANYTHING,
}


class Tables(Protocol):
    """Which row types the schema knows."""

    def name_of(self, row: type) -> str | None: ...


def validator_for(hint: object, tables: Tables) -> Validator:
    """The validator of a resolved type hint, or of `inspect.Parameter.empty`.

    Raises DefinitionError for a hint that is not understood; the caller adds the function and the parameter.
    """
    return _validator(hint, tables, ())


def row_validator(row: type, tables: Tables) -> ObjectOf:
    """The fields that the author of a row type declares, without the system fields.

    Raises DefinitionError if it is neither TypedDict nor dataclass, or for a field that no document can have.
    """
    known = row_type(row)
    if known is None:
        raise DefinitionError(f"{_shown(row)} is not understood as a row type; use a TypedDict or a dataclass")
    fields = _fields(known, tables, ())
    for name in fields:
        if name.startswith("_") and name not in SYSTEM_FIELDS:
            raise DefinitionError(
                f"{_place(row, name)}: Field '{name}' starts with an underscore, "
                "which is only allowed for system fields like '_id'"
            )
    return ObjectOf({name: field for name, field in fields.items() if name not in SYSTEM_FIELDS}, row)


def signature_hints(python_function: Callable[..., object], unread: Collection[str] = ()) -> dict[str, object]:
    """The resolved hints of a function's parameters, and its `return` hint; what has no annotation is not in it.

    Those of `unread` may be missing, too, if not all can be resolved.

    Raises DefinitionError naming the function, the parameter and the name that cannot be resolved.
    """
    try:
        return typing.get_type_hints(python_function, include_extras=True)
    except Exception:
        annotations = inspect.get_annotations(python_function)
        scope = getattr(inspect.unwrap(python_function), "__globals__", {})
    hints: dict[str, object] = {}
    for name, annotation in annotations.items():
        if name in unread:
            continue
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, globalns=scope, include_extras=True)
        except Exception as error:
            which = "return annotation" if name == "return" else f"parameter `{name}`"
            where = f"{getattr(python_function, '__qualname__', python_function)}, {which}"
            raise DefinitionError(f"{where}: the annotation {_shown(annotation)} {unresolved(error)}") from error
    return hints


# --- Hints ------------------------------------------------------------------------------------------------------------


def _validator(hint: object, tables: Tables, within: tuple[type, ...]) -> Validator:
    """`within` are the row types whose fields are being read, outermost first."""
    try:
        plain = _PLAIN.get(hint)
    except TypeError:  # not hashable, so nothing that we know
        plain = None
    if plain is not None:
        return plain
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is typing.Annotated:
        return _validator(arguments[0], tables, within)
    if origin is typing.Union or origin is types.UnionType:
        return _union(_validator(member, tables, within) for member in arguments)
    if origin is typing.Literal:
        return _union(_literal(member, hint) for member in arguments)
    if origin is Id:
        return _id(arguments[0], tables)
    if origin is PaginationResult:
        return result_of(_validator(arguments[0], tables, within))
    if origin is list and len(arguments) == 1:
        return ArrayOf(_validator(arguments[0], tables, within))
    if origin is dict and len(arguments) == 2:
        return _record(arguments[0], _validator(arguments[1], tables, within), tables)
    if origin is list or origin is dict:  # typing.List and typing.Dict without arguments
        return _PLAIN[origin]
    row = row_type(hint)
    if row is not None:
        return _object(row, tables, within)
    raise DefinitionError(
        f"the annotation {_shown(hint)} is not understood; use None, bool, int, float, str, bytes, Int64, list, dict, "
        "Literal, Id, a TypedDict, a dataclass, unions of these, or Any"
    )


def _union(members: Iterable[Validator]) -> Validator:
    distinct: list[Validator] = []
    for member in members:
        for flat in member.members if isinstance(member, UnionOf) else (member,):
            # By description too: Literal(1) and Literal(True) are equal to Python.
            if not any(flat == seen and flat.describe() == seen.describe() for seen in distinct):
                distinct.append(flat)
    return distinct[0] if len(distinct) == 1 else UnionOf(tuple(distinct))


def _literal(member: object, hint: object) -> Validator:
    if member is None:
        return Null()
    if type(member) in (str, int, bool):
        assert isinstance(member, (str, int, bool))
        return Literal(member)
    raise DefinitionError(f"{_shown(hint)} is not understood: {member!r} is not None, a str, an int or a bool")


def _id(row: object, tables: Tables) -> Validator:
    if row is Any:
        return IdOf(None)
    if typing.get_origin(row) is typing.Literal:
        (table,) = typing.get_args(row)
        return IdOf(table)
    table = tables.name_of(row) if isinstance(row, type) else None
    if table is None:
        raise DefinitionError(
            f"Id[{_shown(row)}] names no table: {_shown(row)} is not a row type of the schema. "
            'Give it a table with define_table in define_schema, or write Id["table"]'
        )
    return IdOf(table)


def _record(key: object, item: Validator, tables: Tables) -> Validator:
    key_validator = _validator(key, tables, ())
    if not is_record_key(key_validator):
        raise DefinitionError(f"a dict with keys of {_shown(key)} is not understood; keys are str or Id")
    return RecordOf(key_validator, item)


# --- Row types --------------------------------------------------------------------------------------------------------


def _object(row: RowType, tables: Tables, within: tuple[type, ...]) -> ObjectOf:
    python: type = row.python
    if python in within:
        raise DefinitionError(
            f"{python.__name__} refers to itself, which is not understood; use Any where it names itself"
        )
    fields = _fields(row, tables, within)
    table = tables.name_of(python)
    if table is not None or (typing.is_typeddict(python) and fields.keys() >= SYSTEM_FIELDS):
        fields["_id"] = Field(IdOf(table))
        fields["_creationTime"] = Field(Number(as_float=True))
    return ObjectOf(fields, python)


def _fields(row: RowType, tables: Tables, within: tuple[type, ...]) -> dict[str, Field]:
    """The declared fields of a row type, inherited ones included."""
    fields: dict[str, Field] = {}
    for name, (hint, optional) in row.declared().items():
        fault = field_name_fault(name)
        if fault is not None:
            raise DefinitionError(f"{_place(row.python, name)}: {fault}")
        try:
            fields[name] = Field(_validator(hint, tables, (*within, row.python)), optional)
        except DefinitionError as error:
            raise DefinitionError(f"{_place(row.python, name)}: {error}") from None
    return fields


def _place(row: type, name: str) -> str:
    return f"field `{name}` of {row.__qualname__}"


def _shown(hint: object) -> str:
    """A hint as its author wrote it, or nearly."""
    if isinstance(hint, str):
        return hint
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
