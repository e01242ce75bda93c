"""Read sets turned round: given the keys of a commit, who has read any of them?

Every item is entered with its read set. Points are a dict from key to items. Distinct ranges are the nodes of a treap:
a binary tree, sorted by (start, end) and shaped by the ranges' hashes, which keeps it about as flat as a balanced one.
Every node knows the greatest end below it:

                        [g─k)  max s
                       /            \\
              [c─f) max g          [m─s) max s           stab(b"n"): start <= n < end
             /        \\            /        \\             left of [g─k): greatest end g <= n, nothing there
        [a─b) max b  [d─g) max g  [h─j) …   [p─q) …       right of [m─s): starts later than n

Stabbing goes left only where an end lies beyond the key and right only where a start does not, so that it visits
O(log ranges + hits) nodes however many disjoint ranges there are. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeAlias, TypeVar

from evolute.database.interval import Interval
from evolute.database.read_set import ReadSet

T = TypeVar("T")

# Those who have read one point or range. Mostly that is one, for whom a set would be the largest part of all.
_Readers: TypeAlias = T | set[T]


class IntervalMap(Generic[T]):
    """Items, each with the read set under which it is found. Items are hashable, so that none of them is a set."""

    def __init__(self) -> None:
        self._items = 0
        self._points: dict[bytes, _Readers[T]] = {}
        self._nodes: dict[Interval, _Node[T]] = {}
        self._root: _Node[T] | None = None

    def insert(self, item: T, read_set: ReadSet) -> None:
        """Enters `item`, which must not be here yet. The read set must not change while it is."""
        self._items += 1
        for key in read_set.points:
            readers = self._points.get(key)
            self._points[key] = item if readers is None else _with(readers, item)
        for interval in read_set.ranges:
            node = self._nodes.get(interval)
            if node is None:
                self._nodes[interval] = node = _Node(interval, item)
                self._root = _inserted(self._root, node)
            else:
                node.readers = _with(node.readers, item)

    def remove(self, item: T, read_set: ReadSet) -> None:
        """Takes `item` out, which is here with this read set."""
        self._items -= 1
        for key in read_set.points:
            readers = _without(self._points[key], item)
            if readers is None:
                del self._points[key]
            else:
                self._points[key] = readers
        for interval in read_set.ranges:
            node = self._nodes[interval]
            readers = _without(node.readers, item)
            if readers is None:
                del self._nodes[interval]
                self._root = _removed(self._root, node)
            else:
                node.readers = readers

    def stab(self, keys: Collection[bytes]) -> set[T]:
        """The items whose read set contains at least one of `keys`."""
        hits: set[T] = set()
        if not self._points.keys().isdisjoint(keys):
            for key in self._points.keys() & keys:
                _collect(self._points[key], hits)
        root = self._root
        if root is not None:
            for key in keys:
                if key < root.max_end:
                    self._stab_ranges(root, key, hits)
        return hits

    def __len__(self) -> int:
        """The number of items."""
        return self._items

    def count_intervals(self) -> int:
        """The number of distinct points and ranges."""
        return len(self._points) + len(self._nodes)

    @staticmethod
    def _stab_ranges(root: _Node[T], key: bytes, hits: set[T]) -> None:
        # A loop and not a recursion, because every commit passes here once for each key it touched.
        postponed: list[_Node[T]] = []
        node: _Node[T] | None = root
        while True:
            while node is not None and node.max_end > key:
                start, end = node.interval
                if start <= key:
                    if key < end:
                        _collect(node.readers, hits)
                    if node.right is not None:
                        postponed.append(node.right)
                node = node.left
            if not postponed:
                return
            node = postponed.pop()


class _Node(Generic[T]):
    """One distinct range. Its hash is its priority: no node has a greater one than its parent."""

    __slots__ = ("interval", "left", "max_end", "readers", "right")

    def __init__(self, interval: Interval, item: T) -> None:
        self.interval = interval
        self.readers: _Readers[T] = item
        self.max_end = interval.end
        self.left: _Node[T] | None = None
        self.right: _Node[T] | None = None

    @property
    def priority(self) -> int:
        return hash(self.interval)

    def set_max_end(self) -> None:
        max_end = self.interval.end
        if self.left is not None and self.left.max_end > max_end:
            max_end = self.left.max_end
        if self.right is not None and self.right.max_end > max_end:
            max_end = self.right.max_end
        self.max_end = max_end


def _with(readers: _Readers[T], item: T) -> set[T]:
    if not isinstance(readers, set):
        return {readers, item}
    readers.add(item)
    return readers


def _without(readers: _Readers[T], item: T) -> _Readers[T] | None:
    """None if nobody is left. Raises KeyError if `item` is none of them."""
    if not isinstance(readers, set):
        if readers != item:
            raise KeyError(item)
        return None
    readers.remove(item)
    return readers or None


def _collect(readers: _Readers[T], hits: set[T]) -> None:
    if isinstance(readers, set):
        hits |= readers
    else:
        hits.add(readers)


def _inserted(tree: _Node[T] | None, node: _Node[T]) -> _Node[T]:
    """`tree` with `node`, whose interval it does not hold yet."""
    if tree is None:
        return node
    if node.priority > tree.priority:
        node.left, node.right = _split(tree, node.interval)
        node.set_max_end()
        return node
    if node.interval < tree.interval:
        tree.left = _inserted(tree.left, node)
    else:
        tree.right = _inserted(tree.right, node)
    if node.interval.end > tree.max_end:
        tree.max_end = node.interval.end
    return tree


def _removed(tree: _Node[T] | None, node: _Node[T]) -> _Node[T] | None:
    """`tree` without `node`, which is in it."""
    assert tree is not None
    if tree is node:
        return _joined(tree.left, tree.right)
    if node.interval < tree.interval:
        tree.left = _removed(tree.left, node)
    else:
        tree.right = _removed(tree.right, node)
    tree.set_max_end()
    return tree


def _split(tree: _Node[T] | None, interval: Interval) -> tuple[_Node[T] | None, _Node[T] | None]:
    """The nodes before `interval` and those after it."""
    if tree is None:
        return None, None
    if tree.interval < interval:
        tree.right, after = _split(tree.right, interval)
        tree.set_max_end()
        return tree, after
    before, tree.left = _split(tree.left, interval)
    tree.set_max_end()
    return before, tree


def _joined(left: _Node[T] | None, right: _Node[T] | None) -> _Node[T] | None:
    """One tree of two, of which every node of the first comes before every node of the second."""
    if left is None:
        return right
    if right is None:
        return left
    if left.priority > right.priority:
        left.right = _joined(left.right, right)
        left.set_max_end()
        return left
    right.left = _joined(left, right.left)
    right.set_max_end()
    return right
