"""The engine over LMDB, and the only module that knows LMDB.

LMDB is a map of pages that readers see through shared memory. A write copies the pages it changes, syncs them, and then
switches one root page; a reader keeps the root that it began with. So readers and the one writer never wait for each
other, and the file is sound after any crash. What it asks for in return is kept here:

- The map is as large as `map_bytes_max` from the start. It is address space: the file has only the pages used.
- A reader whose process was killed still holds its slot, and its pages are never used again: `check_readers`.
- Commits are LMDB's own synchronous ones. `sync=False` and a later sync would show other processes a commit that is
  not yet durable; a writable map would let a stray pointer write into the store.
- Nobody in a process that has the store open opens its files by hand: closing any descriptor of the lock file drops the
  process's locks, and live snapshots are then overwritten.

**Long keys.** LMDB's keys end at 511 bytes. A longer one is cut:

    up to 479 bytes   key                                       → value
    longer            the first 479 bytes, a hash of the key:32 → length:4, the rest of the key, value

Only long keys are 511 bytes in the store, and no other key can lie between two with the same first 479 bytes: shorter
ones are before them all. So a scan reads such a group as a whole, puts it in the order of the full keys, and goes on.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import lmdb

from evolute.errors import (
    DataFolderInUse,
    DiskFault,
    EvoluteError,
    FateUnknown,
    LimitReached,
    Overloaded,
    StorageFailed,
    StorageFull,
    StoreCorrupt,
)
from evolute.limits import Limits
from evolute.storage.engine import EngineStatistics

SHORT_KEY_BYTES_MAX = 479
_HASH_BYTES = 32
_LONG_KEY_BYTES = SHORT_KEY_BYTES_MAX + _HASH_BYTES
_LENGTH_BYTES = 4

_FULL_CODES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CLOSED_CODE = 0
_DISK_FULL_BYTES = 1024 * 1024
_META_PAGES = 2

_Row = tuple[bytes, bytes]


class LmdbEngine:
    """A store in the folder `path`, which is created unless `read_only`.

    A server opens it for writing, its workers read-only. `sync=False` gives up durability; only `evolute.testing` does.
    Raises StoreCorrupt for files that are not a store, StorageFull, and DiskFault for what else the disk refuses.
    """

    def __init__(self, path: Path, limits: Limits, *, read_only: bool = False, sync: bool = True) -> None:
        self._path = path
        self._limits = limits
        try:
            self._environment = lmdb.open(
                str(path),
                map_size=limits.map_bytes_max,
                max_readers=limits.readers_max,
                max_spare_txns=1,
                readonly=read_only,
                create=not read_only,
                sync=sync,
                metasync=sync,
                writemap=False,
            )
        except (lmdb.Error, OSError) as error:
            raise _opening_error(path, error) from error
        assert self._environment.max_key_size() >= _LONG_KEY_BYTES, "this LMDB was built for shorter keys"
        if not read_only:
            self.check_readers()

    def reader(self, *, unbounded: bool = False) -> LmdbReader:
        try:
            transaction = self._environment.begin()
        except lmdb.ReadersFullError as error:
            message = f"The store has readers_max = {self._limits.readers_max} readers already."
            raise Overloaded(message) from error
        except lmdb.MapResizedError as error:
            message = f"The store at {self._path} has outgrown map_bytes_max = {self._limits.map_bytes_max}; raise it."
            raise DiskFault(message) from error
        except lmdb.Error as error:
            raise _reading_error(error) from error
        return LmdbReader(transaction, None if unbounded else self._limits)

    def write(self, puts: Mapping[bytes, bytes | None], *, on_puts: Callable[[], None] | None = None) -> None:
        try:
            transaction = self._environment.begin(write=True)
        except lmdb.Error as error:
            raise self._writing_error(error) from error
        transaction_id = transaction.id()
        try:
            self._put_all(transaction, puts)
            if on_puts is not None:
                on_puts()
        except lmdb.Error as error:
            transaction.abort()
            raise self._writing_error(error) from error
        except BaseException:
            transaction.abort()
            raise
        try:
            transaction.commit()
        except lmdb.Error as error:
            raise self._commit_error(error, transaction_id) from error

    def _put_all(self, transaction: lmdb.Transaction[bytes], puts: Mapping[bytes, bytes | None]) -> None:
        """All values in one call, which is less work than a call for each."""
        items: list[tuple[bytes, bytes]] = []
        for key in sorted(puts):
            assert 1 <= len(key) <= self._limits.key_bytes_max, f"a key of {len(key)} bytes"
            value = puts[key]
            if value is None:
                transaction.delete(_physical_key(key))
            elif len(key) <= SHORT_KEY_BYTES_MAX:
                items.append((key, value))
            else:
                items.append((_physical_key(key), _with_rest(key, value)))
        with transaction.cursor() as cursor:
            cursor.putmulti(items)

    def _commit_error(self, error: lmdb.Error, transaction_id: int) -> EvoluteError:
        """What a failed commit means. LMDB writes the pages, syncs, then switches the root: it may have failed on
        either side. The batch is not written if a fresh snapshot is older than it *and* LMDB takes the next write."""
        try:
            with self._environment.begin() as snapshot:
                newest_id = snapshot.id()
            self._environment.begin(write=True).abort()
        except lmdb.Error as second:
            return FateUnknown(f"A commit failed ({error}), and then the store did ({second}).")
        if newest_id >= transaction_id:
            return FateUnknown(f"A commit failed ({error}), but its batch can be read.")
        return self._writing_error(error)

    def _writing_error(self, error: lmdb.Error) -> EvoluteError:
        """Of an error before the commit, or of one that was found to have left the store as it was."""
        if isinstance(error, lmdb.MapFullError):
            return StorageFull(
                f"The store has reached map_bytes_max = {self._limits.map_bytes_max}. Nothing was lost; writes fail "
                f"until EVOLUTE_MAP_BYTES_MAX is raised and the server restarted."
            )
        if error.code in _FULL_CODES or (error.code == errno.EIO and self._is_disk_full()):
            return StorageFull(f"The disk is full. Nothing was lost; writes fail until there is room. ({error})")
        if error.code == _CLOSED_CODE or isinstance(error, lmdb.PanicError):
            return FateUnknown(f"The store can no longer be used: {error}")
        return StorageFailed(f"The store refused a write. It did not happen, and nothing was lost. ({error})")

    def _is_disk_full(self) -> bool:
        """LMDB calls a write that was cut short an input/output error, and a full disk's last write is cut short."""
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize < _DISK_FULL_BYTES

    def check_readers(self) -> int:
        try:
            return self._environment.reader_check()
        except lmdb.Error as error:
            raise _reading_error(error) from error

    def statistics(self) -> EngineStatistics:
        try:
            information, status = self._environment.info(), self._environment.stat()
            table = self._environment.readers().splitlines()[1:]
        except lmdb.Error as error:
            raise _reading_error(error) from error
        pages = information["last_pgno"] + 1
        used_pages = status["branch_pages"] + status["leaf_pages"] + status["overflow_pages"] + _META_PAGES
        return EngineStatistics(
            entries=status["entries"],
            pages=pages,
            free_pages=max(pages - used_pages, 0),  # the two were asked for one after the other
            page_bytes=status["psize"],
            map_bytes=information["map_size"],
            # LMDB's own count is the most there ever were; a slot kept for the next snapshot ends with "-".
            readers=sum(not line.endswith("-") for line in table),
            readers_max=information["max_readers"],
        )

    def copy_compacted(self, file: int) -> None:
        """Write the newest snapshot to an open file, without free pages. Raises StorageFull, or as a read does."""
        try:
            self._environment.copyfd(file, compact=True)
        except lmdb.Error as error:
            if error.code in _FULL_CODES:
                raise StorageFull(f"The disk is full. ({error})") from error
            raise _reading_error(error) from error

    def close(self) -> None:
        self._environment.close()


def entries_in(file: Path, limits: Limits) -> int:
    """How many rows a store's file holds that nobody has open. Raises DiskFault, StoreCorrupt."""
    try:
        with lmdb.open(str(file), subdir=False, readonly=True, lock=False, map_size=limits.map_bytes_max) as copy:
            entries: int = copy.stat()["entries"]
            return entries
    except (lmdb.Error, OSError) as error:
        raise _opening_error(file, error) from error


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """While inside, no process has the store at `path` open: for who replaces its file. Raises DataFolderInUse.

    LMDB's lock file is set up by the first who opens it, from the data file of that moment, and only then: who has it
    open must not meet another data file. This process must have the store closed.
    """
    import fcntl

    lock = os.open(path / "lock.mdb", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)  # the byte that every process locks that has it open
        except (BlockingIOError, PermissionError) as error:
            raise DataFolderInUse(
                f"The store at {path} is still open in a process of the last server. Try again in a moment."
            ) from error
        yield
    finally:
        os.close(lock)


class LmdbReader:
    """An LMDB read transaction. `limits` None: groups of long keys have no bound."""

    def __init__(self, transaction: lmdb.Transaction[bytes], limits: Limits | None) -> None:
        self._transaction: lmdb.Transaction[bytes] | None = transaction
        self._limits = limits

    def get(self, key: bytes) -> bytes | None:
        assert self._transaction is not None, "the reader is closed"
        try:
            if len(key) <= SHORT_KEY_BYTES_MAX:
                return self._transaction.get(key)
            physical_key = _physical_key(key)
            stored = self._transaction.get(physical_key)
        except lmdb.Error as error:
            raise _reading_error(error) from error
        if stored is None:
            return None
        full_key, value = _whole(physical_key, stored)
        return value if full_key == key else None

    def scan(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[_Row]:
        assert self._transaction is not None, "the reader is closed"
        if end is not None and end <= start:
            return
        lower, upper = _stored_range(start, end)
        try:
            with self._transaction.cursor() as cursor:
                stored = _stored_rows(cursor, lower, upper, reverse=reverse)
                for row in stored:
                    key = row[0]
                    if key < lower or (upper is not None and key >= upper):
                        return
                    if len(key) == _LONG_KEY_BYTES:
                        rest = itertools.takewhile(
                            lambda row: lower <= row[0] and (upper is None or row[0] < upper), stored
                        )
                        rows = self._in_key_order(itertools.chain((row,), rest), reverse=reverse)
                        yield from (row for row in rows if start <= row[0] and (end is None or row[0] < end))
                        return
                    if start <= key and (end is None or key < end):
                        yield row
                    assert self._transaction is not None, "the reader is closed"
        except lmdb.Error as error:
            raise _reading_error(error) from error

    def _in_key_order(self, stored: Iterator[_Row], *, reverse: bool) -> Iterator[_Row]:
        """Stored rows as rows with full keys. A group is read to its end before its first row comes out."""
        group: list[_Row] = []
        group_prefix = b""
        group_bytes = 0
        for stored_key, stored_value in stored:
            is_long = len(stored_key) == _LONG_KEY_BYTES
            if group and not (is_long and stored_key.startswith(group_prefix)):
                yield from sorted(group, reverse=reverse)
                group, group_bytes = [], 0
            if not is_long:
                yield stored_key, stored_value
                continue
            group_prefix = stored_key[:SHORT_KEY_BYTES_MAX]
            group_bytes += len(stored_value)
            group.append(_whole(stored_key, stored_value))
            self._check_group(len(group), group_bytes)
        yield from sorted(group, reverse=reverse)

    def _check_group(self, rows: int, size: int) -> None:
        if self._limits is None:
            return
        if rows > self._limits.documents_read_max:
            limit = f"documents_read_max = {self._limits.documents_read_max} entries"
        elif size > self._limits.bytes_read_max:
            limit = f"bytes_read_max = {self._limits.bytes_read_max} bytes"
        else:
            return
        raise LimitReached(
            f"An index has more than {limit} whose keys agree in their first {SHORT_KEY_BYTES_MAX} bytes and have to "
            f"be read together. Index a shorter field, such as a hash of this one."
        )

    def close(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abort()


def _stored_rows(
    cursor: lmdb.Cursor[bytes], lower: bytes, upper: bytes | None, *, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """The rows as LMDB holds them, from the first or the last with lower <= stored key < upper on."""
    if reverse:
        at_upper = upper is not None and cursor.set_range(upper)
        return cursor.iterprev() if (cursor.prev() if at_upper else cursor.last()) else iter(())
    return cursor.iternext() if (cursor.set_range(lower) if lower else cursor.first()) else iter(())


def _stored_range(start: bytes, end: bytes | None) -> tuple[bytes, bytes | None]:
    """Bounds of the stored keys that a scan must look at: a group with `start` or `end` in it is within as a whole."""
    lower = start[:SHORT_KEY_BYTES_MAX]
    if end is None or len(end) <= SHORT_KEY_BYTES_MAX:
        return lower, end
    stem = end[:SHORT_KEY_BYTES_MAX].rstrip(b"\xff")
    return lower, stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def _physical_key(key: bytes) -> bytes:
    if len(key) <= SHORT_KEY_BYTES_MAX:
        return key
    return key[:SHORT_KEY_BYTES_MAX] + blake2b(key, digest_size=_HASH_BYTES).digest()


def _with_rest(key: bytes, value: bytes) -> bytes:
    rest = key[SHORT_KEY_BYTES_MAX:]
    return len(rest).to_bytes(_LENGTH_BYTES, "big") + rest + value


def _whole(physical_key: bytes, stored: bytes) -> _Row:
    """The full key and the value of a long key's row."""
    value_at = _LENGTH_BYTES + int.from_bytes(stored[:_LENGTH_BYTES], "big")
    if len(stored) < value_at:
        raise StoreCorrupt(f"The value of the long key {physical_key.hex()} is cut off.")
    return physical_key[:SHORT_KEY_BYTES_MAX] + stored[_LENGTH_BYTES:value_at], stored[value_at:]


def _opening_error(path: Path, error: lmdb.Error | OSError) -> DiskFault:
    if getattr(error, "code", getattr(error, "errno", None)) in _FULL_CODES:
        return StorageFull(f"No room to open the store at {path}: {error}")
    if isinstance(error, lmdb.InvalidError | lmdb.VersionMismatchError | lmdb.CorruptedError):
        return StoreCorrupt(f"The files at {path} are not a store that this version can read: {error}")
    if isinstance(error, lmdb.MemoryError):
        return DiskFault(f"No address space for the store at {path}: {error}. Lower EVOLUTE_MAP_BYTES_MAX.")
    return DiskFault(f"Cannot open the store at {path}: {error}")


def _reading_error(error: lmdb.Error) -> EvoluteError:
    if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
        return StoreCorrupt(f"The store is damaged: {error}. Restore a backup.")
    if isinstance(error, lmdb.PanicError):
        return FateUnknown(f"The store has stopped after a failed commit: {error}")
    return DiskFault(f"The store cannot be read: {error}")
