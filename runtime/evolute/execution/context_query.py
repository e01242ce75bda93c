"""What `ctx.db.query` returns: the database's query, as long as its function runs.

It adds the scope to every step and takes the user's own code (filters) out of the runtime's time. A query of the
runtime's tables shows their rows as the public sees them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, cast

from evolute.database.query import Query
from evolute.errors import IndexNotFound
from evolute.execution.journal import Pages
from evolute.execution.scope import Scope
from evolute.values.pagination import PaginationOptions, PaginationResult, options_of
from evolute.values.q import Expression

Row: TypeAlias = dict[str, Any]
PUBLIC_INDEX = "by_creation_time"


class ContextQuery:
    """See `registry.contexts.Query`. `shown` makes the public row of a stored one, None if they are the same."""

    __slots__ = ("_pages", "_query", "_scope", "_shown")

    def __init__(
        self, query: Query[Row], scope: Scope, pages: Pages, shown: Callable[[Row], Row] | None = None
    ) -> None:
        self._query = query
        self._scope = scope
        self._pages = pages
        self._shown = shown

    def with_index(self, name: str, fn: object = None, /, **fields: object) -> ContextQuery:
        if self._shown is not None and name != PUBLIC_INDEX:
            raise IndexNotFound(f"Index {name} not found: a system table has only {PUBLIC_INDEX}.")
        self._scope.check()
        return self._chained(self._query.with_index(name, cast(Any, fn), **fields))

    def full_table_scan(self) -> ContextQuery:
        self._scope.check()
        return self._chained(self._query.full_table_scan())

    def order(self, order: Literal["asc", "desc"], /) -> ContextQuery:
        self._scope.check()
        return self._chained(self._query.order(order))

    def filter(self, predicate: object, /) -> ContextQuery:
        shown = self._shown
        self._scope.check()
        passes: Callable[[Row], object]
        if isinstance(predicate, Expression):
            passes = predicate.passes
        elif callable(predicate):
            passes = self._scope.clock.as_user_code(predicate)
        else:
            return self._chained(self._query.filter(cast(Any, predicate)))  # which refuses it
        if shown is None:
            return self._chained(self._query.filter(passes))

        @functools.wraps(passes, assigned=(), updated=())
        def passes_as_shown(row: Row) -> object:
            return passes(shown(row))

        return self._chained(self._query.filter(passes_as_shown))

    def first(self) -> Row | None:
        with self._scope:
            return self._optional(self._query.first())

    def unique(self) -> Row | None:
        with self._scope:
            return self._optional(self._query.unique())

    def take(self, n: int, /) -> list[Row]:
        with self._scope:
            return self._rows(self._query.take(n))

    def collect(self) -> list[Row]:
        with self._scope:
            return self._rows(self._query.collect())

    def paginate(
        self, options: PaginationOptions | Mapping[str, object] | None = None, /, **named: object
    ) -> PaginationResult[Row]:
        with self._scope:
            page = self._pages.read(self._query, options_of(options, named))
            return page if self._shown is None else page.map(self._shown)

    def __iter__(self) -> Iterator[Row]:
        with self._scope:
            rows = iter(self._query)
        while True:
            with self._scope:
                row = self._optional(next(rows, None))
            if row is None:
                return
            yield row

    def _chained(self, query: Query[Row]) -> ContextQuery:
        return ContextQuery(query, self._scope, self._pages, self._shown)

    def _optional(self, row: Row | None) -> Row | None:
        return row if row is None or self._shown is None else self._shown(row)

    def _rows(self, rows: list[Row]) -> list[Row]:
        return rows if self._shown is None else list(map(self._shown, rows))
