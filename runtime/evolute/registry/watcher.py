"""Tells when the sources of a functions folder have changed and have come to rest.

The operating system's events only say when to look; what is looked at are the files' stamps. So an event that changed
nothing is not reported, one that was missed is made up for within a second, and the folder may vanish and come back:
while it is away, the nearest folder above it is watched.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from watchfiles import Change, awatch

from evolute.limits import Limits
from evolute.registry.source_folder import Stamp, is_source_name, stamps

# Sources that never come to rest are reported after this many settling times all the same.
_RESTLESS = 20
_LOOK_AGAIN_MS = 1000


class Watcher:
    """Watches from its creation on: create it before the folder is read, and no change can slip in between."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._root = os.path.realpath(folder)
        self._settle_ms = limits.reload_settle_ms
        self._known = self._stamps()

    async def changes(self) -> AsyncGenerator[None]:
        """Yields whenever the sources differ from the time before; endless. Close it (`aclosing`) to stop watching."""
        while True:
            watched = _nearest_folder(self._root)
            inode = _inode(watched)
            events = awatch(
                watched,
                watch_filter=self._is_of_interest,
                recursive=watched == self._root,
                step=self._settle_ms,
                debounce=self._settle_ms * _RESTLESS,
                rust_timeout=_LOOK_AGAIN_MS,
                yield_on_timeout=True,
            )
            try:
                async with aclosing(events):
                    async for batch in events:
                        if self._has_changed():
                            yield
                        # A folder that was moved or deleted and is back is another one, perhaps of the same inode.
                        gone = (Change.deleted, watched) in batch or _inode(watched) != inode
                        if gone or _nearest_folder(self._root) != watched:
                            break
            except FileNotFoundError:
                continue  # it vanished before the watch began

    def _has_changed(self) -> bool:
        known, self._known = self._known, self._stamps()
        return known != self._known

    def _stamps(self) -> dict[str, Stamp]:
        try:
            return stamps(self._root)
        except OSError:  # a folder that cannot be read, a link to itself: whoever reads the sources says so
            return {}

    def _is_of_interest(self, change: Change, path: str) -> bool:
        """Sources, and folders, whose names have no dot; also the watched folder itself and those above it."""
        if self._root == path or self._root.startswith(path.rstrip(os.sep) + os.sep):
            return True
        *folders, name = os.path.relpath(path, self._root).split(os.sep)
        hidden = any(folder.startswith(".") or folder == "__pycache__" for folder in folders)
        return not hidden and (is_source_name(name) or "." not in name)


def _nearest_folder(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _inode(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino)
