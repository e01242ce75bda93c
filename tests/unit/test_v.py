"""`v`: validators as authors write them, their forms in Convex's JSON, and every mistake in writing one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from evolute import DefinitionError, Int64, ValidationFailed, v
from evolute.values.validators import Describable, Validator
from evolute.values.value import Value
from tests.unit.test_validators import FILE, POST, TABLES, USER


def field(kind: str, optional: bool = False) -> dict[str, object]:
    return {"fieldType": {"type": kind}, "optional": optional}


@pytest.mark.parametrize(
    ("validator", "text", "json"),
    [
        (v.any(), "v.any()", {"type": "any"}),
        (v.null(), "v.null()", {"type": "null"}),
        (v.boolean(), "v.boolean()", {"type": "boolean"}),
        (v.number(), "v.float64()", {"type": "number"}),
        (v.float64(), "v.float64()", {"type": "number"}),
        (v.int64(), "v.int64()", {"type": "bigint"}),
        (v.bigint(), "v.int64()", {"type": "bigint"}),
        (v.commit_ts(), "v.int64()", {"type": "bigint"}),
        (v.string(), "v.string()", {"type": "string"}),
        (v.bytes(), "v.bytes()", {"type": "bytes"}),
        (v.id("users"), 'v.id("users")', {"type": "id", "tableName": "users"}),
        (v.literal("a"), 'v.literal("a")', {"type": "literal", "value": "a"}),
        (v.literal(1), "v.literal(1.0)", {"type": "literal", "value": 1}),
        (v.literal(0.5), "v.literal(0.5)", {"type": "literal", "value": 0.5}),
        (v.literal(True), "v.literal(true)", {"type": "literal", "value": True}),
        (v.literal(Int64(1)), "v.literal(1)", {"type": "literal", "value": {"$integer": "AQAAAAAAAAA="}}),
        (v.array(v.null()), "v.array(v.null())", {"type": "array", "value": {"type": "null"}}),
        (
            v.object({"b": v.optional(v.null()), "a": v.string()}),
            "v.object({a: v.string(), b: v.optional(v.null())})",
            {"type": "object", "value": {"a": field("string"), "b": field("null", True)}},
        ),
        (
            v.record(v.string(), v.null()),
            "v.record(v.string(), v.null())",
            {"type": "record", "keys": {"type": "string"}, "values": field("null")},
        ),
        (
            v.union(v.string(), v.null()),
            "v.union(v.string(), v.null())",
            {"type": "union", "value": [{"type": "string"}, {"type": "null"}]},
        ),
        (
            v.nullable(v.string()),
            "v.union(v.string(), v.null())",
            {"type": "union", "value": [{"type": "string"}, {"type": "null"}]},
        ),
        (v.optional(v.string()), "v.optional(v.string())", field("string", True)),
        (v.optional(v.optional(v.string())), "v.optional(v.string())", field("string", True)),
    ],
)
def test_the_forms_of_each(validator: Describable, text: str, json: Mapping[str, object]) -> None:
    assert validator.describe() == repr(validator) == text
    assert validator.to_json() == json


ALL = v.object(
    {
        "any": v.any(),
        "array": v.array(v.number()),
        "boolean": v.boolean(),
        "bytes": v.bytes(),
        "id": v.id("users"),
        "int64": v.int64(),
        "literal": v.literal(Int64(1)),
        "null": v.null(),
        "number": v.number(),
        "optional": v.optional(v.null()),
        "record": v.record(v.union(v.id("users"), v.id("posts")), v.nullable(v.string())),
    }
)


def test_a_value_of_every_kind() -> None:
    value: Value = {
        "any": [{}],
        "array": [1, 0.5],
        "boolean": False,
        "bytes": b"",
        "id": USER,
        "int64": Int64(1),
        "literal": Int64(1),
        "null": None,
        "number": 3,
        "record": {USER: None, POST: "x"},
    }
    assert ALL.parse(value, TABLES) == value
    assert ALL.dump(value, TABLES) == value


def text_of(validator: Validator, value: object) -> str:
    with pytest.raises(ValidationFailed) as error:
        validator.dump(value, TABLES)
    return str(error.value)


MESSAGE = v.object({"author": v.id("users"), "tags": v.array(v.object({"kind": v.literal("a")}))})
MESSAGE_TEXT = 'v.object({author: v.id("users"), tags: v.array(v.object({kind: v.literal("a")}))})'


def test_SV1_the_text_of_each_kind_of_mismatch() -> None:
    assert text_of(MESSAGE, {"author": USER}) == (
        "Object is missing the required field `tags`. Consider wrapping the field validator in `v.optional(...)` if "
        f'this is expected.\n\nObject: {{author: "{USER}"}}\nValidator: {MESSAGE_TEXT}'
    )
    assert text_of(MESSAGE, {"author": USER, "tags": [], "more": Int64(1)}) == (
        "Object contains extra field `more` that is not in the validator.\n\n"
        f'Object: {{author: "{USER}", more: 1, tags: []}}\nValidator: {MESSAGE_TEXT}'
    )
    assert text_of(MESSAGE, {"author": USER, "tags": [{"kind": "a"}, 1]}) == (
        'Value does not match validator.\nPath: .tags[1]\nValue: 1.0\nValidator: v.object({kind: v.literal("a")})'
    )
    assert text_of(MESSAGE, {"author": USER, "tags": [{"kind": b"a"}]}) == (
        '`b"YQ=="` does not match literal validator `v.literal("a")`.Path: .tags[0].kind'
    )
    assert text_of(MESSAGE, {"author": POST, "tags": []}) == (
        f'Found ID "{POST}" from table `posts`, which does not match the table name in validator `v.id("users")`.'
        "Path: .author"
    )
    assert text_of(v.id("users"), FILE) == (
        f'Found ID "{FILE}" from a system table, which does not match the table name in validator `v.id("users")`.'
    )
    assert text_of(v.record(v.string(), v.null()), {"a": 1}) == (
        "Value does not match validator.\nPath: .values()\nValue: 1.0\nValidator: v.null()"
    )


@pytest.mark.parametrize(
    ("validator", "value"),
    [
        (v.literal(Int64(1)), 1),
        (v.literal(1), Int64(1)),
        (v.literal(1), True),
        (v.literal(True), 1),
        (v.literal(0.5), "0.5"),
        (v.number(), Int64(1)),
        (v.int64(), 1),
        (v.record(v.id("users"), v.null()), {"x": None}),
        (v.union(), None),
    ],
)
def test_values_that_python_takes_for_equal_are_told_apart(validator: Validator, value: object) -> None:
    assert text_of(validator, value)


def test_objects_are_made_from_objects() -> None:
    thing = v.object({"a": v.string(), "b": v.optional(v.null()), "c": v.number()})
    assert thing.pick("a", "b") == v.object({"a": v.string(), "b": v.optional(v.null())})
    assert thing.omit("a", "b") == v.object({"c": v.number()})
    assert thing.extend({"a": v.null(), "d": v.any()}) == v.object({**thing.fields, "a": v.null(), "d": v.any()})
    assert thing.partial().describe() == (
        "v.object({a: v.optional(v.string()), b: v.optional(v.null()), c: v.optional(v.float64())})"
    )
    for change in (thing.pick, thing.omit):
        with pytest.raises(DefinitionError, match=r"v\.object\(\{a: .*\}\) has no field `x`$"):
            change("a", "x")


wrong: Any = v  # what a type checker would not let pass


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda: wrong.array(str), "v.array: <class 'str'> is not a validator; validators are v.string(), v.array"),
        (lambda: wrong.array(v.string), "v.array: v.string is not called; write v.string(…)"),
        (
            lambda: wrong.array(v.optional(v.null())),
            "v.array: v.optional(…) stands for a field of an object, and nowhe",
        ),
        (lambda: wrong.union(v.null(), None), "v.union: None is not a validator"),
        (lambda: wrong.nullable("x"), "v.nullable: 'x' is not a validator"),
        (lambda: wrong.optional(int), "v.optional: <class 'int'> is not a validator"),
        (lambda: wrong.object([]), "v.object: [] is not a dict of validators"),
        (lambda: wrong.object({"a": None}), "v.object, field `a`: None is not a validator"),
        (lambda: wrong.object({1: v.null()}), "v.object: 1 is not a str, as names of fields are"),
        (lambda: v.object({"$a": v.null()}), "v.object, field `$a`: a field name is printable ASCII, does not begin"),
        (lambda: v.object({}).extend({"é": v.null()}), "extend, field `é`: a field name is printable ASCII"),
        (
            lambda: wrong.record(v.optional(v.string()), v.null()),
            "v.record: Record validator cannot have optional keys",
        ),
        (
            lambda: wrong.record(v.string(), v.optional(v.null())),
            "v.record: Record validator cannot have optional values",
        ),
        (
            lambda: v.record(v.literal("a"), v.null()),
            "v.record: keys are v.string(), v.id(…) or unions of these, not v.l",
        ),
        (lambda: v.record(v.union(v.string(), v.null()), v.null()), "v.record: keys are v.string(), v.id(…) or unions"),
        (lambda: wrong.id(None), "v.id takes the name of a table, not None"),
        (lambda: wrong.literal(None), "v.literal takes a str, a number, an Int64 or a bool, not None"),
        (
            lambda: v.literal(2**53 + 1),
            "v.literal: 9007199254740993 is beyond ±2^53, where numbers are not exact; use ",
        ),
        (lambda: v.literal(float("nan")), "v.literal: nan is no number to compare with"),
    ],
)
def test_a_mistake_is_named(write: Callable[[], object], fault: str) -> None:
    with pytest.raises(DefinitionError) as error:
        write()
    assert str(error.value).startswith(fault)
