"""What a transaction has read: points and ranges of keys, absences included.

A get reads a point, a scan reads a range, and a range also holds the keys that were *not* there: a later insert into it
is a conflict (no phantoms). So a read set is all that isolation and reactivity ever ask about an execution.

Points are a set, for they are many and are looked up in dicts. Ranges are kept sorted, disjoint and apart, for they are
few; a range that overlaps or touches others becomes one with them as it is added:

    ranges           [a────c)      [f──g)
    add_range(b, f)      [b────────f)
    ranges           [a──────────────g)
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import starmap
from typing import TypeAlias

from evolute.database.budget import READ_ADVICE
from evolute.database.interval import Interval, point
from evolute.errors import LimitReached

ReadSetWire: TypeAlias = tuple[list[bytes], list[tuple[bytes, bytes]]]

_SHARED_POINTS_MAX = 8
_SHARED_MAX = 1024


class ReadSet:
    """Grows while a transaction runs; whoever receives it afterwards only reads it.

    `points` and `ranges` are for reading: only the methods here change them. `ranges` is sorted, and no two of them
    overlap or touch. A point may lie inside a range; it then counts twice and means nothing more.
    """

    __slots__ = ("_intervals_max", "points", "ranges")

    def __init__(self, intervals_max: int | None = None) -> None:
        """`intervals_max` is `limits.read_set_intervals_max`; None is for sets that were bounded where they grew."""
        self._intervals_max = intervals_max
        self.points: set[bytes] | frozenset[bytes] = set()
        self.ranges: list[Interval] = []

    def add_point(self, key: bytes) -> None:
        """Remembers that `key` was read, present or not. Raises LimitReached."""
        self.points.add(key)  # type: ignore[union-attr]  # a compact one does not grow
        if self._intervals_max is not None and len(self.points) + len(self.ranges) > self._intervals_max:
            raise self._limit_reached()

    def add_range(self, start: bytes, end: bytes) -> None:
        """Remembers that all of `start <= key < end` was read; nothing if that is empty. Raises LimitReached."""
        if end <= start:
            return
        ranges = self.ranges
        first = bisect_left(ranges, (start,))
        if first > 0 and ranges[first - 1].end >= start:
            first -= 1
        after = first
        while after < len(ranges) and ranges[after].start <= end:
            after += 1
        if first < after:
            start = min(start, ranges[first].start)
            end = max(end, ranges[after - 1].end)
        ranges[first:after] = (Interval(start, end),)
        if self._intervals_max is not None and len(self.points) + len(ranges) > self._intervals_max:
            raise self._limit_reached()

    def contains(self, key: bytes) -> bool:
        if key in self.points:
            return True
        # (key + b"\0",) sorts after every range that starts at `key` and before every range that starts later.
        before = bisect_right(self.ranges, (key + b"\0",)) - 1
        return before >= 0 and key < self.ranges[before].end

    def intervals(self) -> list[Interval]:
        """Everything that was read, points too, as sorted intervals that neither overlap nor touch."""
        merged = ReadSet()
        merged.ranges = list(self.ranges)
        for key in sorted(self.points):
            merged.add_range(*point(key))
        return merged.ranges

    def union(self, other: ReadSet) -> ReadSet:
        """A new set of what either has read, with this one's bound. Raises LimitReached."""
        both = ReadSet(self._intervals_max)
        both.points = {*self.points, *other.points}
        both.ranges = list(self.ranges)
        for start, end in other.ranges:
            both.add_range(start, end)
        if both._intervals_max is not None and len(both) > both._intervals_max:
            raise both._limit_reached()
        return both

    def without(self, cuts: Iterable[Interval]) -> ReadSet:
        """A new set, without a bound, that holds nothing of `cuts`: what its owner need not hear of."""
        away = ReadSet()
        for start, end in cuts:
            away.add_range(start, end)
        rest = ReadSet()
        rest.points = {key for key in self.points if not away.contains(key)}
        for start, end in self.ranges:
            for cut in away.ranges[max(bisect_right(away.ranges, (start,)) - 1, 0) :]:
                if cut.start >= end:
                    break
                rest.add_range(start, min(cut.start, end))
                start = max(start, cut.end)
            rest.add_range(start, end)
        return rest

    def compact(self) -> ReadSet:
        """An equal set, without a bound, that is kept for long and does not grow.

        One of many that have read the same few points, such as the records of the deployment and of a table, shares
        them with the others.
        """
        kept = ReadSet()
        kept.points = _shared(frozenset(self.points)) if len(self.points) <= _SHARED_POINTS_MAX else self.points
        kept.ranges = self.ranges[:]
        return kept

    def __len__(self) -> int:
        """The number of points and ranges: what `read_set_intervals_max` bounds."""
        return len(self.points) + len(self.ranges)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ReadSet):
            return NotImplemented
        return self.points == other.points and self.ranges == other.ranges

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"ReadSet(points={sorted(self.points)!r}, ranges={[tuple(interval) for interval in self.ranges]!r})"

    def to_wire(self) -> ReadSetWire:
        """Plain data that `marshal` takes."""
        return list(self.points), [(start, end) for start, end in self.ranges]

    @classmethod
    def from_wire(cls, wire: tuple[Iterable[bytes], Iterable[tuple[bytes, bytes]]]) -> ReadSet:
        """The set that `to_wire` was called on, without its bound. Trusts that the ranges are sorted and apart."""
        points, ranges = wire
        read_set = cls()
        read_set.points = set(points)
        read_set.ranges = list(starmap(Interval, ranges))
        return read_set

    def _limit_reached(self) -> LimitReached:
        return LimitReached(
            f"Too many reads in a single function execution (limit: {self._intervals_max}). {READ_ADVICE} "
            f"The setting is `read_set_intervals_max`."
        )


@functools.lru_cache(maxsize=_SHARED_MAX)
def _shared(points: frozenset[bytes]) -> frozenset[bytes]:
    """The first set that came with these points lately."""
    return points
