"""What a validator accepts as plain data: where one is said to accept all that another does, it does."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import orjson
import pytest

from evolute.errors import ValidationFailed
from evolute.values import v
from evolute.values.containers import ObjectOf
from evolute.values.schema import define_schema, define_table
from evolute.values.shapes import accepts_all, shape_of
from evolute.values.validators import IdOf, Number, Validator
from evolute.values.value import Int64

WHOLE = Number(whole=True)


class Constrained(msgspec.Struct):
    n: int


@dataclasses.dataclass
class Plain:
    n: float


class NoTables:
    def table_number(self, name: str) -> int | None:
        return None

    def table_name(self, number: int) -> str | None:
        return None


VALIDATORS: list[Validator] = [
    v.any(),
    v.null(),
    v.boolean(),
    v.number(),
    WHOLE,
    v.int64(),
    v.string(),
    v.bytes(),
    v.id("users"),
    v.id("teams"),
    IdOf(),
    v.literal("a"),
    v.literal(1),
    v.literal(1.5),
    v.literal(True),
    v.literal(Int64(1)),
    v.array(v.string()),
    v.array(v.union(v.string(), v.null())),
    v.object({}),
    v.object({"n": v.number()}),
    v.object({"n": v.optional(v.number())}),
    v.object({"n": WHOLE}),
    v.object({"n": v.number(), "s": v.optional(v.string())}),
    v.object({"n": v.number(), "s": v.string()}),
    v.record(v.string(), v.number()),
    v.record(v.string(), v.any()),
    v.record(v.id("users"), v.number()),
    v.union(v.string(), v.number()),
    v.union(v.literal("a"), v.literal(1)),
    v.union(v.object({"n": v.number()}), v.object({"s": v.string()})),
    v.nullable(v.object({"n": WHOLE})),
]
VALUES: list[Any] = [
    None,
    True,
    False,
    1,
    1.5,
    Int64(1),
    Int64(2),
    "a",
    "b",
    b"a",
    [],
    ["a"],
    [None],
    [1],
    {},
    {"n": 1},
    {"n": 1.5},
    {"n": "a"},
    {"n": 1, "s": "a"},
    {"s": "a"},
    {"n": 1, "s": "a", "t": None},
]


def accepts(validator: Validator, value: object) -> bool:
    try:
        validator.dump(value, NoTables())
    except ValidationFailed:
        return False
    return True


def test_what_is_certain_is_true() -> None:
    certain = 0
    for new in VALIDATORS:
        for old in VALIDATORS:
            if accepts_all(shape_of(new), shape_of(old)):
                certain += 1
                for value in VALUES:
                    assert accepts(new, value) or not accepts(old, value), (new, old, value)
    assert certain > 2 * len(VALIDATORS)


@pytest.mark.parametrize("validator", VALIDATORS, ids=repr)
def test_a_shape_is_plain_data_and_accepts_itself(validator: Validator) -> None:
    shape = shape_of(validator)
    assert orjson.loads(orjson.dumps(shape)) == shape
    assert accepts_all(shape, shape)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (v.object({"n": v.number()}), v.object({"n": v.number(), "s": v.optional(v.string())})),
        (v.object({"n": v.number()}), v.object({"n": v.optional(v.union(v.number(), v.null()))})),
        (v.object({"n": WHOLE}), v.object({"n": v.number()})),
        (v.literal("a"), v.union(v.literal("b"), v.literal("a"))),
        (v.literal(1), WHOLE),
        (v.id("users"), v.string()),
        (v.id("users"), IdOf()),
        (v.union(v.string(), v.null()), v.union(v.null(), v.number(), v.string())),
    ],
    ids=repr,
)
def test_a_schema_that_only_grows_is_certain(old: Validator, new: Validator) -> None:
    assert accepts_all(shape_of(new), shape_of(old))
    assert not accepts_all(shape_of(old), shape_of(new))


def test_what_a_class_checks_is_never_certain() -> None:
    schema = define_schema(a=define_table(Constrained), b=define_table(Plain))
    first, second = schema.validators["a"], schema.validators["b"]
    assert isinstance(first, ObjectOf)
    assert not accepts_all(shape_of(first), shape_of(first))
    assert accepts_all(shape_of(second), shape_of(second))
