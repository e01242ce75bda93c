"""The interval map finds what a walk over all read sets would find, and stays flat."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evolute.database.interval import Interval
from evolute.database.interval_map import IntervalMap, _Node
from evolute.database.read_set import ReadSet

KEYS = st.sampled_from([bytes([letter]) for letter in b"abcdefghijklmnop"])


def check_node(node: _Node[int] | None) -> tuple[list[Interval], bytes, int]:
    """The intervals below, the greatest end and the depth; asserts that the tree is a treap that knows its ends."""
    if node is None:
        return [], b"", 0
    left, left_end, left_depth = check_node(node.left)
    right, right_end, right_depth = check_node(node.right)
    intervals = [*left, node.interval, *right]
    assert intervals == sorted(set(intervals))
    assert node.max_end == max(left_end, node.interval.end, right_end)
    assert all(child is None or child.priority <= node.priority for child in (node.left, node.right))
    return intervals, node.max_end, 1 + max(left_depth, right_depth)


class AgainstAWalk(RuleBasedStateMachine):
    """The model is a dict from item to read set, walked for every question."""

    def __init__(self) -> None:
        super().__init__()
        self.map: IntervalMap[int] = IntervalMap()
        self.model: dict[int, ReadSet] = {}
        self.next_item = 0

    @rule(points=st.sets(KEYS, max_size=3), ranges=st.lists(st.tuples(KEYS, KEYS), max_size=3))
    def insert(self, points: set[bytes], ranges: list[tuple[bytes, bytes]]) -> None:
        read_set = ReadSet()
        for key in points:
            read_set.add_point(key)
        for start, end in ranges:
            read_set.add_range(start, end)
        self.map.insert(self.next_item, read_set)
        self.model[self.next_item] = read_set
        self.next_item += 1

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.model)))
        self.map.remove(item, self.model.pop(item))

    @rule(keys=st.frozensets(KEYS, max_size=4))
    def stab(self, keys: frozenset[bytes]) -> None:
        hit = {item for item, read_set in self.model.items() if any(read_set.contains(key) for key in keys)}
        assert self.map.stab(keys) == hit

    @invariant()
    def tree_is_sound(self) -> None:
        assert len(self.map) == len(self.model)
        ranges = {interval for read_set in self.model.values() for interval in read_set.ranges}
        points = {key for read_set in self.model.values() for key in read_set.points}
        assert check_node(self.map._root)[0] == sorted(ranges)
        assert self.map.count_intervals() == len(points) + len(ranges)


TestAgainstAWalk = AgainstAWalk.TestCase
TestAgainstAWalk.settings = settings(max_examples=60, stateful_step_count=40)


def test_it_stays_flat() -> None:
    """Given 4,096 disjoint ranges entered in order, I expect a depth of a few times the logarithm, and no hits between
    them; and an empty map when all are gone."""
    map_: IntervalMap[int] = IntervalMap()
    read_sets = [ReadSet() for _ in range(4096)]
    for number, read_set in enumerate(read_sets):
        read_set.add_range(b"%06d" % (2 * number), b"%06d" % (2 * number + 1))
        map_.insert(number, read_set)

    assert check_node(map_._root)[2] <= 5 * 12
    assert map_.stab([b"%06d" % number for number in range(100, 110)]) == {50, 51, 52, 53, 54}

    order = list(range(4096))
    random.Random(1).shuffle(order)
    for number in order:
        map_.remove(number, read_sets[number])
    assert map_.count_intervals() == 0
    assert map_._root is None
