"""A read set contains exactly what was added, keeps its ranges sorted and apart, and stays within its bound."""

from __future__ import annotations

import itertools
import marshal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.database.interval import Interval
from evolute.database.read_set import ReadSet
from evolute.errors import LimitReached

# All keys of up to three of these bytes: few enough to try each, dense enough for neighbours to touch.
ALPHABET = b"\x00\x01\xff"
UNIVERSE = [bytes(key) for length in range(4) for key in itertools.product(ALPHABET, repeat=length)]
KEYS = st.sampled_from(UNIVERSE)
POINTS = st.sets(KEYS, max_size=6)
RANGES = st.lists(st.tuples(KEYS, KEYS), max_size=8)


def read_set_of(points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> ReadSet:
    read_set = ReadSet()
    for key in points:
        read_set.add_point(key)
    for start, end in ranges:
        read_set.add_range(start, end)
    return read_set


def was_read(points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> set[bytes]:
    """The model: the keys of the universe that were read."""
    return points | {key for key in UNIVERSE if any(start <= key < end for start, end in ranges)}


def assert_sorted_and_apart(intervals: list[Interval]) -> None:
    assert all(start < end for start, end in intervals)
    assert all(left.end < right.start for left, right in itertools.pairwise(intervals))


@given(POINTS, RANGES)
def test_it_contains_what_was_added(points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> None:
    read_set = read_set_of(points, ranges)
    read = was_read(points, ranges)

    assert {key for key in UNIVERSE if read_set.contains(key)} == read
    assert_sorted_and_apart(read_set.ranges)
    assert read_set.points == points
    assert len(read_set) == len(points) + len(read_set.ranges)


@given(POINTS, RANGES)
def test_intervals_are_everything_merged(points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> None:
    intervals = read_set_of(points, ranges).intervals()

    assert_sorted_and_apart(intervals)
    held = {key for key in UNIVERSE if any(start <= key < end for start, end in intervals)}
    assert held == was_read(points, ranges)


@given(RANGES)
def test_the_order_of_ranges_does_not_matter(ranges: list[tuple[bytes, bytes]]) -> None:
    assert read_set_of(set(), ranges) == read_set_of(set(), ranges[::-1])


@given(POINTS, RANGES, POINTS, RANGES)
def test_union(
    points: set[bytes],
    ranges: list[tuple[bytes, bytes]],
    other_points: set[bytes],
    other_ranges: list[tuple[bytes, bytes]],
) -> None:
    left, right = read_set_of(points, ranges), read_set_of(other_points, other_ranges)
    both = left.union(right)

    assert both == read_set_of(points | other_points, ranges + other_ranges)
    assert left == read_set_of(points, ranges)
    assert right == read_set_of(other_points, other_ranges)


@given(POINTS, RANGES)
def test_it_goes_to_another_process_and_back(points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> None:
    read_set = read_set_of(points, ranges)
    assert ReadSet.from_wire(marshal.loads(marshal.dumps(read_set.to_wire()))) == read_set


@given(POINTS, RANGES)
def test_a_compact_one_is_equal(points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> None:
    assert read_set_of(points, ranges).compact() == read_set_of(points, ranges)


def test_compact_ones_share_their_points_and_do_not_grow() -> None:
    first, second = (read_set_of({b"a", b"b"}, [(b"c", end)]).compact() for end in (b"d", b"e"))
    assert first.points is second.points
    with pytest.raises(AttributeError):
        first.add_point(b"x")
    assert second.points == {b"a", b"b"}


def test_ranges_that_touch_become_one() -> None:
    read_set = ReadSet()
    read_set.add_range(b"a", b"c")
    read_set.add_range(b"f", b"g")
    read_set.add_range(b"m", b"n")
    read_set.add_range(b"c", b"f")
    assert read_set.ranges == [(b"a", b"g"), (b"m", b"n")]


def test_an_empty_range_is_nothing() -> None:
    read_set = ReadSet()
    read_set.add_range(b"b", b"b")
    read_set.add_range(b"c", b"b")
    assert not read_set


def test_the_bound_counts_points_and_merged_ranges() -> None:
    read_set = ReadSet(intervals_max=3)
    for key in (b"a", b"b", b"c", b"a"):
        read_set.add_point(key)
    with pytest.raises(LimitReached, match=r"limit: 3.*read_set_intervals_max"):
        read_set.add_range(b"d", b"e")

    read_set = ReadSet(intervals_max=3)
    for start in range(100):
        read_set.add_range(bytes([start]), bytes([start + 1]))
    assert len(read_set) == 1
    read_set.add_point(b"x")
    read_set.add_point(b"y")
    with pytest.raises(LimitReached, match="read_set_intervals_max"):
        read_set.add_point(b"z")


def test_a_union_keeps_the_bound() -> None:
    left, right = ReadSet(intervals_max=2), ReadSet()
    left.add_point(b"a")
    right.add_point(b"b")
    assert len(left.union(right)) == 2
    right.add_point(b"c")
    with pytest.raises(LimitReached, match="read_set_intervals_max"):
        left.union(right)
