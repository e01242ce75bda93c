"""What transactions must do, on plain dicts: the operations, and what each does to a model of the store.

An operation is data. `on_store` does it with a real transaction, `on_model` with a `View` of the model; what the two
give must be equal. Because operations are data, those of a transaction can be run once more: on the state that its
commit has found (then every result must be the same: what happened has an order), or by a new transaction after a
conflict.

The order of values is `value_strategies.compare`, and an index is read by looking at every document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cmp_to_key
from itertools import islice
from typing import Any, Final, Protocol

from evolute.database.cursor import END
from evolute.database.index_range import IndexRangeBuilder, Operator, Range
from evolute.database.page import Span, read_page
from evolute.database.query import Query
from evolute.database.transaction import Savepoint, Transaction
from evolute.errors import InvalidId, NonexistentDocument, NotUnique
from evolute.values.document_id import decode_id
from evolute.values.field_path import value_at
from evolute.values.pagination import PaginationOptions
from evolute.values.schema import define_schema, define_table
from evolute.values.value import UNSET, Int64
from evolute.values.wire_codec import encode
from tests.unit.value_strategies import compare

Row = dict[str, Any]

TABLES: Final = ("items", "others")
INDEXES: Final[dict[str, tuple[str, ...]]] = {"by_a": ("a",), "by_a_b": ("a", "b"), "by_nested": ("n.x",)}
SCHEMA: Final = define_schema(
    items=define_table().index("by_a", ["a"]).index("by_a_b", ["a", "b"]).index("by_nested", ["n.x"]),
    others=define_table(),
)
PREDICATES: Final[dict[str, Callable[[Row], bool]]] = {
    "has b": lambda row: "b" in row,
    "a is a number": lambda row: isinstance(row.get("a"), int | float) and not isinstance(row["a"], bool | Int64),
    "nothing": lambda row: False,
}


@dataclass
class View:
    """Documents by id, their tables, and the tables that there are. A transaction's own, or what is committed."""

    documents: dict[str, Row] = field(default_factory=dict)
    tables_of: dict[str, str] = field(default_factory=dict)
    """Of every document that there ever was, in whatever transaction."""
    tables: dict[str, int] = field(default_factory=dict)
    """By name, with their numbers: those of two transactions that make a table at once are the same."""
    saved: list[tuple[dict[str, Row], dict[str, int]]] = field(default_factory=list)
    """At the savepoints of the transaction."""

    def copy(self) -> View:
        return View(dict(self.documents), self.tables_of, dict(self.tables))

    def existing(self, document_id: str) -> Row:
        if decode_id(document_id)[0] not in self.tables.values():
            raise InvalidId
        if document_id not in self.documents:
            raise NonexistentDocument
        return self.documents[document_id]

    def put(self, document_id: str, old: Row, fields: Row) -> None:
        kept = {name: value for name, value in fields.items() if value is not UNSET}
        self.documents[document_id] = {**kept, "_id": old["_id"], "_creationTime": old["_creationTime"]}


class Work:
    """A transaction under way, with what the model needs of it."""

    def __init__(self, transaction: Transaction, view: View) -> None:
        self.transaction = transaction
        self.view = view
        self.savepoints: list[Savepoint] = []
        self.done: list[tuple[Operation, object]] = []
        """Each operation with its result."""

    def do(self, operation: Operation) -> object:
        """On the store and on the model, which must agree."""
        try:
            result = operation.on_store(self)
        except (NonexistentDocument, InvalidId, NotUnique) as error:
            result = type(error).__name__
        expected = modelled(operation, self.view, result)
        assert result == expected, f"{operation} gave {result}, the model {expected}"
        self.done.append((operation, result))
        return result

    def same_on(self, view: View) -> bool:
        """Whether every result would be the same on another state; `view` is what the transaction leaves then."""
        return all(modelled(operation, view, result) == result for operation, result in self.done)


class Operation(Protocol):
    def on_store(self, work: Work) -> object: ...
    def on_model(self, view: View, result: object) -> object:
        """`result` is what the store gave, for what the model cannot know: a new id."""
        ...


def modelled(operation: Operation, view: View, result: object) -> object:
    try:
        return operation.on_model(view, result)
    except (NonexistentDocument, InvalidId, NotUnique) as error:
        return type(error).__name__


# --- Writes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Insert:
    table: str
    fields: Row

    def on_store(self, work: Work) -> object:
        document_id = work.transaction.insert(self.table, self.fields)
        work.view.tables_of[document_id] = self.table
        row = work.transaction.get(document_id)
        assert row is not None
        return {"_id": document_id, "_creationTime": row["_creationTime"]}

    def on_model(self, view: View, result: object) -> object:
        assert isinstance(result, dict)
        view.tables[self.table] = decode_id(result["_id"])[0]
        view.documents[result["_id"]] = {**self.fields, **result}
        return result


@dataclass(frozen=True)
class Patch:
    document_id: str
    fields: Row

    def on_store(self, work: Work) -> object:
        work.transaction.patch(self.document_id, self.fields)
        return None

    def on_model(self, view: View, result: object) -> object:
        old = view.existing(self.document_id)
        view.put(self.document_id, old, {**old, **self.fields})
        return None


@dataclass(frozen=True)
class Replace:
    document_id: str
    fields: Row

    def on_store(self, work: Work) -> object:
        work.transaction.replace(self.document_id, self.fields)
        return None

    def on_model(self, view: View, result: object) -> object:
        view.put(self.document_id, view.existing(self.document_id), self.fields)
        return None


@dataclass(frozen=True)
class Delete:
    document_id: str

    def on_store(self, work: Work) -> object:
        work.transaction.delete(self.document_id)
        return None

    def on_model(self, view: View, result: object) -> object:
        view.existing(self.document_id)
        del view.documents[self.document_id]
        return None


@dataclass(frozen=True)
class Save:
    """A nested mutation begins."""

    def on_store(self, work: Work) -> object:
        work.savepoints.append(work.transaction.savepoint())
        return None

    def on_model(self, view: View, result: object) -> object:
        view.saved.append((dict(view.documents), dict(view.tables)))
        return None


@dataclass(frozen=True)
class RollBack:
    """The newest savepoint, if there is one."""

    def on_store(self, work: Work) -> object:
        if work.savepoints:
            work.transaction.rollback(work.savepoints.pop())
        return None

    def on_model(self, view: View, result: object) -> object:
        if view.saved:
            view.documents, view.tables = view.saved.pop()
        return None


# --- Reads ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Get:
    document_id: str

    def on_store(self, work: Work) -> object:
        return shown(work.transaction.get(self.document_id))

    def on_model(self, view: View, result: object) -> object:
        return shown(view.documents.get(self.document_id))


@dataclass(frozen=True)
class Read:
    """A query: a part of an index, its order, a filter, and how much of it is taken.

    `equal` are the values of the index's first fields, `bounds` are on the next one. `how` is "collect", "first",
    "unique", "take", "each" (a loop that is left after `count` rows), "patch" or "delete": a loop that does this to
    every row, or "clear": one that at its first row deletes all of them; "pages" are of `count` rows each.
    """

    table: str
    index: str | None
    equal: tuple[object, ...]
    bounds: tuple[tuple[Operator, object], ...]
    by_keywords: bool
    descending: bool
    predicate: str | None
    how: str
    count: int
    changes: Row

    def on_store(self, work: Work) -> object:
        query = self._query(work.transaction)
        match self.how:
            case "collect":
                return list(map(shown, query.collect()))
            case "first":
                return shown(query.first())
            case "unique":
                return shown(query.unique())
            case "take":
                return list(map(shown, query.take(self.count)))
            case "each":
                return list(map(shown, islice(iter(query), self.count)))
            case "pages":
                return self._pages(work.transaction)
        seen = []
        for row in query:
            seen.append(shown(row))
            if self.how == "patch":
                work.transaction.patch(row["_id"], self.changes)
            elif self.how == "delete":
                work.transaction.delete(row["_id"])
            elif len(seen) == 1:
                for each in self._query(work.transaction).collect():
                    work.transaction.delete(each["_id"])
        return seen

    def _pages(self, transaction: Transaction) -> list[list[bytes | None]]:
        """Each from the end of the one before."""
        pages, end = [], None
        while end != END:
            walk = self._query(transaction).walk()
            page = read_page(transaction, walk, Span(end, None), PaginationOptions(num_items=max(self.count, 1)))
            pages.append(list(map(shown, page.rows)))
            end = page.end
        return pages

    def _query(self, transaction: Transaction) -> Query[Row]:
        query: Query[Row] = transaction.query(self.table)
        if self.index is not None:
            equal = dict(zip(INDEXES[self.index], self.equal, strict=False))
            if self.by_keywords:
                fields: dict[str, object] = {**equal}
                if self.bounds:
                    fields[self._bound_field] = Range(**dict(self.bounds))
                query = query.with_index(self.index, **fields)
            else:
                query = query.with_index(self.index, lambda q: self._chained(q, equal))
        if self.descending:
            query = query.order("desc")
        return query if self.predicate is None else query.filter(PREDICATES[self.predicate])

    def _chained(self, builder: IndexRangeBuilder, equal: dict[str, object]) -> IndexRangeBuilder:
        for name, value in equal.items():
            builder = builder.eq(name, value)
        for operator, value in self.bounds:
            builder = getattr(builder, operator)(self._bound_field, value)
        return builder

    @property
    def _bound_field(self) -> str:
        assert self.index is not None
        return (*INDEXES[self.index], "_creationTime")[len(self.equal)]

    def on_model(self, view: View, result: object) -> object:
        rows = self._rows(view)
        match self.how:
            case "first":
                return shown(rows[0] if rows else None)
            case "unique":
                if len(rows) > 1:
                    raise NotUnique
                return shown(rows[0] if rows else None)
            case "take" | "each":
                rows = rows[: self.count]
            case "pages":
                size = max(self.count, 1)
                return [list(map(shown, rows[first : first + size])) for first in range(0, len(rows) + 1, size)]
            case "patch":
                for row in rows:
                    view.put(row["_id"], row, {**row, **self.changes})
            case "delete" | "clear":
                for row in rows:
                    del view.documents[row["_id"]]
        return list(map(shown, rows))

    def _rows(self, view: View) -> list[Row]:
        fields = INDEXES[self.index] if self.index is not None else ()
        rows = [row for name, row in view.documents.items() if view.tables_of[name] == self.table]
        rows = [row for row in rows if self._is_within(row)]

        def before(one: Row, other: Row) -> int:
            return compare([_at(one, name) for name in fields], [_at(other, name) for name in fields])

        rows.sort(key=lambda row: (row["_creationTime"], decode_id(row["_id"])[1]))
        rows.sort(key=cmp_to_key(before))
        if self.descending:
            rows.reverse()
        return rows if self.predicate is None else list(filter(PREDICATES[self.predicate], rows))

    def _is_within(self, row: Row) -> bool:
        for name, value in zip(INDEXES[self.index] if self.index is not None else (), self.equal, strict=False):
            if compare(_at(row, name), value) != 0:
                return False
        return all(
            {"gt": order > 0, "gte": order >= 0, "lt": order < 0, "lte": order <= 0}[operator]
            for operator, value in self.bounds
            for order in (compare(_at(row, self._bound_field), value),)
        )


def _at(row: Row, name: str) -> object:
    return value_at(row, tuple(name.split(".")))


def shown(row: Row | None) -> bytes | None:
    """Rows are the same if their bytes are: -0.0 is not 0, True is not 1."""
    return None if row is None else encode(row)
