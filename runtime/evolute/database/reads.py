"""What a transaction reads, and the memory of it.

A get remembers its key, whether or not it was there. A scan remembers what it has gone over, gaps included, at the
moment when a row is handed out and no sooner:

    range            [start ───────────────────────────── end)
    took 2 rows      [start ── a ── b]                             a write beyond b is no conflict
    descending                             [y ── z ────── end)
    exhausted        [start ───────────────────────────── end)     an insert anywhere is one
    failed           [start ───────────────────────────── end)     what made it fail was handed to nobody
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from evolute.database.budget import Budget
from evolute.database.deferred_write import DeferredWrite
from evolute.database.document import decode_document
from evolute.database.overlay import Overlay, Row, merge
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.errors import ContextClosed, LimitReached, StoreCorrupt
from evolute.limits import Limits
from evolute.storage.keyspace import document_prefix, parse
from evolute.values.value import Value


class _Cursor:
    """How far a scan has come."""

    __slots__ = ("end", "exhausted", "position", "reverse", "start")

    def __init__(self, start: bytes, end: bytes, reverse: bool) -> None:
        self.start = start
        self.end = end
        self.reverse = reverse
        self.position: bytes | None = None
        self.exhausted = False

    def interval(self) -> tuple[bytes, bytes]:
        if self.exhausted:
            return self.start, self.end
        if self.position is None:
            return self.start, self.start
        return (self.position, self.end) if self.reverse else (self.start, self.position + b"\0")


class Reads:
    """The snapshot under the overlay, with the read set that grows as it is used. `closed` ends every use."""

    def __init__(self, snapshot: Snapshot, overlay: Overlay, budget: Budget, limits: Limits) -> None:
        self.closed = False
        self.deferred = DeferredWrite()
        self._snapshot = snapshot
        self._overlay = overlay
        self._budget = budget
        self._intervals_max = limits.read_set_intervals_max
        self._read_set = ReadSet(limits.read_set_intervals_max)
        self._cursors: set[_Cursor] = set()

    def check_open(self) -> None:
        """Raises ContextClosed."""
        if self.closed:
            raise ContextClosed(
                "`ctx` was used after its function returned; "
                "end queries with .collect() and leave no thread or generator behind"
            )

    def document(self, key: bytes) -> bytes | None:
        """A document's bytes as the transaction sees them. Raises LimitReached."""
        if self.deferred.waiting is not None:
            self.deferred.make_for_document(key)
        self._add_point(key)
        write = self._overlay.documents.get(key)
        return write.new if write is not None else self._snapshot.get(key)

    def raw(self, key: bytes) -> bytes | None:
        """The value of a key outside of tables. Raises LimitReached."""
        self._add_point(key)
        write = self._overlay.raw.get(key)
        return write.value if write is not None else self._snapshot.get(key)

    def scan(
        self, table_number: int, start: bytes, end: bytes, *, reverse: bool, walked: list[bytes] | None = None
    ) -> Generator[dict[str, Value], None, None]:
        """The documents of an interval of one of the table's indexes, own writes included, each read when asked for.

        Sees the writes made before its first row and no later ones; appends the index key of each to `walked`. Raises
        LimitReached, ContextClosed.
        """
        self.check_open()
        if start >= end:
            return
        self.deferred.make_for_table(table_number)
        cursor = self._open_cursor(start, end, reverse)
        ours = self._overlay.scan(start, end, reverse=reverse)
        count_read = self._budget.count_read
        try:
            rows = self._snapshot_rows(table_number, start, end, reverse)
            for key, data in rows if ours is None else merge(rows, ours, reverse=reverse):
                cursor.position = key
                count_read(len(data))
                if walked is not None:
                    walked.append(key)
                yield decode_document(data)
                if self.closed:
                    self.check_open()
            cursor.exhausted = True
        except LimitReached as error:
            cursor.exhausted = True
            raise self._budget.exceed(error) from None
        except Exception:
            cursor.exhausted = True
            raise
        finally:
            if ours is not None:
                ours.close()
            self._cursors.discard(cursor)
            self._record(cursor)

    def scan_raw(self, start: bytes, end: bytes, *, reverse: bool) -> Iterator[Row]:
        """The keys of an interval outside of tables, with their values; as `scan`, but the budget does not count it."""
        self.check_open()
        if start >= end:
            return
        cursor = self._open_cursor(start, end, reverse)
        try:
            ours = self._overlay.scan_raw(start, end, reverse=reverse)
            for row in merge(self._snapshot.scan(start, end, reverse=reverse), ours, reverse=reverse):
                cursor.position = row[0]
                yield row
                self.check_open()
            cursor.exhausted = True
        except Exception:
            cursor.exhausted = True
            raise
        finally:
            self._cursors.discard(cursor)
            self._record(cursor)

    @property
    def read_set(self) -> ReadSet:
        """Everything read so far, by scans that are still under way too."""
        for cursor in self._cursors:
            self._record(cursor)
        return self._read_set

    def _snapshot_rows(
        self, table_number: int, start: bytes, end: bytes, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        get, prefix = self._snapshot.get, document_prefix(table_number)
        for key, internal_id in self._snapshot.scan(start, end, reverse=reverse):
            data = get(prefix + internal_id)
            if data is None:
                raise StoreCorrupt(f"{parse(key)} leads to no document of table {table_number}; check the data folder")
            yield key, data

    def _open_cursor(self, start: bytes, end: bytes, reverse: bool) -> _Cursor:
        """Raises LimitReached if there is no room for one more interval."""
        if len(self._read_set) + len(self._cursors) >= self._intervals_max:
            self._add_point(start)
        cursor = _Cursor(start, end, reverse)
        self._cursors.add(cursor)
        return cursor

    def _add_point(self, key: bytes) -> None:
        try:
            self._read_set.add_point(key)
        except LimitReached as error:
            raise self._budget.exceed(error) from None

    def _record(self, cursor: _Cursor) -> None:
        try:
            self._read_set.add_range(*cursor.interval())
        except LimitReached as error:
            # Called when a generator ends, where raising would be lost: the next read raises, and so does the commit.
            self._budget.exceed(error)
