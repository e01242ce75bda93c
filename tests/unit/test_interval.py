"""A point holds its key and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolute.database.interval import point


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_a_point_holds_exactly_its_key(key: bytes, other: bytes) -> None:
    start, end = point(key)
    assert (start <= other < end) == (other == key)
