"""The one question: did a commit after `after_ts` touch this read set?

Commits are remembered in *runs* of consecutive ones, and a run forgets who touched what except for the last toucher of
each key. To a question a run is in one of three positions:

    time ─────────────────────►
           run A        run B        run C
        ├─────────┤  ├─────────┤  ├─────────┤
                          ▲
                       after_ts
        A  is older: never looked at
        B  straddles after_ts: a key of the read set counts only if its last touch is later than after_ts
        C  is newer: any key of the read set counts, so the first one found ends the search

Within a run a point is looked up in a dict and a range by bisection of the sorted keys. So the answer costs
O(intervals x log keys) for each run that is newer than the transaction, which are few, and never a walk over commits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from evolute.database.read_set import ReadSet

# So many new keys of a run, about those of one commit, are put in their places one by one: that looks at a few of the
# others, which lie all over the memory. Sorting anew looks at all of them, and is faster for many.
INSERTED_MAX = 32


class Touch(NamedTuple):
    """`key` was touched by the commit at `commit_ts`."""

    key: bytes
    commit_ts: int


class TouchedKeys:
    """The keys that a run of consecutive commits touched, each with the last of these commits that touched it."""

    __slots__ = ("_last_touch", "_sorted", "commits", "first_ts", "last_ts")

    def __init__(self) -> None:
        self.first_ts = 0
        self.last_ts = 0
        self.commits = 0
        self._last_touch: dict[bytes, int] = {}
        # The first len(_sorted) keys of _last_touch, sorted. The rest follow when a range is first asked about:
        # where nobody scans, nothing is ever sorted.
        self._sorted: list[bytes] = []

    def __len__(self) -> int:
        """The number of distinct keys."""
        return len(self._last_touch)

    def add(self, commit_ts: int, keys: Collection[bytes]) -> None:
        """Adds a commit that is later than all the others."""
        assert commit_ts > self.last_ts
        if self.commits == 0:
            self.first_ts = commit_ts
        self.last_ts = commit_ts
        self.commits += 1
        self._last_touch.update(dict.fromkeys(keys, commit_ts))

    def absorb(self, later: TouchedKeys) -> None:
        """Adds the commits of the run that follows this one."""
        assert self.commits > 0
        assert later.first_ts > self.last_ts
        self.last_ts = later.last_ts
        self.commits += later.commits
        self._last_touch.update(later._last_touch)

    def find(self, read_set: ReadSet, after_ts: int) -> Touch | None:
        """A touch of the read set later than `after_ts`, or None."""
        last_touch = self._last_touch
        if not last_touch.keys().isdisjoint(read_set.points):
            latest, key = max((last_touch[key], key) for key in last_touch.keys() & read_set.points)
            if latest > after_ts:
                return Touch(key, latest)
        if not read_set.ranges:
            return None
        keys = self._sorted_keys()
        length = len(keys)
        for start, end in read_set.ranges:
            index = bisect_left(keys, start)
            while index < length and (key := keys[index]) < end:
                if last_touch[key] > after_ts:  # false only in a run that straddles after_ts
                    return Touch(key, last_touch[key])
                index += 1
        return None

    def keys_in(self, start: bytes, end: bytes, after_ts: int) -> Iterator[bytes]:
        """The keys of an interval whose last touch is later than `after_ts`."""
        keys = self._sorted_keys()
        for index in range(bisect_left(keys, start), bisect_left(keys, end)):
            if self._last_touch[keys[index]] > after_ts:
                yield keys[index]

    def _sorted_keys(self) -> list[bytes]:
        keys, missing = self._sorted, len(self._last_touch) - len(self._sorted)
        if missing == 0:
            return keys
        # A dict keeps the order of first insertion, so the keys that are missing are its last ones.
        new_keys = islice(reversed(self._last_touch), missing)
        if missing <= INSERTED_MAX:
            for key in new_keys:
                insort(keys, key)
        else:
            keys.extend(new_keys)
            keys.sort()
        return keys


def first_conflict(read_set: ReadSet, after_ts: int, newest_first: Iterable[TouchedKeys]) -> Touch | None:
    """The first touch of `read_set` later than `after_ts` that is found in these runs, or None if there is none.

    The newest runs are asked first: of several touches the latest is the most useful one, because a transaction that
    ran again before *that* commit is published would only lose again.
    """
    for run in newest_first:
        if run.last_ts <= after_ts:
            return None
        touch = run.find(read_set, after_ts)
        if touch is not None:
            return touch
    return None
