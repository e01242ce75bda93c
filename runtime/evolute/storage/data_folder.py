"""The folder that holds everything a server keeps, and the locks that let one server have it.

    format        the version of the format, one line; written before anything else
    server.lock   locked while a server, or a compaction, has the folder; who, and its process id
    store/        LMDB's files; and the draft of a compaction, while it is being made
    admin_key     the key that the command line reads

The locks are the kernel's (`flock`), so they end with the process however that ends; the files stay. Who only reads the
store, beside a server or without one, holds a second lock, shared, on the folder itself: it keeps a compaction away,
which would take the store's file from under the reader. A folder of another format is refused before anything in it is
touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Self

from evolute.errors import DataFolderInUse, DiskFault, FormatMismatch
from evolute.storage.keyspace import FORMAT_VERSION

ADMIN_KEY_NAME = "admin_key"

SERVER = "a server"

_FORMAT_BYTES_MAX = 100
_LOCK_BYTES_MAX = 100


class DataFolder:
    """A locked data folder. The holder closes the store in it before it closes the folder."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.store_path = path / "store"
        self.store_file = _data_file(path).resolve()
        self.draft_path = self.store_file.with_name("data.mdb.draft")
        """What a compaction writes before it takes the place of the store's file."""
        self.admin_key_path = path / ADMIN_KEY_NAME
        self._lock: int | None = lock

    def close(self) -> None:
        """Gives the folder to the next server. Idempotent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_data_folder(path: Path, *, holder: str = SERVER, create: bool = True) -> DataFolder:
    """Create the folder if it is missing, or refuse that; check its format, lock it, remove what a compaction has left.

    `holder` is what others are told who want it. Raises FormatMismatch naming both versions, DataFolderInUse naming the
    process that has it, or DiskFault.
    """
    path = path.absolute()
    with _told_of(path):
        _check_format(path)
        if create:
            path.mkdir(parents=True, exist_ok=True)
        else:
            _check_exists(path)
        lock = _locked(path / "server.lock", holder)
        try:
            _check_format(path)  # again: the server that had the lock until now may have been of another version
            _write_format(path)
            folder = DataFolder(path, lock)
            folder.draft_path.unlink(missing_ok=True)
        except BaseException:
            os.close(lock)
            raise
    return folder


def server_of(path: Path) -> int:
    """The process id of the server that has the data folder. Raises DiskFault if none runs, FormatMismatch."""
    path = path.absolute()
    with _told_of(path):
        _check_format(path)
        _check_exists(path)
        process, holder = _holder_in((path / "server.lock").read_bytes())
    if holder == SERVER and process.isdecimal() and _runs(int(process)):
        return int(process)
    raise DiskFault(f"No server runs on the data folder {path}. Start it, or name another data folder.")


@contextmanager
def reading_data_folder(path: Path) -> Iterator[Path]:
    """The path of the store in a data folder that exists, whether or not a server has it: to be opened for reading.

    Raises FormatMismatch, DataFolderInUse while it is compacted, or DiskFault.
    """
    path = path.absolute()
    with _told_of(path):
        _check_format(path)
        _check_exists(path)
    with folder_lock(path, shared=True):
        yield path / "store"


@contextmanager
def folder_lock(path: Path, *, shared: bool) -> Iterator[None]:
    """The lock between those who read the store and a compaction. Raises DataFolderInUse, DiskFault."""
    fcntl = _fcntl()
    with _told_of(path):
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            other = "`evolute compact` rewrites" if shared else "`evolute check` reads"
            raise DataFolderInUse(
                f"The data folder {path} is in use: {other} it. Try again when that has ended."
            ) from error
        yield
    finally:
        os.close(lock)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a DiskFault that names the data folder."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise DiskFault(f"The data folder {path} cannot be used: it, or a part of its path, is a file.") from error
    except OSError as error:
        raise DiskFault(f"The data folder {path} cannot be used: {error}") from error


def _data_file(path: Path) -> Path:
    return path / "store" / "data.mdb"


def _check_exists(path: Path) -> None:
    """Its format has been checked."""
    if not (path / "format").exists():
        raise DiskFault(f"There is no data folder at {path}. Name another one.")
    if not _data_file(path).exists():
        raise DiskFault(f"The data folder {path} holds no store: no server has ever run on it.")


def _check_format(path: Path) -> None:
    """Reads, and writes nothing. A folder without a `format` file may be used if there is no store in it."""
    try:
        with (path / "format").open("rb") as file:
            text = file.read(_FORMAT_BYTES_MAX).decode(errors="replace").strip()
    except FileNotFoundError:
        if _data_file(path).exists():
            raise FormatMismatch(
                f"The data folder {path} holds a store, but no format file that says its version; this program reads "
                f"version {FORMAT_VERSION}. Restore the file `format` from a backup, or name another data folder."
            ) from None
        return
    if text != str(FORMAT_VERSION):
        raise FormatMismatch(
            f"The data folder {path} has format version {text!r}; this program reads version {FORMAT_VERSION}. "
            f"Run the program that wrote it, or name another data folder."
        )


def _write_format(path: Path) -> None:
    """Whole or not at all, and on the disk before the first byte of a store is."""
    target = path / "format"
    if target.exists():
        return
    draft = path / "format.draft"
    with draft.open("wb") as file:
        file.write(f"{FORMAT_VERSION}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """The names of its files are on the disk when this returns."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _fcntl() -> ModuleType:
    try:
        import fcntl
    except ImportError as error:
        raise DiskFault("A data folder cannot be locked on Windows. Run evolute in WSL.") from error
    return fcntl


def _locked(path: Path, holder: str) -> int:
    fcntl = _fcntl()
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {holder}\n".encode(), 0)
    except BlockingIOError as error:
        process, other = _holder_in(os.pread(lock, _LOCK_BYTES_MAX, 0))
        os.close(lock)
        raise DataFolderInUse(
            f"The data folder {path.parent} is in use by {other or SERVER}, process {process or 'unknown'}. "
            f"Stop it, or name another data folder."
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _holder_in(lock: bytes) -> tuple[str, str]:
    """The process that has the lock, or was the last to have it, and what it is."""
    process, _, holder = lock.decode(errors="replace").strip().partition(" ")
    return process, holder


def _runs(process: int) -> bool:
    """Nobody may ask whether the lock is free: who asks has it for that moment, and a server could not start."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
