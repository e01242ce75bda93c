"""Row types of the standard library, of pydantic and of msgspec: as arguments, results and rows of a table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from evolute import (
    DefinitionError,
    Document,
    Id,
    Int64,
    MutationCtx,
    QueryCtx,
    ValidationFailed,
    define_schema,
    define_table,
    mutation,
    query,
)
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.annotations import validator_for
from evolute.values.containers import ObjectOf
from evolute.values.value import Value
from tests.unit.test_validators import POST, TABLES, USER


class User(Document):
    name: str


SCHEMA = define_schema(users=define_table(User))


@dataclass
class Span:
    start: float
    end: float

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("it ends before it starts")


class Line(pydantic.BaseModel):
    text: Annotated[str, pydantic.Field(min_length=1)]
    count: Annotated[int, pydantic.Field(ge=1)] = 1


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    user: Id[User]
    other: Id[Any] | None = None
    first_line: Line = pydantic.Field(alias="firstLine")
    lines: list[Line] = []
    named: dict[str, Line] = {}
    kind: Literal["a", "b"] = "a"
    price: float = 0
    big: Int64 = Int64(0)
    data: bytes = b""
    anything: Any = None
    _hidden: int = 3

    @pydantic.field_validator("kind")
    @classmethod
    def not_b(cls, kind: str) -> str:
        if kind == "b":
            raise ValueError("no b today")
        return kind


class Part(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=1)]


class Machine(msgspec.Struct, tag="machine", rename="camel"):
    owned_by: Id[User]
    main_part: Part
    big: Int64
    other: Id[Any] | None = None
    parts: list[Part] = []
    note: str | msgspec.UnsetType = msgspec.UNSET
    price: float = 0
    data: bytes = b""


class Person(msgspec.Struct, tag="person"):
    name: str


def validator(hint: Any) -> ObjectOf:
    found = validator_for(hint, SCHEMA)
    assert isinstance(found, ObjectOf)
    return found


def refused(hint: Any, value: Value, *, dumped: bool = False) -> str:
    with pytest.raises(ValidationFailed) as error:
        (validator_for(hint, SCHEMA).dump if dumped else validator_for(hint, SCHEMA).parse)(value, TABLES)
    return str(error.value)


ORDER: dict[str, Value] = {
    "user": USER,
    "firstLine": {"text": "x", "count": 2},
    "lines": [{"text": "y", "count": 1}],
    "named": {"z": {"text": "z", "count": 1}},
    "price": 2,
    "big": Int64(3),
    "data": b"x",
    "anything": [None],
}


def test_a_pydantic_model_as_validators() -> None:
    line = "v.object({count: v.optional(v.float64() that is a whole number), text: v.string()})"
    assert validator(Order).describe() == (
        "v.object({anything: v.optional(v.any()), big: v.optional(v.int64()), data: v.optional(v.bytes()), "
        f'firstLine: {line}, kind: v.optional(v.union(v.literal("a"), v.literal("b"))), '
        f"lines: v.optional(v.array({line})), named: v.optional(v.record(v.string(), {line})), "
        'other: v.optional(v.union(v.id(), v.null())), price: v.optional(v.float64()), user: v.id("users")})'
    )


def test_a_pydantic_model_is_built_and_taken_apart() -> None:
    order = validator(Order).parse(ORDER, TABLES)
    assert isinstance(order, Order)
    assert (order.user, order.first_line, order.lines) == (USER, Line(text="x", count=2), [Line(text="y")])
    assert (order.kind, order.price, order.big, order.anything) == ("a", 2.0, Int64(3), [None])
    assert type(order.price) is float
    assert type(order.big) is Int64
    assert validator(Order).dump(order, TABLES) == {**ORDER, "kind": "a", "other": None}
    assert validator(Order).dump(ORDER, TABLES) == ORDER


def test_a_pydantic_model_refuses_what_its_fields_or_itself_do() -> None:
    assert refused(Order, {**ORDER, "user": POST}).startswith(f'Found ID "{POST}" from table `posts`')
    assert refused(Order, {**ORDER, "more": 1}).startswith("Object contains extra field `more`")
    assert "Path: .lines[0].text" in refused(Order, {**ORDER, "lines": [{"text": 1}]})
    assert refused(Line, {"text": "", "count": 0}) == (
        "Line does not accept the value: text: String should have at least 1 character; "
        "count: Input should be greater than or equal to 1\n\n"
        'Value: {count: 0.0, text: ""}\n'
        "Validator: v.object({count: v.optional(v.float64() that is a whole number), text: v.string()})"
    )
    for dumped in (False, True):
        text = refused(Order, {**ORDER, "kind": "b"}, dumped=dumped)
        assert text.startswith("Order does not accept the value: kind: Value error, no b today\n")
        assert "Path: .lines[0]\n" in refused(Order, {**ORDER, "lines": [{"text": ""}]}, dumped=dumped)
    with pytest.raises(ValidationFailed, match="Line does not accept the value: text: "):
        validator(Line).dump(Line.model_construct(text="", count=1), TABLES)


MACHINE: dict[str, Value] = {
    "type": "machine",
    "ownedBy": USER,
    "mainPart": {"size": 2},
    "big": Int64(3),
    "other": USER,
    "parts": [{"size": 1}],
    "price": 2,
    "data": b"x",
}


def test_a_msgspec_struct_is_built_and_taken_apart() -> None:
    machine = validator(Machine).parse({**MACHINE, "note": "n"}, TABLES)
    assert machine == Machine(Id(USER), Part(2), Int64(3), Id(USER), [Part(1)], "n", 2.0, b"x")
    assert isinstance(machine, Machine)
    assert type(machine.price) is float
    assert type(machine.big) is Int64
    assert validator(Machine).dump(machine, TABLES) == {**MACHINE, "note": "n"}
    machine.note = msgspec.UNSET
    assert validator(Machine).dump(machine, TABLES) == MACHINE
    assert validator(Machine).fields["note"].describe() == "v.optional(v.string())"
    assert validator(Machine).fields["type"].describe() == 'v.literal("machine")'


def test_a_union_of_structs_is_told_apart_by_their_tags() -> None:
    either = validator_for(Machine | Person, SCHEMA)
    assert either.parse({"type": "person", "name": "ada"}, TABLES) == Person("ada")
    assert isinstance(either.parse(MACHINE, TABLES), Machine)
    assert either.dump(Person("ada"), TABLES) == {"type": "person", "name": "ada"}


def test_a_msgspec_struct_refuses_what_its_fields_or_itself_do() -> None:
    assert refused(Part, {"size": "x"}).startswith("Value does not match validator.\nPath: .size\n")
    for dumped in (False, True):
        assert refused(Machine, {**MACHINE, "parts": [{"size": 1}, {"size": 0}]}, dumped=dumped) == (
            "Part does not accept the value: Expected `int` >= 1 - at `$.size`\nPath: .parts[1]\n"
            "Value: {size: 0.0}\nValidator: v.object({size: v.float64() that is a whole number})"
        )
    with pytest.raises(ValidationFailed, match="Part does not accept the value"):
        validator(Part).dump(Part(0), TABLES)


def test_a_dataclass_that_refuses_its_fields_is_a_mismatch() -> None:
    assert refused(list[Span], [{"start": 2, "end": 1}]) == (
        "Span does not accept the value: it ends before it starts\nPath: [0]\n"
        "Value: {end: 1.0, start: 2.0}\nValidator: v.object({end: v.float64(), start: v.float64()})"
    )


class Roots(pydantic.RootModel[list[int]]):
    pass


class Choosing(pydantic.BaseModel):
    x: int = pydantic.Field(validation_alias=pydantic.AliasChoices("a", "b"))


class Unresolved(pydantic.BaseModel):
    x: NoSuchThing  # type: ignore[name-defined]  # noqa: F821


class Recursive(pydantic.BaseModel):
    inner: Recursive | None = None


class Complex(pydantic.BaseModel):
    x: complex


class Arrays(msgspec.Struct, array_like=True):
    x: int


class UnresolvedStruct(msgspec.Struct):
    x: NoSuchThing  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("hint", "fault"),
    [
        (Roots, "the annotation Roots is not understood; use None, bool"),
        (Choosing, "field `x` of Choosing: an alias is one name, a str"),
        (Unresolved, "an annotation inside Unresolved is not understood: 'NoSuchThing' is not defined at module level"),
        (Recursive, "field `inner` of Recursive: Recursive refers to itself, which is not understood"),
        (Complex, "field `x` of Complex: the annotation complex is not understood"),
        (Arrays, "Arrays is array_like; it has to be an object"),
        (UnresolvedStruct, "an annotation inside UnresolvedStruct is not understood: 'NoSuchThing' is not defined at"),
    ],
)
def test_a_class_that_is_no_object_is_named(hint: Any, fault: str) -> None:
    with pytest.raises(DefinitionError) as error:
        validator_for(hint, SCHEMA)
    assert str(error.value).startswith(fault)


class Pair(pydantic.BaseModel):
    text: str
    size: int


class Written(msgspec.Struct):
    texts: list[str]
    size: int


@mutation
def order(ctx: MutationCtx, pair: Pair) -> Written:
    table: Any = ctx.db  # to type checkers a row is a mapping
    table.insert(Line, Line(text=pair.text))
    table.insert("parts", Part(pair.size))
    return Written([pair.text], pair.size)


@mutation
def write(ctx: MutationCtx, fields: dict[str, Any]) -> None:
    ctx.db.insert(Line, fields)


@query
def stored(ctx: QueryCtx) -> list[list[Any]]:
    return [[row["text"] for row in ctx.db.query("lines")], [row["size"] for row in ctx.db.query("parts")]]


@query
def lines(ctx: QueryCtx) -> list[Line]:
    return ctx.db.query(Line).collect()


def test_models_as_arguments_results_and_rows() -> None:
    schema = define_schema(lines=define_table(Line).index("by_text", ["text"]), parts=define_table(Part))
    with LocalBackend(order, write, stored, lines, schema=schema) as backend:
        assert backend.mutation("test_row_types:order", pair={"text": "x", "size": 1}) == {"texts": ["x"], "size": 1}
        assert backend.query(stored) == [["x"], [1]]
        (row,) = backend.query("test_row_types:lines")
        assert (row["text"], row["count"], len(row)) == ("x", 1, 4)
        for bad in ({"text": ""}, {"text": "x", "count": 0}):
            with pytest.raises(FunctionFailed, match="does not match the schema: Line does not accept the value: "):
                backend.mutation(write, fields=bad)
        assert backend.query(stored) == [["x"], [1]]


def test_neither_library_is_imported_unless_the_author_does() -> None:
    program = """
import sys
from dataclasses import dataclass
from evolute import *
from evolute.testing import LocalBackend

@dataclass
class Point:
    x: float

@query
def double(ctx: QueryCtx, point: Point) -> Point:
    return Point(2 * point.x)

with LocalBackend(double) as backend:
    assert backend.query("__main__:double", point={"x": 1}) == {"x": 2}
print([name for name in sys.modules if name.startswith(("pydantic", "msgspec"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
