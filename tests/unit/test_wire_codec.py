"""Canonical wire JSON: round trips, one spelling per value, what clients may send, what is refused and how."""

from __future__ import annotations

import base64
import collections
import datetime
import json
import math
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given

from evolute.errors import InvalidValue
from evolute.values.value import COMMIT_TS, UNDEFINED, Id, Int64, Value
from evolute.values.wire_codec import (
    COMMIT_TS_PLACEHOLDER,
    canonical,
    clean,
    decode,
    decode_canonical,
    encode,
    from_json,
    int64_json,
    with_points,
)
from tests.unit.value_strategies import decoded, float_of, floats, normal, python_form, values


def nested(levels: int) -> Value:
    value: Value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@given(values)
def test_decoding_gives_the_same_value(value: object) -> None:
    data = encode(value)
    assert decoded(decode_canonical(data)) == decoded(python_form(value))
    assert decoded(decode(data)) == decoded(python_form(value))


@given(values, values)
def test_equal_values_are_equal_bytes(left: object, right: object) -> None:
    assert (encode(left) == encode(right)) == (normal(left) == normal(right))


@given(values)
def test_canonical_bytes_are_a_fixed_point(value: object) -> None:
    data = encode(value)
    assert encode(decode_canonical(data)) == data
    assert canonical(orjson.loads(data)) == data
    assert encode(from_json(orjson.loads(data))) == data


@given(values)
def test_any_spelling_becomes_the_canonical_one(value: object) -> None:
    data = encode(value)
    spelled = json.dumps(json.loads(with_points(data)), indent=1, sort_keys=False)
    assert canonical(orjson.loads(spelled)) == data
    assert encode(decode(spelled)) == data


@given(values)
def test_keys_are_sorted_and_the_placeholder_stays_outside_strings(value: object) -> None:
    data = encode(value)
    assert orjson.dumps(orjson.loads(data), option=orjson.OPT_SORT_KEYS) == data
    assert COMMIT_TS_PLACEHOLDER not in data


@given(floats)
def test_a_float_keeps_its_bits(number: float) -> None:
    back = decode_canonical(encode(number))
    assert isinstance(back, (int, float))
    assert struct.pack("<d", back) == struct.pack("<d", number)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (3, b"3"),
        (3.0, b"3"),
        (-(2.0**53), b"-9007199254740992"),
        (2.0**53 + 2, b"9007199254740994.0"),
        (1e22, b"1e+22"),
        (0.1, b"0.1"),
        (0.0, b"0"),
        (-0.0, b'{"$float":"AAAAAAAAAIA="}'),
        (math.nan, b'{"$float":"AAAAAAAA+H8="}'),
        (math.inf, b'{"$float":"AAAAAAAA8H8="}'),
        (-math.inf, b'{"$float":"AAAAAAAA8P8="}'),
        (float_of(0xFFF8000000000001), b'{"$float":"AQAAAAAA+P8="}'),
        (Int64(1), b'{"$integer":"AQAAAAAAAAA="}'),
        (Int64(-1), b'{"$integer":"//////////8="}'),
        (b"xy", b'{"$bytes":"eHk="}'),
        (True, b"true"),
        (COMMIT_TS, COMMIT_TS_PLACEHOLDER),
        ({"b": 1, "a": [None, "é"]}, '{"a":[null,"é"],"b":1}'.encode()),
        (Id("abc"), b'"abc"'),
        (collections.OrderedDict(b=1, a=2), b'{"a":2,"b":1}'),
    ],
)
def test_spellings(value: object, data: bytes) -> None:
    assert encode(value) == data


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_int64_json(number: int) -> None:
    assert int64_json(number) == encode(Int64(number))


@pytest.mark.parametrize("text", ["12345678901234567890", "9007199254740995", "1e30", "123456789012345678901234567890"])
def test_a_large_json_integer_is_a_float(text: str) -> None:
    value = decode(text)
    assert type(value) is float
    assert value == float(text)
    assert canonical(orjson.loads(text)) == encode(value)


def test_a_clients_numbers_are_equal_however_they_are_written() -> None:
    for text in ("3", "3.0", "3e0", "0.3e1"):
        assert type(decode(text)) is int
        assert canonical(orjson.loads(text)) == b"3"
    assert canonical(orjson.loads("-0.0")) == encode(-0.0)


BAD: list[tuple[Any, str]] = [
    ({"a": [{"b": (1, 2)}]}, "tuple is not a value at .a[0].b; use a list"),
    ({"a": {1}}, "set is not a value at .a; use a sorted list"),
    ([datetime.datetime(2024, 1, 1)], "datetime is not a value at [0]; use .timestamp() * 1000 or .isoformat()"),
    ({"a": UNDEFINED}, "Undefined is not a value at .a; leave the field out"),
    (
        {"n": 2**53 + 1},
        "The int 9007199254740993 at .n is beyond ±2^53, where numbers are not exact; use Int64(9007199254740993)",
    ),
    ({"n": 2**70}, "An int at .n does not fit into 64 bits; use a float or a str"),
    ({"a": {"$b": 1}}, "Field name '$b' starts with '$', which is reserved at .a"),
    ({"a": {"$integer": "x"}}, "Field name '$integer' starts with '$', which is reserved at .a"),
    ({"é": 1}, "Field name 'é' has other characters than printable ASCII"),
    ({"a\n": 1}, "Field name 'a\\n' has other characters than printable ASCII"),
    ({1: 1}, "Field name 1 is of type int; field names are strings"),
    ({"x" * 1025: 1}, "Field name is too long (1025 > maximum length 1024)"),
    ({"a": ["b", "\ud800"]}, "A string holds the lone surrogate '\\ud800', which is no Unicode character at .a[1]"),
    ([0] * 8193, "Array length is too long (8193 > maximum length 8192). The setting is `array_items_max`."),
    (
        {str(n): n for n in range(1025)},
        "Object has too many fields (1025 > maximum number 1024). The setting is `object_fields_max`.",
    ),
]


@pytest.mark.parametrize(("value", "text"), BAD, ids=[text[:30] for _, text in BAD])
def test_what_is_not_a_value_is_refused_with_its_place(value: object, text: str) -> None:
    with pytest.raises(InvalidValue) as error:
        encode(value)
    assert str(error.value) == text


def test_depth_is_bounded_and_a_cycle_is_too_deep() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    assert decode_canonical(encode(nested(64))) == nested(64)
    for value in (nested(65), cycle):
        with pytest.raises(InvalidValue, match=r"^Value is too nested \(nested 65 levels deep > maximum nesting 64\)"):
            encode(value)
    with pytest.raises(InvalidValue, match=r"^Document is too nested \(nested 17 levels deep > maximum nesting 16\)"):
        encode(nested(17), depth_max=16, depth_setting="document_depth_max")
    with pytest.raises(InvalidValue, match="too nested"):
        decode("[" * 65 + "]" * 65)
    with pytest.raises(InvalidValue, match="Not JSON"):
        decode("[" * 100_000 + "]" * 100_000)


def base64_of(number: float) -> str:
    return base64.b64encode(struct.pack("<d", number)).decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"$integer":"AQAAAAAAAA=="}', "The content of `$integer` has 7 bytes instead of 8"),
        ('{"$integer":1}', "The content of `$integer` is not a string of base64"),
        ('{"$integer":"AQAAAAAAAAA"}', "The content of `$integer` is not base64"),
        ('{"$bytes":"eHl="}', "The content of `$bytes` is not base64"),
        ('{"$bytes":"e Hk="}', "The content of `$bytes` is not base64"),
        ('{"$bytes":"é"}', "The content of `$bytes` is not base64"),
        (f'{{"$float":"{base64_of(1.0)}"}}', "`$float` is for NaN, infinities and -0.0; write 1.0 as a plain number"),
        ('{"a":{"$commitTs":null}}', "Field name '$commitTs' starts with '$', which is reserved at .a"),
        ('{"$undefined":null}', "Field name '$undefined' starts with '$', which is reserved"),
        ('[{"$set":[]}]', "Field name '$set' starts with '$', which is reserved at [0]"),
        ('{"$integer":"AQAAAAAAAAA=","b":1}', "Field name '$integer' starts with '$', which is reserved"),
    ],
)
def test_a_bad_wrapper_is_refused(text: str, message: str) -> None:
    for read in (from_json, canonical):
        with pytest.raises(InvalidValue) as error:
            read(orjson.loads(text))
        assert str(error.value) == message


@pytest.mark.parametrize("text", ["NaN", "1e400", '"\\ud800"', "{", "", b"\xff"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidValue, match=r"^Not JSON: "):
        decode(text)


def test_the_clean_format_is_readable_and_lossy() -> None:
    value = {"a": Int64(-7), "b": b"xy", "c": [math.nan, math.inf, -math.inf, -0.0], "d": "$5", "e": 1}
    assert clean(encode(value)) == (b'{"a":"-7","b":"eHk=","c":["NaN","Infinity","-Infinity",-0.0],"d":"$5","e":1}')
    assert clean(b'{"a":1}') == b'{"a":1}'


def test_points_are_put_at_whole_numbers_only() -> None:
    assert with_points(b'{"a":[1,0.5,true,"2",1e+22],"b":{"$integer":"AQAAAAAAAAA="}}') == (
        b'{"a":[1.0,0.5,true,"2",1e+22],"b":{"$integer":"AQAAAAAAAAA="}}'
    )
