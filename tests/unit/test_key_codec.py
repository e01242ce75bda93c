"""Index keys: encoded order is value order, equal values are equal bytes, every component tells where it ends."""

from __future__ import annotations

import datetime
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.errors import InvalidValue
from evolute.values.key_codec import encode_component, encode_key
from evolute.values.value import INT64_MAX, INT64_MIN, UNDEFINED, Int64
from tests.unit.key_decoder import decode_key
from tests.unit.value_strategies import compare, decoded, fields, float_of, normal, python_form

IN_ORDER: list[object] = [
    UNDEFINED,
    None,
    Int64(INT64_MIN),
    Int64(-(2**32) - 1),
    Int64(-(2**32)),
    Int64(-(2**16) - 1),
    Int64(-(2**16)),
    Int64(-257),
    Int64(-256),
    Int64(-1),
    Int64(0),
    Int64(1),
    Int64(255),
    Int64(256),
    Int64(2**16),
    Int64(2**32),
    Int64(INT64_MAX),
    float_of(0xFFF8000000000001),
    float_of(0xFFF8000000000000),
    -math.inf,
    -(2**53),
    -1,
    -5e-324,
    -0.0,
    0,
    5e-324,
    0.5,
    1,
    1.5,
    2**53,
    math.inf,
    math.nan,
    float_of(0x7FF8000000000001),
    False,
    True,
    "",
    "\0",
    "\0\0",
    "\0a",
    "a",
    "a\0",
    "a\0b",
    "a\x01",
    "ab",
    "b",
    "\uffff",
    "\U00010000",
    b"",
    b"\0",
    b"\0\xff",
    b"\x01",
    b"\xff",
    [],
    [None],
    [None, None],
    [[]],
    [[], 1],
    [{}],
    {},
    {"": 0},
    {"a": None},
    {"a": 1},
    {"a": 1, "b": 0},
    {"a": 2},
    {"a\x1f": 0},
    {"b": None},
]


def test_the_order_of_all_types() -> None:
    keys = [encode_component(value) for value in IN_ORDER]
    for lower, higher in itertools.pairwise(keys):
        assert lower < higher
    assert all(compare(one, other) < 0 for one, other in itertools.pairwise(IN_ORDER))


def test_the_first_byte_tells_components_from_what_continues_one() -> None:
    keys = [encode_component(value) for value in IN_ORDER]
    assert all(1 <= key[0] <= 0xFE for key in keys)
    for one, other in itertools.permutations(keys, 2):
        assert not one.startswith(other) or one[len(other)] == 0xFF


@given(fields, fields)
def test_encoded_order_is_value_order(left: object, right: object) -> None:
    keys = encode_component(left), encode_component(right)
    order = compare(left, right)
    assert (keys[0] > keys[1]) - (keys[0] < keys[1]) == (order > 0) - (order < 0)
    assert (keys[0] == keys[1]) == (normal(left) == normal(right))


@given(st.lists(fields, max_size=4), st.lists(fields, max_size=4))
def test_tuples_sort_by_their_first_difference(left: list[object], right: list[object]) -> None:
    expected = next(
        (order for order in map(compare, left, right) if order),
        len(left) - len(right),
    )
    keys = encode_key(left), encode_key(right)
    assert (keys[0] > keys[1]) - (keys[0] < keys[1]) == (expected > 0) - (expected < 0)


@given(st.lists(fields, max_size=5))
def test_round_trip(values: list[object]) -> None:
    assert decoded(decode_key(encode_key(values))) == decoded(python_form(values))


@given(st.lists(fields, min_size=1, max_size=3), st.lists(fields, max_size=2), st.lists(fields, min_size=1, max_size=3))
def test_a_prefix_holds_exactly_the_keys_that_begin_with_its_components(
    prefix: list[object], rest: list[object], other: list[object]
) -> None:
    start = encode_key(prefix)
    assert start <= encode_key(prefix + rest) < start + b"\xff"
    begins = normal(other[: len(prefix)]) == normal(prefix)
    assert (start <= encode_key(other) < start + b"\xff") == begins


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), "tuple is not a value; use a list"),
        ([1, {"a": {2}}], "set is not a value; use a sorted list"),
        (datetime.date(2024, 1, 1), "date is not a value; use .isoformat()"),
        ([UNDEFINED], "Undefined is not a value; leave the field out"),
        (
            2**53 + 1,
            "The int 9007199254740993 is beyond ±2^53, where numbers are not exact; use Int64(9007199254740993)",
        ),
        ("\udc00", "A string holds the lone surrogate '\\udc00', which is no Unicode character"),
    ],
)
def test_what_is_not_a_value_is_refused(value: object, text: str) -> None:
    with pytest.raises(InvalidValue) as error:
        encode_component(value)
    assert str(error.value) == text


def test_a_cycle_is_refused() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(InvalidValue, match="too nested"):
        encode_component(cycle)
