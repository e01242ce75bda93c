"""The writes that a transaction has buffered, laid over its snapshot.

    snapshot   a ──── b ──── d ──── e
    overlay           b́      -      ─ f        b́ changed, d deleted, f inserted
    reads      a ──── b́ ─────────── e ─ f

A document's writes are coalesced: its value in the snapshot and its value now, with the index keys of both. Of these
the write set is made: all of those keys are touched, even an entry that physically stays as it is, so that who reads
through an index needs one interval and not one point for each document (architecture §3).

A scan sees the writes that were made before it began, and no later ones: a loop that updates what it walks over meets
every document once. While nothing is written a scan reads the overlay in place; a write first lets the scans under way
copy what they have not reached yet.

A savepoint is a position in the undo log.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from evolute.database.write_set import WriteSet

INSORT_MAX = 16


class DocumentWrite(NamedTuple):
    """What became of one document: values and index keys, in the snapshot and now. None: there is no such document.

    `stamped` is how many placeholders of the commit timestamp `new` holds.
    """

    internal_id: bytes
    old: bytes | None
    old_keys: tuple[bytes, ...]
    new: bytes | None
    new_keys: tuple[bytes, ...]
    stamped: int = 0


class RawWrite(NamedTuple):
    """What became of a key outside of tables. None: it is gone. The first `stamped` placeholders are filled in."""

    value: bytes | None
    stamped: int = 0


Row: TypeAlias = tuple[bytes, bytes]
"""An index key and the bytes of the document that it leads to; or a raw key and its value."""

OverlayRow: TypeAlias = tuple[bytes, bytes | None]
"""The same; None where what the snapshot has is gone."""


class _UndoDocument(NamedTuple):
    document_key: bytes
    before: DocumentWrite | None


class _UndoRaw(NamedTuple):
    key: bytes
    before: RawWrite | None


class OverlayScan:
    """One walk over the overlay's part of an index range; `close` when it ends."""

    __slots__ = ("_overlay", "_rows")

    def __init__(self, overlay: Overlay, rows: Iterator[OverlayRow]) -> None:
        self._overlay = overlay
        self._rows = rows

    def __iter__(self) -> OverlayScan:
        return self

    def __next__(self) -> OverlayRow:
        return next(self._rows)

    def freeze(self) -> None:
        """Copy what is left: the overlay is about to change."""
        self._rows = iter(list(self._rows))

    def close(self) -> None:
        self._overlay.scans.discard(self)


class Overlay:
    """The buffered writes of one transaction."""

    def __init__(self) -> None:
        self.documents: dict[bytes, DocumentWrite] = {}
        self.raw: dict[bytes, RawWrite] = {}
        self.scans: set[OverlayScan] = set()
        self._entries: dict[bytes, bytes | None] = {}
        self._sorted: list[bytes] = []
        self._unsorted: list[bytes] = []
        self._undo: list[_UndoDocument | _UndoRaw] = []

    def put_document(self, document_key: bytes, write: DocumentWrite) -> None:
        if self.scans:
            self._freeze_scans()
        before = self.documents.get(document_key)
        self._undo.append(_UndoDocument(document_key, before))
        self.documents[document_key] = write
        keys = before.new_keys if before is not None else write.old_keys
        if keys is not write.new_keys:
            self._set_entries(keys, None)
        self._set_entries(write.new_keys, document_key)

    def put_raw(self, key: bytes, value: bytes | None, *, stamped: int = 0) -> None:
        self._undo.append(_UndoRaw(key, self.raw.get(key)))
        self.raw[key] = RawWrite(value, stamped)

    def savepoint(self) -> int:
        return len(self._undo)

    def rollback(self, savepoint: int) -> bool:
        """Undo every write since `savepoint` was taken. True if raw keys, such as the catalog's, were among them."""
        self._freeze_scans()
        raw_undone = False
        while len(self._undo) > savepoint:
            entry = self._undo.pop()
            if isinstance(entry, _UndoDocument):
                self._restore(entry.document_key, entry.before)
                continue
            raw_undone = True
            if entry.before is None:
                del self.raw[entry.key]
            else:
                self.raw[entry.key] = entry.before
        return raw_undone

    def _restore(self, document_key: bytes, before: DocumentWrite | None) -> None:
        undone = self.documents[document_key]
        self._set_entries(undone.new_keys, None)
        if before is None:
            del self.documents[document_key]
            keys = undone.old_keys
        else:
            self.documents[document_key] = before
            keys = before.new_keys
        self._set_entries(keys, document_key)

    # --- scans -----------------------------------------------------------------------------------------------------

    def scan(self, start: bytes, end: bytes, *, reverse: bool) -> OverlayScan | None:
        """The entries of a range as they are now, whatever is written later; None if there are none."""
        keys = self._sorted_keys()
        low, high = bisect_left(keys, start), bisect_left(keys, end)
        if low == high:
            return None
        positions = range(high - 1, low - 1, -1) if reverse else range(low, high)
        scan = OverlayScan(self, self._rows(keys, positions))
        self.scans.add(scan)
        return scan

    def scan_raw(self, start: bytes, end: bytes, *, reverse: bool) -> Iterator[OverlayRow]:
        """The raw keys of a range as they are now, whatever is written later."""
        rows = ((key, write.value) for key, write in self.raw.items() if start <= key < end)
        return iter(sorted(rows, reverse=reverse, key=itemgetter(0)))

    def _rows(self, keys: list[bytes], positions: range) -> Iterator[OverlayRow]:
        for position in positions:
            key = keys[position]
            document_key = self._entries[key]
            if document_key is None:
                yield key, None
                continue
            write = self.documents.get(document_key)
            if write is not None:
                yield key, write.new
            # Without a write the entry was restored by a rollback, and the snapshot has it.

    def _sorted_keys(self) -> list[bytes]:
        unsorted = self._unsorted
        if len(unsorted) > INSORT_MAX:
            self._sorted += unsorted
            self._sorted.sort()
        else:
            for key in unsorted:
                insort(self._sorted, key)
        unsorted.clear()
        return self._sorted

    def _set_entries(self, keys: Iterable[bytes], document_key: bytes | None) -> None:
        entries = self._entries
        for key in keys:
            if key not in entries:
                self._unsorted.append(key)
            entries[key] = document_key

    def _freeze_scans(self) -> None:
        for scan in self.scans:
            scan.freeze()

    # --- what to commit --------------------------------------------------------------------------------------------

    def write_set(self) -> WriteSet:
        """What to commit. A document that ended as it began is not in it."""
        puts: dict[bytes, bytes | None] = {}
        stamped: dict[bytes, int] = {}
        touched = set(self.raw)
        for key, raw_write in self.raw.items():
            puts[key] = raw_write.value
            if raw_write.stamped:
                stamped[key] = raw_write.stamped
        for document_key, write in self.documents.items():
            if write.old == write.new:
                continue
            puts[document_key] = write.new
            touched.add(document_key)
            touched.update(write.new_keys)
            if write.stamped:
                stamped[document_key] = write.stamped
            if write.old_keys is write.new_keys:
                continue
            touched.update(write.old_keys)
            for key in write.old_keys:
                if key not in write.new_keys:
                    puts[key] = None
            for key in write.new_keys:
                if key not in write.old_keys:
                    puts[key] = write.internal_id
        return WriteSet(puts=puts, touched=frozenset(touched), stamped=stamped)


def merge(theirs: Iterator[Row], ours: Iterator[OverlayRow], *, reverse: bool) -> Iterator[Row]:
    """The snapshot's rows and the overlay's in one order; where both have a key the overlay's row stands."""
    our_row = next(ours, None)
    for row in theirs:
        key = row[0]
        while our_row is not None and our_row[0] != key and (our_row[0] > key) == reverse:
            if our_row[1] is not None:
                yield our_row[0], our_row[1]
            our_row = next(ours, None)
        if our_row is None or our_row[0] != key:
            yield row
            continue
        if our_row[1] is not None:
            yield key, our_row[1]
        our_row = next(ours, None)
    while our_row is not None:
        if our_row[1] is not None:
            yield our_row[0], our_row[1]
        our_row = next(ours, None)
