"""The latest commits one by one: for a transaction that has seen some of them and not the others.

The write log forgets who touched a key but for the last one, which is all that matters to a transaction that has seen
everything up to a moment. One of a chain has, beyond that moment, also seen the commits of its own origin. If the log
finds a touch, this tells whether there is one by anybody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from evolute.database.conflict import Touch
from evolute.database.read_set import ReadSet

KEYS_MAX = 65_536


class RecentCommits:
    """For the event loop's thread. Remembers the commits after `last_ts`, the oldest ones no longer than it must."""

    def __init__(self, last_ts: int) -> None:
        self._floor_ts = last_ts
        self._commits: deque[tuple[int, int, Collection[bytes]]] = deque()
        self._keys = 0

    def append(self, commit_ts: int, origin: int, keys: Collection[bytes]) -> None:
        self._commits.append((commit_ts, origin, keys))
        self._keys += len(keys)
        while self._keys > KEYS_MAX:
            self._floor_ts, _, forgotten = self._commits.popleft()
            self._keys -= len(forgotten)

    def foreign_touch(self, read_set: ReadSet, after_ts: int, origin: int, touch: Touch) -> Touch | None:
        """A commit later than `after_ts` and not of `origin` that touched `read_set`, or None if there is none.

        `touch` is one by anybody, which is the answer if it can no longer be told.
        """
        if after_ts < self._floor_ts:
            return touch
        for commit_ts, its_origin, keys in reversed(self._commits):
            if commit_ts <= after_ts:
                return None
            if its_origin != origin:
                for key in keys:
                    if read_set.contains(key):
                        return Touch(key, commit_ts)
        return None
