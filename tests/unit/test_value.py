"""Values: Int64 arithmetic, the sentinels, ids as annotations, sizes."""

from __future__ import annotations

import copy
import pickle
import typing
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.values.value import (
    COMMIT_TS,
    INT64_MAX,
    INT64_MIN,
    UNDEFINED,
    UNSET,
    Document,
    Id,
    Int64,
    not_a_value,
    size_of,
    type_name,
)


class Message(Document):
    body: str


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Int64(7) + 1, 8),
        (1 + Int64(7), 8),
        (Int64(7) - Int64(9), -2),
        (9 - Int64(7), 2),
        (Int64(7) * 3, 21),
        (3 * Int64(7), 21),
        (Int64(7) // 2, 3),
        (15 // Int64(7), 2),
        (Int64(7) % 4, 3),
        (15 % Int64(7), 1),
        (-Int64(7), -7),
        (+Int64(7), 7),
        (abs(Int64(-7)), 7),
        (sum([Int64(3), Int64(4)]), 7),
    ],
)
def test_int64_arithmetic_stays_int64(result: object, expected: int) -> None:
    assert type(result) is Int64
    assert result == expected


@pytest.mark.parametrize(
    "compute",
    [
        lambda: Int64(INT64_MAX + 1),
        lambda: Int64(INT64_MAX) + 1,
        lambda: Int64(INT64_MIN) - 1,
        lambda: Int64(INT64_MAX) * 2,
        lambda: -Int64(INT64_MIN),
        lambda: abs(Int64(INT64_MIN)),
        lambda: Int64(INT64_MIN) // -1,
    ],
)
def test_int64_raises_on_overflow(compute: Callable[[], object]) -> None:
    with pytest.raises(OverflowError, match="does not fit into 64 bits"):
        compute()


def test_int64_with_a_float_computes_as_int_does() -> None:
    mixed: object = Int64(7) + 0.5
    assert mixed == 7.5
    assert Int64(7) / 2 == 3.5


def test_int64_takes_no_fractions_and_shows_itself() -> None:
    with pytest.raises(TypeError):
        Int64(3.5)  # type: ignore[arg-type]
    assert repr(Int64(-3)) == "Int64(-3)"
    assert str(Int64(-3)) == f"{Int64(-3)}" == "-3"
    assert type(pickle.loads(pickle.dumps(Int64(3)))) is Int64


@pytest.mark.parametrize("sentinel", [UNDEFINED, UNSET, COMMIT_TS])
def test_a_sentinel_stays_one_object(sentinel: object) -> None:
    assert copy.deepcopy(sentinel) is sentinel
    assert pickle.loads(pickle.dumps(sentinel)) is sentinel
    assert not sentinel
    assert repr(sentinel).isupper()


def test_an_id_annotation_carries_its_table_or_row() -> None:
    by_row: object = Id[Message]
    by_name: object = Id["messages"]  # type: ignore[name-defined]
    assert typing.get_args(by_row) == (Message,)
    assert typing.get_args(by_name) == (typing.Literal["messages"],)
    assert typing.get_origin(by_row) is typing.get_origin(by_name) is Id
    assert type(str(Id("x"))) is str


def test_a_message_says_what_to_use_instead() -> None:
    assert not_a_value((1,), ".a[0].b") == "tuple is not a value at .a[0].b; use a list"
    assert not_a_value({1}) == "set is not a value; use a sorted list"
    assert not_a_value(object()).startswith("object is not a value; values are None, bool")
    assert "use Int64(9007199254740993)" in not_a_value(2**53 + 1)
    assert "does not fit into 64 bits" in not_a_value(10**5000)
    assert type_name(None) == "None"
    assert type_name(Int64(1)) == "Int64"


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, 1),
        (True, 1),
        (1, 9),
        (1.5, 9),
        (Int64(1), 9),
        ("", 2),
        ("é", 4),
        (b"abc", 5),
        ([], 2),
        ([1, None], 12),
        ({}, 2),
        ({"ab": "c", "d": 1}, 2 + 3 + 3 + 2 + 9),
        ({"a": {"b": [True]}}, 2 + 2 + 2 + 2 + 3),
    ],
)
def test_size(value: object, size: int) -> None:
    assert size_of(value) == size


def test_what_is_no_value_has_no_size() -> None:
    with pytest.raises(TypeError, match="tuple is not a value"):
        size_of({"a": (1, 2)})


@given(st.integers(INT64_MIN, INT64_MAX), st.integers(INT64_MIN, INT64_MAX).filter(bool))
def test_int64_computes_as_int(left: int, right: int) -> None:
    assert Int64(left) % right == left % right
    assert Int64(left) // right == left // right or (left, right) == (INT64_MIN, -1)
