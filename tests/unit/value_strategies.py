"""Hypothesis strategies for values, and the model of what makes two of them the same and how they are ordered."""

from __future__ import annotations

import struct
from typing import Any, cast

from hypothesis import strategies as st

from evolute.values.value import INT64_MAX, INT64_MIN, UNDEFINED, WHOLE_MAX, Int64

SPECIAL_FLOATS = [0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), 5e-324, 1e22, 2.0**53, -(2.0**53), 2.0**53 + 2]


def float_of(bits: int) -> float:
    """The float64 of 64 bits: a NaN may have any payload and either sign."""
    number: float = struct.unpack(">d", bits.to_bytes(8, "big"))[0]
    return number


def bits_of(number: float) -> int:
    return int.from_bytes(struct.pack(">d", number), "big")


AWKWARD_STRINGS = ["", "\0", "a\0", "a\0b", "a\xff", "$", "$5", '{"$commitTs":null}', "\U0010ffff"]

strings = st.text(max_size=12) | st.sampled_from(AWKWARD_STRINGS)
names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=6).filter(lambda name: name[:1] != "$")
floats = st.floats() | st.integers(0, 2**64 - 1).map(float_of) | st.sampled_from(SPECIAL_FLOATS)
wholes = st.integers(-WHOLE_MAX, WHOLE_MAX) | st.integers(-300, 300)
int64s = (st.integers(INT64_MIN, INT64_MAX) | st.integers(-70000, 70000)).map(Int64)
byte_strings = st.binary(max_size=8) | st.sampled_from([b"\0", b"\0\xff", b"\xff"])
leaves = st.none() | st.booleans() | wholes | floats | int64s | strings | byte_strings
values: st.SearchStrategy[object] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
fields = values | st.just(UNDEFINED)


def normal(value: object) -> object:
    """What decides whether two values are the same: type and bits, with a number's type left to its value."""
    if isinstance(value, Int64):
        return ("int64", int(value))
    if isinstance(value, bool) or value is None:
        return ("constant", value)
    if isinstance(value, (int, float)):
        return ("number", bits_of(value))
    if isinstance(value, list):
        return ("array", tuple(map(normal, value)))
    if isinstance(value, dict):
        return ("object", tuple(sorted((name, normal(item)) for name, item in value.items())))
    return (type(value).__name__, value)


def decoded(value: object) -> object:
    """What decides whether Python sees the same: as `normal`, and whether a number is int or float."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if isinstance(value, dict):
        return {name: decoded(item) for name, item in value.items()}
    return (type(value), normal(value))


def python_form(value: object) -> object:
    """The value with each whole number as the int that decoding gives."""
    if isinstance(value, list):
        return [python_form(item) for item in value]
    if isinstance(value, dict):
        return {name: python_form(item) for name, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) <= WHOLE_MAX and bits_of(value) != 1 << 63:
        return int(value)
    return value


def compare(left: object, right: object) -> int:
    """The order of values (semantics D10), written for clarity: negative, zero or positive."""
    ranks = _rank(left), _rank(right)
    if ranks[0] != ranks[1]:
        return ranks[0] - ranks[1]
    if isinstance(left, list):
        return _compare_sequences(left, cast(list[object], right))
    if isinstance(left, dict):
        return _compare_sequences(_flat(left), _flat(cast(dict[str, object], right)))
    keys = _leaf_key(left), _leaf_key(right)
    return 1 if keys[0] > keys[1] else -1 if keys[0] < keys[1] else 0


def _flat(fields: dict[str, object]) -> list[object]:
    """Name, value, name, value, … by name."""
    return [part for name in sorted(fields) for part in (name, fields[name])]


def _compare_sequences(left: list[object], right: list[object]) -> int:
    for one, other in zip(left, right, strict=False):
        order = compare(one, other)
        if order:
            return order
    return len(left) - len(right)


def _rank(value: object) -> int:
    if value is UNDEFINED:
        return 0
    if value is None:
        return 1
    if isinstance(value, Int64):
        return 2
    if isinstance(value, bool):
        return 4
    kinds: list[tuple[type, ...]] = [(int, float), (), (str,), (bytes,), (list,), (dict,)]
    return 3 + next(rank for rank, kind in enumerate(kinds) if isinstance(value, kind))


def _leaf_key(value: object) -> Any:
    if value is None or value is UNDEFINED:
        return 0
    if isinstance(value, (bool, Int64, bytes)):
        return value
    if isinstance(value, str):
        return [ord(character) for character in value]
    bits = bits_of(cast(float, value))
    return -(bits & ~(1 << 63)) - 1 if bits >> 63 else bits
