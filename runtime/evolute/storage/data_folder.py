"""The folder that holds everything a server keeps, and the lock that lets one server have it.

    format        the version of the format, one line; written before anything else
    server.lock   locked while a server runs, and its process id
    store/        LMDB's files
    admin_key     the key that the command line reads

The lock is the kernel's (`flock`), so it ends with the process however that ends; the file stays. A folder of another
format is refused before anything in it is touched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from evolute.errors import DataFolderInUse, DiskFault, FormatMismatch
from evolute.storage.keyspace import FORMAT_VERSION

ADMIN_KEY_NAME = "admin_key"

_FORMAT_BYTES_MAX = 100


class DataFolder:
    """A locked data folder. The holder closes the store in it before it closes the folder."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.store_path = path / "store"
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


def open_data_folder(path: Path) -> DataFolder:
    """Create the folder if it is missing, check its format and lock it.

    Raises FormatMismatch naming both versions, DataFolderInUse naming the process that has it, or DiskFault.
    """
    path = path.absolute()
    try:
        _check_format(path)
        path.mkdir(parents=True, exist_ok=True)
        lock = _locked(path / "server.lock")
        try:
            _check_format(path)  # again: the server that had the lock until now may have been of another version
            _write_format(path)
        except BaseException:
            os.close(lock)
            raise
    except (FileExistsError, NotADirectoryError) as error:
        raise DiskFault(f"The data folder {path} cannot be used: it, or a part of its path, is a file.") from error
    except OSError as error:
        raise DiskFault(f"The data folder {path} cannot be used: {error}") from error
    return DataFolder(path, lock)


def _check_format(path: Path) -> None:
    """Reads, and writes nothing. A folder without a `format` file may be used if there is no store in it."""
    try:
        with (path / "format").open("rb") as file:
            text = file.read(_FORMAT_BYTES_MAX).decode(errors="replace").strip()
    except FileNotFoundError:
        if (path / "store" / "data.mdb").exists():
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
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _locked(path: Path) -> int:
    try:
        import fcntl
    except ImportError as error:
        raise DiskFault("A server cannot lock its data folder on Windows. Run evolute in WSL.") from error
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DataFolderInUse(
            f"The data folder {path.parent} is in use by another server, process {holder}. "
            f"Stop it, or name another data folder."
        ) from error
    except BaseException:
        os.close(lock)
        raise
    return lock
