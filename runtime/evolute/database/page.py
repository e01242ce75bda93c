"""One page of a query: the rows of (after, until], or as many as are wanted behind `after`.

    in the query's direction   ──── after ]  row  row  row  row ( until ────

    first run    until is not known: the page ends with the row that fills it, or with the last row there is
    later runs   `until` is where the page ended the first time, however many rows lie before it by now

So pages that stand side by side are gapless and never overlap, whatever is inserted or deleted: the end of one is where
the next begins. What is in the read set is what was walked over, the gap before `until` included.

Limits end a page early. If that was its first run, it is a page like any other, only shorter. A later one is incomplete
then: its status says that it must be split, at `split`, into two pages that each read less.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Final, NamedTuple, Protocol

from evolute.database.budget import ReadsLeft
from evolute.database.cursor import END
from evolute.limits import Limits
from evolute.values.pagination import PageStatus, PaginationOptions
from evolute.values.value import Value

_ITEMS_MAX: Final = Limits.array_items_max
"""A page of more could not be returned."""

_SPLIT_SHARE: Final = 3 / 4
"""Of a limit: a page that has used more of it should be split before it reaches it."""


class PageSource(Protocol):
    """What a page needs of its transaction."""

    limits: Limits

    def reads_left(self) -> ReadsLeft: ...

    def scan(
        self, table_number: int, start: bytes, end: bytes, *, reverse: bool, walked: list[bytes] | None = None
    ) -> Generator[dict[str, Value], None, None]: ...


class Walk(NamedTuple):
    """A query that is ready to be read: what is between two keys of an index, all of which begin with `prefix`.

    `table_number` is None if there is no table yet, and so no row.
    """

    table_number: int | None
    prefix: bytes
    start: bytes
    end: bytes
    reverse: bool
    filters: tuple[Callable[[Any], object], ...]
    fingerprint: bytes


class Span(NamedTuple):
    """Which part of it; positions are index keys without the index's prefix, or END. None: from the beginning, and as
    far as is wanted."""

    after: bytes | None
    until: bytes | None


class Page(NamedTuple):
    rows: list[dict[str, Value]]
    end: bytes
    split: bytes | None
    status: PageStatus | None


class _Room:
    """How much a page may read, and how much it should: it has to stop after `documents_max`, or when there are no more
    than `bytes_floor` left."""

    def __init__(self, source: PageSource, options: PaginationOptions, *, until_known: bool) -> None:
        limits, left = source.limits, source.reads_left()
        rows_asked, bytes_asked = options.maximum_rows_read or sys.maxsize, options.maximum_bytes_read or sys.maxsize
        # The next document has to fit, or reading it would fail the whole function.
        bytes_max = max(left.bytes - limits.document_bytes_max, left.bytes * _SPLIT_SHARE)
        # With `until`, what was asked for no longer counts: the page has to be all that lies before it.
        self.documents_max = left.documents if until_known else min(left.documents, rows_asked)
        self.bytes_floor = left.bytes - (bytes_max if until_known else min(bytes_max, bytes_asked))
        self._before = left
        self._documents_wanted_max = min(rows_asked, limits.documents_read_max) * _SPLIT_SHARE
        self._bytes_wanted_max = min(bytes_asked, limits.bytes_read_max) * _SPLIT_SHARE

    def is_short(self, walked: int, rows: int, left: ReadsLeft) -> bool:
        """Whether a page that has read so much is close to what it may."""
        used_bytes = self._before.bytes - left.bytes
        return (
            walked > self._documents_wanted_max
            or rows > _ITEMS_MAX * _SPLIT_SHARE
            or used_bytes > self._bytes_wanted_max
        )


def read_page(source: PageSource, walk: Walk, span: Span, options: PaginationOptions) -> Page:
    """Reads it. `options` have been checked; of them only the sizes count here. Raises LimitReached, ContextClosed."""
    if span.after == END or walk.table_number is None:
        return Page([], END if span.until is None else span.until, None, None)
    walked: list[bytes] = []
    rows: list[dict[str, Value]] = []
    row_places: list[int] = []
    room = _Room(source, options, until_known=span.until is not None)
    documents_max, bytes_floor, reads_left = room.documents_max, room.bytes_floor, source.reads_left
    wanted = _ITEMS_MAX if span.until is not None else min(options.num_items, _ITEMS_MAX)
    stopped = False
    with closing(source.scan(walk.table_number, *_interval(walk, span), reverse=walk.reverse, walked=walked)) as found:
        for row in found:
            if not walk.filters or all(passes(row) for passes in walk.filters):
                row_places.append(len(walked) - 1)
                rows.append(row)
            if len(rows) >= wanted or len(walked) >= documents_max or reads_left().bytes <= bytes_floor:
                stopped = True
                break
    is_full = span.until is None and len(rows) >= options.num_items
    status: PageStatus | None = None
    if stopped and not is_full and (span.until is not None or len(walked) > 1):
        status = "SplitRequired"
    elif len(walked) > 1 and room.is_short(len(walked), len(rows), reads_left()):
        status = "SplitRecommended"
    positions = walked if status is not None else [walked[place] for place in row_places]
    split = _relative(walk, positions[max(len(positions) // 2 - 1, 0)]) if status or len(positions) > 1 else None
    if span.until is not None:
        end = span.until
    else:
        end = _relative(walk, walked[-1]) if stopped else END
    return Page(rows, end, split, status)


def _interval(walk: Walk, span: Span) -> tuple[bytes, bytes]:
    """The keys behind `after` up to `until`, inclusive: half open as all intervals are."""
    prefix, start, end = walk.prefix, walk.start, walk.end
    first, last = (span.until, span.after) if walk.reverse else (span.after, span.until)
    if first is not None and first != END:
        start = prefix + first + (b"" if walk.reverse else b"\0")
    if last is not None and last != END:
        end = prefix + last + (b"" if walk.reverse else b"\0")
    return start, end


def _relative(walk: Walk, key: bytes) -> bytes:
    return key[len(walk.prefix) :]
