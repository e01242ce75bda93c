"""A write set is plain data whose parts contain one another."""

from __future__ import annotations

import marshal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.database.write_set import WriteSet

KEYS = st.binary(min_size=1, max_size=3)


@given(st.dictionaries(KEYS, st.none() | st.binary(max_size=4)), st.frozensets(KEYS), st.data())
def test_it_goes_to_another_process_and_back(
    puts: dict[bytes, bytes | None], also_touched: frozenset[bytes], data: st.DataObject
) -> None:
    valued = [key for key, value in puts.items() if value is not None]
    stamped = data.draw(st.dictionaries(st.sampled_from(valued), st.integers(1, 9))) if valued else {}
    write_set = WriteSet(puts, also_touched | puts.keys(), stamped)
    assert WriteSet.from_wire(marshal.loads(marshal.dumps(write_set.to_wire()))) == write_set


def test_it_is_true_if_there_is_something_to_commit() -> None:
    assert not WriteSet()
    assert WriteSet({b"k": None}, frozenset({b"k"}))


def test_every_put_counts_as_touched() -> None:
    with pytest.raises(AssertionError, match="unnoticed"):
        WriteSet({b"k": b"v"})


def test_only_what_has_a_value_can_be_stamped() -> None:
    with pytest.raises(AssertionError, match="stamped"):
        WriteSet({b"k": None}, frozenset({b"k"}), {b"k": 1})
