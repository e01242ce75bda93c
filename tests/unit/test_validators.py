"""Validators: what they accept, in which form functions receive it, and every text of a mismatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from evolute.errors import ValidationFailed
from evolute.values.containers import ArrayOf, Field, ObjectOf, RecordOf, UnionOf
from evolute.values.document_id import encode_id
from evolute.values.validators import (
    AnyValue,
    Boolean,
    Bytes,
    IdOf,
    Int64Number,
    Literal,
    Null,
    Number,
    String,
    Validator,
)
from evolute.values.value import UNDEFINED, Int64, Value


class FakeTables:
    """A resolver that knows a few tables."""

    numbers: ClassVar[dict[str, int]] = {"users": 10001, "posts": 10002, "_storage": 513}

    def table_number(self, name: str) -> int | None:
        return self.numbers.get(name)

    def table_name(self, number: int) -> str | None:
        return next((name for name, known in self.numbers.items() if known == number), None)


TABLES = FakeTables()
USER = encode_id(10001, bytes(16))
POST = encode_id(10002, bytes(16))
FILE = encode_id(513, bytes(16))
STRANGER = encode_id(20000, bytes(16))


@dataclass
class Point:
    x: float
    y: int = 0
    tags: list[str] = field(default_factory=list)


POINT = ObjectOf(
    {"x": Field(Number(as_float=True)), "y": Field(Number(whole=True), True), "tags": Field(ArrayOf(String()), True)},
    Point,
)


@pytest.mark.parametrize(
    ("validator", "value"),
    [
        (AnyValue(), {"a": [None]}),
        (Null(), None),
        (Boolean(), False),
        (Number(), 1),
        (Number(), 0.5),
        (Int64Number(), Int64(1)),
        (String(), ""),
        (Bytes(), b""),
        (IdOf("users"), USER),
        (IdOf("_storage"), FILE),
        (IdOf(None), STRANGER),
        (Literal("a"), "a"),
        (Literal(1), 1),
        (Literal(True), True),
        (ArrayOf(String()), ["a", "b"]),
        (ObjectOf({}), {}),
        (ObjectOf({"a": Field(Null()), "b": Field(Null(), optional=True)}), {"a": None}),
        (RecordOf(String(), Number()), {"a": 1, "b c": 2}),
        (RecordOf(IdOf("users"), Null()), {USER: None}),
        (UnionOf((String(), Null())), None),
    ],
)
def test_a_matching_value_passes_both_ways(validator: Validator, value: Value) -> None:
    assert validator.parse(value, TABLES) == value
    assert validator.dump(value, TABLES) == value


@pytest.mark.parametrize(
    ("validator", "value", "shown"),
    [
        (AnyValue(), UNDEFINED, "undefined"),
        (Null(), False, "false"),
        (Boolean(), 1, "1.0"),
        (Boolean(), None, "null"),
        (Number(), Int64(1), "1"),
        (Number(), True, "true"),
        (Number(), "1", '"1"'),
        (Number(whole=True), 0.5, "0.5"),
        (Number(whole=True), 1e300, "1e+300"),
        (Number(whole=True), float("nan"), "nan"),
        (Int64Number(), 1, "1.0"),
        (String(), b"a", 'b"YQ=="'),
        (Bytes(), "a", '"a"'),
        (IdOf("users"), 1, "1.0"),
        (IdOf("users"), "nonsense", '"nonsense"'),
        (IdOf(None), "nonsense", '"nonsense"'),
        (IdOf("users"), STRANGER, f'"{STRANGER}"'),
        (ArrayOf(String()), {}, "{}"),
        (ArrayOf(Number()), (1, 2), "(1, 2)"),
        (ObjectOf({}), [], "[]"),
        (ObjectOf({}), None, "null"),
        (RecordOf(String(), Number()), [], "[]"),
        (UnionOf((String(), Null())), 1, "1.0"),
    ],
)
def test_a_value_of_another_type(validator: Validator, value: Any, shown: str) -> None:
    expected = f"Value does not match validator.\n\nValue: {shown}\nValidator: {validator.describe()}"
    for run in (validator.parse, validator.dump):
        with pytest.raises(ValidationFailed) as error:
            run(value, TABLES)
        assert str(error.value) == expected


def failure(validator: Validator, value: Value) -> str:
    with pytest.raises(ValidationFailed) as error:
        validator.parse(value, TABLES)
    return str(error.value)


MESSAGE = ObjectOf({"body": Field(String()), "author": Field(IdOf("users")), "likes": Field(Number(), optional=True)})
MESSAGE_TEXT = 'v.object({author: v.id("users"), body: v.string(), likes: v.optional(v.float64())})'


def test_a_missing_field() -> None:
    assert failure(MESSAGE, {"author": USER}) == (
        "Object is missing the required field `body`. Consider wrapping the field validator in `v.optional(...)` "
        f'if this is expected.\n\nObject: {{author: "{USER}"}}\nValidator: {MESSAGE_TEXT}'
    )


def test_a_missing_field_inside() -> None:
    validator = ObjectOf({"a": Field(ArrayOf(ObjectOf({"b": Field(String())})))})
    assert failure(validator, {"a": [{"b": "x"}, {}]}) == (
        "Object is missing the required field `b`. Consider wrapping the field validator in `v.optional(...)` "
        "if this is expected.\nPath: .a[1]\nObject: {}\nValidator: v.object({b: v.string()})"
    )


def test_an_extra_field() -> None:
    assert failure(MESSAGE, {"author": USER, "body": "", "z": 1, "extra": [2]}) == (
        "Object contains extra field `extra` that is not in the validator.\n\n"
        f'Object: {{author: "{USER}", body: "", extra: [2.0], z: 1.0}}\nValidator: {MESSAGE_TEXT}'
    )


def test_an_extra_field_inside() -> None:
    validator = ObjectOf({"a": Field(ObjectOf({}))})
    assert failure(validator, {"a": {"b": 1}}) == (
        "Object contains extra field `b` that is not in the validator.\n"
        "Path: .a\nObject: {b: 1.0}\nValidator: v.object({})"
    )


def test_a_mismatch_inside_names_the_place() -> None:
    validator = ObjectOf({"a": Field(ArrayOf(ObjectOf({"b": Field(String())})))})
    assert failure(validator, {"a": [{"b": 1}]}) == (
        "Value does not match validator.\nPath: .a[0].b\nValue: 1.0\nValidator: v.string()"
    )


def test_a_literal() -> None:
    assert failure(Literal("a"), "b") == '`"b"` does not match literal validator `v.literal("a")`.'
    assert failure(Literal(1), True) == "`true` does not match literal validator `v.literal(1.0)`."
    assert failure(Literal(True), 1) == "`1.0` does not match literal validator `v.literal(true)`."
    assert failure(Literal(1), Int64(1)) == "`1` does not match literal validator `v.literal(1.0)`."
    assert failure(ArrayOf(Literal("a")), [None]) == (
        '`null` does not match literal validator `v.literal("a")`.Path: [0]'
    )


def test_an_id_of_another_table() -> None:
    assert failure(IdOf("users"), POST) == (
        f'Found ID "{POST}" from table `posts`, which does not match the table name in validator `v.id("users")`.'
    )
    assert failure(ObjectOf({"u": Field(IdOf("users"))}), {"u": FILE}) == (
        f'Found ID "{FILE}" from a system table, which does not match the table name in validator '
        '`v.id("users")`.Path: .u'
    )
    assert failure(IdOf("not_yet"), USER).startswith(f'Found ID "{USER}" from table `users`')


def test_keys_and_values_of_a_record() -> None:
    validator = ObjectOf({"r": Field(RecordOf(IdOf("users"), Number()))})
    assert failure(validator, {"r": {"x": 1}}) == (
        'Value does not match validator.\nPath: .r.keys()\nValue: "x"\nValidator: v.id("users")'
    )
    assert failure(validator, {"r": {USER: "1"}}) == (
        'Value does not match validator.\nPath: .r.values()\nValue: "1"\nValidator: v.float64()'
    )


def test_a_union_of_one_passes_the_inner_text_through() -> None:
    assert failure(UnionOf((Literal("a"),)), "b") == failure(Literal("a"), "b")
    assert failure(UnionOf((Literal("a"), Literal("b"))), "c") == (
        'Value does not match validator.\n\nValue: "c"\nValidator: v.union(v.literal("a"), v.literal("b"))'
    )


def test_fields_are_examined_by_name_and_extra_ones_last() -> None:
    validator = ObjectOf({"b": Field(String()), "a": Field(String())})
    assert "required field `a`" in failure(validator, {"extra": 1})
    assert "required field `b`" in failure(validator, {"a": "", "extra": 1})
    assert "Path: .a" in failure(validator, {"a": 1})
    assert "extra field `extra`" in failure(validator, {"a": "", "b": "", "extra": 1})


def test_null_is_not_absent() -> None:
    assert "Path: .likes" in failure(MESSAGE, {"author": USER, "body": "", "likes": None})


def test_numbers_arrive_as_annotated() -> None:
    assert type(Number(whole=True).parse(3, TABLES)) is int
    assert Number(whole=True).parse(-0.0, TABLES) == 0
    assert type(Number(whole=True).parse(-0.0, TABLES)) is int
    assert type(Number(as_float=True).parse(3, TABLES)) is float
    assert type(Number().parse(3, TABLES)) is int
    union = UnionOf((Number(whole=True), Number(as_float=True)))
    assert [type(union.parse(value, TABLES)) for value in (3, 3.5)] == [int, float]


def test_a_dataclass_is_built_and_taken_apart() -> None:
    point = POINT.parse({"x": 1}, TABLES)
    assert point == Point(1.0)
    assert isinstance(point, Point)
    assert type(point.x) is float
    assert POINT.dump(Point(0.5, 2, ["a"]), TABLES) == {"x": 0.5, "y": 2, "tags": ["a"]}
    assert POINT.dump({"x": 1}, TABLES) == {"x": 1}
    assert ArrayOf(POINT).dump([Point(1.0)], TABLES) == [{"x": 1.0, "y": 0, "tags": []}]
    with pytest.raises(ValidationFailed, match=r"Path: \.y"):
        POINT.dump(Point(1.0, 0.5), TABLES)  # type: ignore[arg-type]


def test_an_undefined_field_is_left_out() -> None:
    validator = ObjectOf({"a": Field(String(), optional=True)})
    assert validator.dump({"a": UNDEFINED}, TABLES) == {}
    assert RecordOf(String(), String()).dump({"a": UNDEFINED}, TABLES) == {}


@pytest.mark.parametrize(
    ("validator", "json", "text"),
    [
        (AnyValue(), {"type": "any"}, "v.any()"),
        (Null(), {"type": "null"}, "v.null()"),
        (Boolean(), {"type": "boolean"}, "v.boolean()"),
        (Number(), {"type": "number"}, "v.float64()"),
        (Number(whole=True), {"type": "number"}, "v.float64() that is a whole number"),
        (Int64Number(), {"type": "bigint"}, "v.int64()"),
        (String(), {"type": "string"}, "v.string()"),
        (Bytes(), {"type": "bytes"}, "v.bytes()"),
        (IdOf("users"), {"type": "id", "tableName": "users"}, 'v.id("users")'),
        (IdOf(None), {"type": "string"}, "v.id()"),
        (Literal("a"), {"type": "literal", "value": "a"}, 'v.literal("a")'),
        (ArrayOf(Null()), {"type": "array", "value": {"type": "null"}}, "v.array(v.null())"),
        (
            RecordOf(String(), Null()),
            {
                "type": "record",
                "keys": {"type": "string"},
                "values": {"fieldType": {"type": "null"}, "optional": False},
            },
            "v.record(v.string(), v.null())",
        ),
        (
            ObjectOf({"b": Field(Null(), optional=True), "a": Field(String())}),
            {
                "type": "object",
                "value": {
                    "a": {"fieldType": {"type": "string"}, "optional": False},
                    "b": {"fieldType": {"type": "null"}, "optional": True},
                },
            },
            "v.object({a: v.string(), b: v.optional(v.null())})",
        ),
        (
            UnionOf((String(), Null())),
            {"type": "union", "value": [{"type": "string"}, {"type": "null"}]},
            "v.union(v.string(), v.null())",
        ),
    ],
)
def test_forms(validator: Validator, json: dict[str, object], text: str) -> None:
    assert validator.to_json() == json
    assert validator.describe() == text
