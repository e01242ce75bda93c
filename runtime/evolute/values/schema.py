"""The schema: which tables there are, what their rows look like and which indexes they have.

    schema = define_schema(
        channels=define_table(Channel),
        messages=define_table(Message).index("by_channel", ["channel"]),
    )

Tables that the schema does not name exist all the same, unvalidated and without indexes of their own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, NamedTuple, TypedDict

from evolute.errors import DefinitionError
from evolute.limits import Limits
from evolute.values.containers import ObjectOf, RecordOf, UnionOf
from evolute.values.display import display
from evolute.values.shapes import Shape, shape_of
from evolute.values.table_rows import Rows, rows_validator
from evolute.values.validators import AnyValue, Validator

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED_INDEX_NAMES: Final = ("by_id", "by_creation_time")

_limits: ContextVar[Limits] = ContextVar("evolute_schema_limits", default=Limits())  # noqa: B039 (it is frozen)


@contextmanager
def under(limits: Limits) -> Iterator[None]:
    """Schemas that are defined inside, which is at the import of their module, have these limits."""
    token = _limits.set(limits)
    try:
        yield
    finally:
        _limits.reset(token)


class TableWire(TypedDict):
    """A table of a schema as the server knows it. The `shape` of its rows is None if they are not checked."""

    indexes: dict[str, list[str]]
    staged: list[str]
    shape: Shape | None


class IndexDefinition(NamedTuple):
    """An index: documents in the order of these fields, then of `_creationTime`. A dotted path names a nested field.

    A `staged` one is built and kept up to date, and cannot be queried yet. A `sparse` one, which a table of the
    runtime's may have, holds only the documents that have all of its fields.
    """

    name: str
    fields: tuple[str, ...]
    staged: bool = False
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class TableSchema:
    """What a table's rows are, and its indexes. `rows` is None if they may be anything."""

    rows: Rows | None
    indexes: tuple[IndexDefinition, ...] = ()

    @property
    def row(self) -> type | None:
        """The row type, by which code can name the table, if it has one."""
        return self.rows if isinstance(self.rows, type) else None

    def index(self, name: str, fields: Sequence[str], *, staged: bool = False) -> TableSchema:
        """This table with one more index. `define_schema` checks it.

        A `staged` index is built beside the traffic, for as long as it takes, and nobody waits for it; it cannot be
        queried. Once it is built, declare it without `staged`, and that takes no time.
        """
        given = tuple(fields) if isinstance(fields, (list, tuple)) else fields
        index = IndexDefinition(name, given, staged)  # type: ignore[arg-type]
        return dataclasses.replace(self, indexes=(*self.indexes, index))


class Schema:
    """What `define_schema` made; all its faults were found there. Immutable.

    `rows` has what each table's documents are said to be, without their system fields, and `validators` what they must
    match, which is nothing without `validation`.
    """

    def __init__(
        self, tables: Mapping[str, TableSchema], *, validation: bool = True, faults: Sequence[str] = ()
    ) -> None:
        """Raises DefinitionError with `faults` and whatever else is wrong."""
        self.tables = dict(tables)
        self.validation = validation
        self.rows: Mapping[str, Validator] = {}
        self.validators: Mapping[str, Validator] = {}
        self._names = {table.row: name for name, table in tables.items() if table.row is not None}
        faults = list(faults)
        rows: dict[str, Validator] = {}
        for name, table in tables.items():
            validator: Validator = AnyValue()
            try:
                validator = rows[name] = rows_validator(table.rows, self)
            except DefinitionError as error:
                faults.append(f'In table "{name}": {error}')
            faults.extend(_table_faults(name, table, validator))
            if table.row is not None and self._names[table.row] != name:
                other = self._names[table.row]
                faults.append(f'{table.row.__qualname__} is the row type of the tables "{name}" and "{other}"')
        tables_max = _limits.get().tables_max
        if len(tables) > tables_max:
            faults.append(f"Number of tables cannot exceed {tables_max}. The setting is `tables_max`.")
        if faults:
            raise DefinitionError("\n".join(faults))
        self.rows = rows
        self.validators = rows if validation else {}

    def name_of(self, row: type) -> str | None:
        """The table of a row type."""
        return self._names.get(row)

    def to_wire(self) -> dict[str, TableWire]:
        """Plain data, for the server."""
        return {
            name: {
                "indexes": {index.name: list(index.fields) for index in table.indexes},
                "staged": [index.name for index in table.indexes if index.staged],
                "shape": shape_of(self.validators[name]) if name in self.validators else None,
            }
            for name, table in self.tables.items()
        }

    def to_json(self) -> dict[str, object]:
        """As Convex's tools read schemas."""
        tables = []
        for name, table in self.tables.items():
            indexes = [_index_json(one) for one in table.indexes if not one.staged]
            staged = [_index_json(one) for one in table.indexes if one.staged]
            extra = {"stagedDbIndexes": staged} if staged else {}
            documents = self.rows[name].to_json()
            tables.append({"tableName": name, "indexes": indexes, **extra, "documentType": documents})
        return {"tables": tables, "schemaValidation": self.validation}


def define_table(rows: Rows | None = None, /) -> TableSchema:
    """A table of such rows: a TypedDict, best a subclass of Document, a dataclass, validators of the fields, a
    `v.object`, a union of shapes, or `v.any()`. Without any it holds anything."""
    return TableSchema(rows)


def define_schema(*, schema_validation: bool = True, **tables: TableSchema) -> Schema:
    """The schema of a functions folder. Raises DefinitionError with everything that is wrong, a line each.

    Without `schema_validation` documents are not checked when they are written; indexes are as declared.
    """
    given: dict[str, object] = dict(tables)
    checked: object = schema_validation
    faults = [] if isinstance(checked, bool) else [f"`schema_validation` is True or False, not {checked!r}"]
    for name, table in given.items():
        if not isinstance(table, TableSchema):
            faults.append(f'In table "{name}": use define_table(…) instead of {table!r}')
            tables[name] = define_table(table if isinstance(table, type) else None)  # as it was meant, for what follows
    return Schema(tables, validation=schema_validation, faults=faults)


def _index_json(index: IndexDefinition) -> dict[str, object]:
    return {"indexDescriptor": index.name, "fields": list(index.fields)}


# --- What may be wrong (semantics D11) --------------------------------------------------------------------------------


def _table_faults(table_name: str, table: TableSchema, validator: Validator) -> Iterator[str]:
    if not _is_identifier(table_name) or table_name.startswith("_"):
        yield (
            f'"{table_name}" is not a table name: letters, digits and `_`, at most 64 of them, '
            "and a letter first (`_` is for system tables)."
        )
    indexes_max = _limits.get().indexes_per_table_max
    if len(table.indexes) > indexes_max:
        yield (
            f'Table "{table_name}" cannot have more than {indexes_max} indexes. The setting is `indexes_per_table_max`.'
        )
    names: set[str] = set()
    by_fields: dict[tuple[str, ...], str] = {}
    for index in table.indexes:
        fault = _form_fault(index.name, index.fields, index.staged)
        if fault is not None:
            yield f'In table "{table_name}" the index {display(index.name)} is invalid: {fault}'
            continue
        if index.name in names:
            yield f'Table "{table_name}" has two indexes named "{index.name}".'
        names.add(index.name)
        other = by_fields.setdefault(index.fields, index.name)
        if other != index.name:
            yield f'Table "{table_name}" has two indexes with the same fields: "{other}" and "{index.name}".'
        for fault in _index_faults(index):
            yield f'In table "{table_name}" the index "{index.name}" is invalid: {fault}'
        for field in index.fields:
            if not field.startswith("_") and not _may_have(validator, field.split(".")):
                yield (
                    f'In table "{table_name}" the index "{index.name}" is invalid because it references the field '
                    f"{field} that does not exist."
                )


def _form_fault(name: object, fields: object, staged: object) -> str | None:
    """What a type checker would have said."""
    if not isinstance(name, str):
        return "The name of an index is a string."
    if isinstance(fields, str):
        return f"Its fields are a list of names: [{display(fields)}]"
    if not isinstance(fields, tuple) or not all(isinstance(field, str) for field in fields):
        return f"Its fields are a list of names, and not {fields!r}"
    if not isinstance(staged, bool):
        return f"`staged` is True or False, not {staged!r}"
    return None


def _index_faults(index: IndexDefinition) -> Iterator[str]:
    if index.name in _RESERVED_INDEX_NAMES or index.name.startswith("_"):
        yield "The name is reserved; by_id, by_creation_time and names that begin with `_` are the runtime's own."
    elif not _is_identifier(index.name):
        yield "An index name is letters, digits and `_`, at most 64 of them, and a letter first."
    if not index.fields:
        yield "An index has at least one field."
    fields_max = _limits.get().index_fields_max
    if len(index.fields) > fields_max:
        yield (
            f"Indexes may have up to {fields_max + 1} fields, of which `_creationTime` is one. "
            "The setting is `index_fields_max`."
        )
    for position, field in enumerate(index.fields):
        fault = _field_fault(field)
        if fault is not None:
            yield fault
        elif field in index.fields[:position]:
            yield f"Duplicate field {field}. Index fields must be unique within an index."


def _field_fault(field: str) -> str | None:
    if field == "_id":
        return "`_id` is not a valid index field. To load documents by ID, use `ctx.db.get(id)`."
    if field == "_creationTime":
        return (
            "`_creationTime` is automatically added to the end of each index. "
            "It should not be added explicitly in the index definition."
        )
    if field.startswith("_"):
        return "Reserved fields (starting with `_`) are not allowed in indexes."
    if not all(map(_is_identifier, field.split("."))):
        return f"{field!r} is not a field: names of letters, digits and `_`, joined by points if it is nested."
    return None


def _is_identifier(name: str) -> bool:
    return _IDENTIFIER.fullmatch(name) is not None and name.strip("_") != ""


def _may_have(validator: Validator, path: Sequence[str]) -> bool:
    """Whether a value that matches may have something at `path`."""
    if not path or isinstance(validator, AnyValue):
        return True
    if isinstance(validator, ObjectOf):
        field = validator.fields.get(path[0])
        return field is not None and _may_have(field.validator, path[1:])
    if isinstance(validator, RecordOf):
        return _may_have(validator.item, path[1:])
    return isinstance(validator, UnionOf) and any(_may_have(member, path) for member in validator.members)
