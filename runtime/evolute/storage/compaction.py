"""A compaction: the store is copied without its free pages, and the copy takes the place of the file.

    data.mdb ──► data.mdb.draft ──► synced, counted ──► renamed to data.mdb ──► its folder synced
        a crash before the rename leaves the old file                 one after it the new file

LMDB's file never gets smaller by itself: pages that are free are used again. A draft that a crash has left is removed
by the next who opens the data folder. The rename is the only moment that counts, and for it nobody may have the store
open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from evolute import failpoints
from evolute.errors import DiskFault, EvoluteError, StorageFailed, StorageFull
from evolute.limits import MIB, Limits
from evolute.storage.data_folder import DataFolder, folder_lock, sync_folder
from evolute.storage.lmdb_engine import LmdbEngine, entries_in, held_alone


@dataclass(frozen=True)
class Compaction:
    """How large the store's file was, and is."""

    bytes_before: int
    bytes_after: int


def compact(folder: DataFolder, limits: Limits) -> Compaction:
    """Rewrite the store of a folder that its caller has opened. What is raised has changed nothing.

    Raises DataFolderInUse, StorageFull, StoreCorrupt, StorageFailed, DiskFault.
    """
    with folder_lock(folder.path, shared=False):
        with held_alone(folder.store_path):
            pass  # a refusal should not come after a long copy
        before = folder.store_file.stat()
        try:
            _write_draft(folder, limits, before)
            with held_alone(folder.store_path):
                folder.draft_path.replace(folder.store_file)
                failpoints.hit(failpoints.AFTER_RENAME)
                sync_folder(folder.store_file.parent)
        except EvoluteError:
            folder.draft_path.unlink(missing_ok=True)
            raise
        except OSError as error:
            folder.draft_path.unlink(missing_ok=True)
            raise DiskFault(f"The data folder {folder.path} cannot be compacted: {error}. Nothing was lost.") from error
    return Compaction(before.st_size, folder.store_file.stat().st_size)


def _write_draft(folder: DataFolder, limits: Limits, original: os.stat_result) -> None:
    """With the owner and the mode of the original, whoever runs this; on the disk, and with all of its rows."""
    engine = LmdbEngine(folder.store_path, limits, read_only=True)
    try:
        statistics = engine.statistics()
        needed = (statistics.pages - statistics.free_pages) * statistics.page_bytes
        disk = os.statvfs(folder.draft_path.parent)
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            raise StorageFull(
                f"There is no room to compact {folder.path}: the new file takes up to {needed / MIB:.1f} MiB beside "
                f"the old one, and the disk has {free / MIB:.1f} MiB. Nothing was changed."
            )
        draft = os.open(folder.draft_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.fchown(draft, original.st_uid, original.st_gid)
            os.fchmod(draft, original.st_mode & 0o777)
            failpoints.hit(failpoints.AFTER_DRAFT_BEGUN)
            try:
                engine.copy_compacted(draft)
            except StorageFull as error:
                text = f"The disk is full, so {folder.path} was not compacted. Nothing was changed."
                raise StorageFull(text) from error
            os.fsync(draft)
        finally:
            os.close(draft)
    finally:
        engine.close()
    copied = entries_in(folder.draft_path, limits)
    if copied != statistics.entries:
        raise StorageFailed(f"The copy holds {copied} rows of {statistics.entries}. The store was left as it is.")
    failpoints.hit(failpoints.AFTER_DRAFT)
