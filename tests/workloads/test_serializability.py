"""The checker of histories: it accepts what has an order, and names each way in which something else was seen."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest

from tests.workloads.serializability import Done, NotSerializable, check

X, Y = 0, 1


def done(
    began: int,
    ended: int | None,
    *,
    reads: Mapping[int, Sequence[int]] | None = None,
    appends: Mapping[int, int] | None = None,
    ts: int | None = None,
) -> Done:
    """The timestamp is that of its end, if it does not matter."""
    return Done(began, appends or {}, reads or {}, ended, ended if ts is None else ts)


def test_what_happened_one_after_the_other_is_accepted(seed: int) -> None:
    chance, moments = random.Random(seed), itertools.count(1)
    history: list[Done] = []
    state: dict[int, list[int]] = {X: [], Y: []}
    for value in range(100):
        began = next(moments)
        seen = {name: tuple(state[name]) for name in chance.sample((X, Y), chance.randint(0, 2))}
        appends = dict.fromkeys(chance.sample((X, Y), chance.randint(0, 2)), value)
        for name in appends:
            state[name].append(value)
        history.append(done(began, next(moments), reads=seen, appends=appends))
    assert check(history, state) > len(history)


def test_a_lost_update() -> None:
    """Both have seen the list empty and appended to it: one of them cannot have come after the other."""
    history = [done(1, 3, reads={X: []}, appends={X: 1}), done(2, 4, reads={X: []}, appends={X: 2})]
    with pytest.raises(NotSerializable, match="timestamps are in another order"):
        check(history, {X: [1, 2]})
    for one in history:
        one.ts = None  # there is still no order
    with pytest.raises(NotSerializable, match="each of these must have come before the next"):
        check(history, {X: [1, 2]})


def test_write_skew() -> None:
    """Each has not seen what the other has appended."""
    history = [done(1, 3, reads={Y: []}, appends={X: 1}, ts=3), done(2, 4, reads={X: []}, appends={Y: 2}, ts=3)]
    with pytest.raises(NotSerializable, match="timestamps are in another order"):
        check(history, {X: [1], Y: [2]})
    history[0].ts = None
    with pytest.raises(NotSerializable, match="rw on"):
        check(history, {X: [1], Y: [2]})


def test_two_readers_that_disagree_on_the_order() -> None:
    """One has seen the first append alone, the other the second alone."""
    history = [
        done(1, 7, appends={X: 1}, ts=5),
        done(2, 8, appends={Y: 2}, ts=6),
        done(3, 9, reads={X: [1], Y: []}, ts=5),
        done(4, 10, reads={X: [], Y: [2]}, ts=6),
    ]
    with pytest.raises(NotSerializable):
        check(history, {X: [1], Y: [2]})
    history.pop()
    check(history, {X: [1], Y: [2]})


def test_the_past_is_serializable_but_told_too_late() -> None:
    history = [done(1, 2, appends={X: 1}, ts=5), done(3, 4, reads={X: []}, ts=4)]
    history[1].query = True
    with pytest.raises(NotSerializable, match="time"):
        check(history, {X: [1]})
    history[1].began = 0
    check(history, {X: [1]})


def test_what_was_begun_later_has_a_later_timestamp() -> None:
    history = [done(1, 2, appends={X: 1}, ts=5), done(3, 4, appends={Y: 2}, ts=4)]
    with pytest.raises(NotSerializable, match="something had ended before this began"):
        check(history, {X: [1], Y: [2]})


@pytest.mark.parametrize(
    ("last", "match"),
    [
        ({X: [1, 1]}, "twice"),
        ({X: [1, 7]}, "which nobody has appended"),
        ({X: []}, "is lost"),
        ({}, "is lost"),
    ],
)
def test_lists_that_cannot_have_become_so(last: Mapping[int, Sequence[int]], match: str) -> None:
    with pytest.raises(NotSerializable, match=match):
        check([done(1, 2, appends={X: 1})], last)


def test_a_list_that_never_was() -> None:
    history = [done(1, 2, appends={X: 1}), done(3, 4, appends={X: 2}), done(5, 6, reads={X: [2]})]
    with pytest.raises(NotSerializable, match="never was"):
        check(history, {X: [1, 2]})


def test_what_nobody_was_told_the_end_of_may_have_happened_or_not() -> None:
    history = [done(1, None, appends={X: 1}), done(2, None, appends={Y: 2}), done(3, 4, reads={X: [1], Y: []})]
    check(history, {X: [1], Y: []})
    with pytest.raises(NotSerializable):
        check(history, {X: [], Y: []})
