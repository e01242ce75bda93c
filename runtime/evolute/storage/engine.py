"""What the database asks of a store: an ordered map of bytes, snapshots of it, and atomic durable batches.

    reader ──────── one moment of the map, however long it is held
    write ──╮
            ╰─ all of the batch or nothing; durable when it returns, and only then seen by new readers

Keys are 1 to `limits.key_bytes_max` bytes and are ordered bytewise. There is one writer at a time and any number of
readers, in this process and in others. `LmdbEngine` is the engine; the tests have a second one, in memory, as a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EngineStatistics:
    """The store at one moment."""

    entries: int
    pages: int
    """Every page ever taken from the disk, free ones included. It grows while a reader pins the pages of its moment."""
    free_pages: int
    """Those that hold no rows: to be used again, still pinned by a reader, or the list of all of these itself."""
    page_bytes: int
    map_bytes: int
    readers: int
    """Snapshots that are open, in all processes, those of killed ones included until `check_readers`."""
    readers_max: int


class Reader(Protocol):
    """One snapshot: every read sees the map as it was when the reader was opened.

    Held open it keeps the pages of its moment from being used again, so close it soon. Any thread may use it, one at
    a time. Using it after `close` is a programming error. Bytes that it returned stay good for ever.
    """

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None. Raises StoreCorrupt."""
        ...

    def scan(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The rows with start <= key < end, in the order of their keys; `end` None means to the last key.

        Lazy: what is not asked for is not read, except that keys too long for the store are read a group at a time.
        A group with more than `documents_read_max` rows or `bytes_read_max` bytes raises LimitReached.
        Raises StoreCorrupt.
        """
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Engine(Protocol):
    """An open store."""

    def reader(self, *, unbounded: bool = False) -> Reader:
        """A snapshot of everything written so far. Raises Overloaded when all `readers_max` slots are taken.

        `unbounded` is for walks of the whole store (check, backfill): a scan reads a group of any size.
        """
        ...

    def write(self, puts: Mapping[bytes, bytes | None], *, on_puts: Callable[[], None] | None = None) -> None:
        """Write one atomic, durable batch; a value of None deletes. Only the committer's writer thread calls this.

        `on_puts` is called between the last put and the commit; what it raises aborts the batch and is raised.

        StorageFull and StorageFailed mean that the batch was *not* written and that the store goes on: the engine has
        looked, in a fresh snapshot, before it says so about an error of the commit itself. FateUnknown means that it
        could not tell, or that the store has become unusable: the process must stop.
        """
        ...

    def check_readers(self) -> int:
        """Free the slots of readers whose process is gone, and say how many; else their pages are never used again."""
        ...

    def statistics(self) -> EngineStatistics: ...

    def close(self) -> None:
        """Idempotent. Close every reader first."""
        ...
