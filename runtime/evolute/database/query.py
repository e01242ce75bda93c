"""A query: which documents of one table, in which order, built step by step and then read.

    ctx.db.query("messages").with_index("by_channel", channel=c).order("desc").filter(is_urgent).take(10)
           table             part of an index                   direction     row by row        reads

Nothing is read before the last step, and then only as many rows as are asked for: what `take` leaves unread is not in
the read set. Each step gives a new query and uses the old one up. Rows that the filter refuses are read, and count.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from evolute.database.catalog import BY_CREATION_TIME, IndexEntry, TableDefinition
from evolute.database.index_range import Comparisons, RangeFunction
from evolute.database.page import Walk
from evolute.database.query_fingerprint import query_fingerprint
from evolute.errors import IndexNotFound, IndexNotReady, InvalidQuery, NotUnique
from evolute.limits import Limits
from evolute.storage.keyspace import index_prefix
from evolute.values.q import Expression
from evolute.values.schema import IndexDefinition
from evolute.values.value import Int64, Value

D = TypeVar("D")

Predicate: TypeAlias = Callable[[Any], object]
Order: TypeAlias = Literal["asc", "desc"]
State: TypeAlias = Literal["building", "chained", "iterating", "closed"]

# The range of an index that the schema declares and no table has yet is checked, and then nothing is read.
_NO_INDEX_ID = 0


class QuerySource(Protocol):
    """What a query needs of its transaction."""

    limits: Limits

    def table(self, name: str) -> TableDefinition | None: ...
    def declared_index(self, table: str, index: str) -> IndexDefinition | None: ...
    def scan(
        self, table_number: int, start: bytes, end: bytes, *, reverse: bool
    ) -> Generator[dict[str, Value], None, None]: ...
    def poison(self, error: InvalidQuery) -> InvalidQuery: ...


class Query(Generic[D]):
    """The documents of one table, ascending by creation time unless told otherwise. Made by `Transaction.query`.

    A query is used once: chaining or reading it again raises InvalidQuery, as does every other misuse, and poisons the
    transaction. IndexNotFound, IndexNotReady and NotUnique can be caught. Limits and ContextClosed are raised while
    reading.
    """

    __slots__ = ("_comparisons", "_index", "_order", "_predicates", "_source", "_state", "_table")

    def __init__(self, source: QuerySource, table: str) -> None:
        self._source = source
        self._table = table
        self._index: str | None = None
        self._comparisons: Comparisons | None = None
        self._order: Order | None = None
        self._predicates: tuple[Predicate, ...] = ()
        self._state: State = "building"

    # --- building ----------------------------------------------------------------------------------------------------

    def with_index(self, name: str, fn: RangeFunction | None = None, /, **fields: object) -> Query[D]:
        """The documents whose leading index fields equal `fields`, in the index's order; the last may be a `Range`.

        `fn` says the same with a builder: `lambda q: q.eq("field", value).gt("next", bound)` (semantics D7).
        """
        if self._comparisons is not None or self._order is not None or self._predicates:
            raise self._misused("`with_index` comes first, right after `query`, and once")
        try:
            comparisons = Comparisons(fn, fields)
        except InvalidQuery as error:
            raise self._source.poison(error) from None
        query = self._chained()
        query._index, query._comparisons = name, comparisons
        return query

    def full_table_scan(self) -> Query[D]:
        """All documents, by creation time: what a query reads that is told nothing else, in so many words."""
        if self._comparisons is not None or self._order is not None or self._predicates:
            raise self._misused("`full_table_scan` comes first, right after `query`, and once")
        query = self._chained()
        query._comparisons = Comparisons(None, {})
        return query

    def order(self, order: Order, /) -> Query[D]:
        """Ascending ("asc") or descending ("desc") in the index's order."""
        if order not in ("asc", "desc"):
            raise self._misused(f'The order of a query is "asc" or "desc", got {order!r}')
        if self._order is not None:
            raise self._misused("Queries may only specify order at most once")
        query = self._chained()
        query._order = order
        return query

    def filter(self, predicate: Callable[[D], object] | Expression[bool], /) -> Query[D]:
        """Those for which `predicate` is true. It runs row by row, after the index range."""
        if isinstance(predicate, Expression):
            predicate = cast("Callable[[D], object]", predicate.passes)
        elif not callable(predicate):
            raise self._misused(
                f"`filter` takes a function of a document, or an expression made with `q`, got {predicate!r}"
            )
        maximum = self._source.limits.query_operators_max
        if len(self._predicates) >= maximum:
            raise self._misused(
                f"Can't construct query with more than {maximum} operators. The setting is `query_operators_max`."
            )
        query = self._chained()
        query._predicates = (*self._predicates, predicate)
        return query

    # --- reading -----------------------------------------------------------------------------------------------------

    def first(self) -> D | None:
        rows = self._read(1)
        return rows[0] if rows else None

    def unique(self) -> D | None:
        """The only document, or None. Raises NotUnique for two."""
        rows = self._read(2)
        if len(rows) < 2:
            return rows[0] if rows else None
        first, second = (cast("dict[str, str]", row)["_id"] for row in rows)
        raise NotUnique(
            f"unique() query returned more than one result from table {self._table}:\n [{first}, {second}, ...]"
        )

    def take(self, n: int, /) -> list[D]:
        """The first `n` documents, or as many as there are."""
        if type(n) not in (int, Int64) or n < 0:
            raise self._misused("Arg 1 `n` to `take` must be a non-negative integer")
        return self._read(n)

    def collect(self) -> list[D]:
        """All documents."""
        return self._read(None)

    def __iter__(self) -> Iterator[D]:
        """One by one; leaving the loop early leaves the rest unread."""
        self._begin()
        return self._one_by_one()

    def walk(self) -> Walk:
        """For `page.read_page`, which reads a part of it. The query is used up."""
        self._begin()
        definition, index, start, end = self._resolved()
        number, reverse = (None if definition is None else definition.number), self._order == "desc"
        fingerprint = query_fingerprint(self._table, index, start, end, reverse=reverse, filters=self._predicates)
        return Walk(number, index_prefix(index.id), start, end, reverse, self._predicates, fingerprint)

    def _read(self, n: int | None) -> list[D]:
        """The first `n`, or all."""
        self._begin()
        try:
            rows = self._rows()
            taken = list(islice(rows, n))
            rows.close()  # nothing more of it is read
            return taken
        finally:
            self._state = "closed"

    def _one_by_one(self) -> Generator[D, None, None]:
        try:
            yield from self._rows()
        finally:
            self._state = "closed"

    def _rows(self) -> Generator[D, None, None]:
        definition, _, start, end = self._resolved()
        if definition is None:
            return _nothing()
        documents = self._source.scan(definition.number, start, end, reverse=self._order == "desc")
        rows = cast("Generator[D, None, None]", documents)
        return _filtered(rows, self._predicates) if self._predicates else rows

    def _resolved(self) -> tuple[TableDefinition | None, IndexEntry, bytes, bytes]:
        """The table, the index that is read, and which interval of it."""
        definition = self._source.table(self._table)
        index = self._index_entry(definition, self._index or BY_CREATION_TIME)
        try:
            comparisons = self._comparisons
            start, end = comparisons.interval(self._table, index) if comparisons is not None else index.range_of(())
        except InvalidQuery as error:
            raise self._source.poison(error) from None
        return definition, index, start, end

    def _index_entry(self, definition: TableDefinition | None, name: str) -> IndexEntry:
        if definition is None and self._index is None:
            return IndexEntry(_NO_INDEX_ID, name, ())
        if definition is not None:
            index = definition.indexes.get(name) or next((one for one in definition.building if one.name == name), None)
        else:
            declared = self._source.declared_index(self._table, name)
            index = None
            if declared is not None:
                index = IndexEntry(_NO_INDEX_ID, declared.name, declared.fields, staged=declared.staged)
        if index is None:
            advice = " To load a document by its id, use `ctx.db.get(id)`." if name == "by_id" else ""
            raise IndexNotFound(f"Index {self._table}.{name} not found.{advice}")
        if index.staged:
            raise IndexNotReady(
                f"Index {self._table}.{name} is currently staged and not available to query until it is enabled."
            )
        if index.state != "enabled":
            raise IndexNotReady(f"Index {self._table}.{name} is currently backfilling and not available to query yet.")
        return index

    # --- states ------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        match self._state:
            case "building":
                self._state = "iterating"
            case "iterating":
                raise self._misused("Iteration can only begin on a query once.")
            case "chained":
                raise self._misused("This query has been chained with another operator and can't be reused.")
            case "closed":
                raise self._misused("This query is closed and can't emit any more values.")

    def _chained(self) -> Query[D]:
        """A copy to take one more step; this one is used up."""
        if self._state != "building":
            raise self._misused("A query can only be chained once and can't be chained after iteration begins.")
        self._state = "chained"
        query: Query[D] = Query(self._source, self._table)
        query._index, query._comparisons = self._index, self._comparisons
        query._order, query._predicates = self._order, self._predicates
        return query

    def _misused(self, message: str) -> InvalidQuery:
        return self._source.poison(InvalidQuery(message))


def _filtered(rows: Iterator[D], predicates: tuple[Predicate, ...]) -> Generator[D, None, None]:
    for row in rows:
        if all(predicate(row) for predicate in predicates):
            yield row


def _nothing() -> Generator[D, None, None]:
    """What a table holds that does not exist yet."""
    yield from ()
