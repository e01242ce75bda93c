"""What one run of a query remembers of its page for the next run: where it ended.

    first run      journal None  ──►  numItems rows  ──►  journal J: the end of the page
    later runs     journal J     ──►  the rows up to that end, however many there are by now  ──►  journal J

The server sends the journal beside the result, and runs the subscription with it from then on; a client that lost its
connection brings it back. To both it is a string without meaning: it is sealed as a cursor is, but under the
fingerprint of the page instead of the query's. One that cannot be read, because it was made up or because the query is
another one by now, is as good as none.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

from evolute.database.cursor import CURSOR_KEY_BYTES, END, Cursors
from evolute.database.page import Page, Span, Walk, read_page
from evolute.database.query import Query
from evolute.database.query_fingerprint import page_fingerprint
from evolute.database.transaction import Transaction
from evolute.errors import InvalidCursor, MultiplePaginatedQueries, StoreCorrupt
from evolute.storage.keyspace import CURSOR_KEY
from evolute.values.pagination import PaginationOptions, PaginationResult

Row: TypeAlias = dict[str, Any]


class Journal:
    """Of one run: the function's and those it calls. `given` is the journal that the call came with."""

    __slots__ = ("_depth", "_given", "_written")

    def __init__(self, given: str | None) -> None:
        self._given = given
        self._written: str | None = None
        self._depth = sys.maxsize

    @property
    def result(self) -> str | None:
        """What the next run is to be given; if this one has read no page, what it was given itself."""
        return self._written or self._given

    def end_of(self, page: bytes, cursors: Cursors) -> bytes | None:
        """Where the page ended in an earlier run, if that is known."""
        if self._given is None:
            return None
        try:
            return cursors.open(self._given, page)
        except InvalidCursor:
            return None

    def write(self, page: bytes, end: bytes, cursors: Cursors, *, depth: int) -> None:
        """There is room for one page: that of the function which the client has called comes before others."""
        if depth < self._depth:
            self._written, self._depth = cursors.seal(end, page), depth


class Pages:
    """What one function may paginate: one query (semantics D8). `depth` is that of its call."""

    __slots__ = ("_depth", "_is_used", "_journal", "_transaction")

    def __init__(self, transaction: Transaction, journal: Journal, depth: int) -> None:
        self._transaction = transaction
        self._journal = journal
        self._depth = depth
        self._is_used = False

    def read(self, query: Query[Row], options: PaginationOptions) -> PaginationResult[Row]:
        """Uses the query up. Raises MultiplePaginatedQueries; InvalidCursor and what is wrong with the options, after
        which another page may be read."""
        transaction = self._transaction
        if self._is_used:
            raise transaction.poison(
                MultiplePaginatedQueries(
                    "This query or mutation function ran multiple paginated queries. "
                    "Convex only supports a single paginated query in each function."
                )
            )
        walk = query.walk()
        options.checked(transaction.limits)
        cursors = _cursors(transaction)
        key = page_fingerprint(walk.fingerprint, options.cursor)
        after = None if options.cursor is None else cursors.open(options.cursor, walk.fingerprint)
        if options.end_cursor is not None:
            until: bytes | None = cursors.open(options.end_cursor, walk.fingerprint)
        else:
            until = self._journal.end_of(key, cursors)
        self._is_used = True
        page = read_page(transaction, walk, Span(after, until), options)
        self._journal.write(key, page.end, cursors, depth=self._depth)
        return _result(page, walk, cursors)


def _cursors(transaction: Transaction) -> Cursors:
    key = transaction.get_raw(CURSOR_KEY)
    if key is None or len(key) != CURSOR_KEY_BYTES:
        raise StoreCorrupt("the store has no key for cursors; check the data folder")
    return Cursors(key)


def _result(page: Page, walk: Walk, cursors: Cursors) -> PaginationResult[Row]:
    return PaginationResult(
        page=page.rows,
        is_done=page.end == END,
        continue_cursor=cursors.seal(page.end, walk.fingerprint),
        split_cursor=None if page.split is None else cursors.seal(page.split, walk.fingerprint),
        page_status=page.status,
    )
