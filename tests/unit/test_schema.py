"""Schemas: what they hold, and every fault of a definition, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pytest

from evolute.errors import DefinitionError
from evolute.limits import Limits
from evolute.values.containers import Field, ObjectOf
from evolute.values.schema import IndexDefinition, TableSchema, define_schema, define_table, under
from evolute.values.validators import AnyValue, IdOf, String
from evolute.values.value import Document, Id


class Channel(Document):
    name: str


class Size(TypedDict):
    width: float


class Message(Document):
    channel: Id[Channel]
    body: str
    size: NotRequired[Size | None]
    counts: dict[str, int]
    extra: Any


@dataclass
class Point:
    x: float


def faults(**tables: TableSchema) -> list[str]:
    with pytest.raises(DefinitionError) as error:
        define_schema(schema_validation=True, **tables)
    return str(error.value).splitlines()


def test_a_schema() -> None:
    schema = define_schema(
        channels=define_table(Channel),
        messages=define_table(Message).index("by_channel", ["channel"]).index("by_width", ("size.width", "body")),
        points=define_table(Point),
        loose=define_table().index("by_anything", ["a.b"]),
    )
    assert schema.name_of(Channel) == "channels"
    assert schema.name_of(Size) is None
    assert schema.tables["messages"].indexes[0] == IndexDefinition("by_channel", ("channel",))
    assert {name: table["indexes"] for name, table in schema.to_wire().items()} == {
        "channels": {},
        "messages": {"by_channel": ["channel"], "by_width": ["size.width", "body"]},
        "points": {},
        "loose": {"by_anything": ["a.b"]},
    }
    message = schema.validators["messages"]
    assert isinstance(message, ObjectOf)
    assert message.fields["channel"] == Field(IdOf("channels"))
    assert "_id" not in message.fields
    assert schema.validators["channels"] == ObjectOf({"name": Field(String())}, Channel)
    assert schema.validators["loose"] == AnyValue()


def test_an_empty_schema() -> None:
    assert define_schema().to_wire() == {}


@pytest.mark.parametrize("path", ["channel", "size", "size.width", "counts.anything", "extra.a.b"])
def test_fields_that_may_exist_can_be_indexed(path: str) -> None:
    define_schema(channels=define_table(Channel), messages=define_table(Message).index("by_path", [path]))


INVALID = 'In table "messages" the index "by_x" is invalid'


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (["_id"], f"{INVALID}: `_id` is not a valid index field. To load documents by ID, use `ctx.db.get(id)`."),
        (
            ["body", "_creationTime"],
            f"{INVALID}: `_creationTime` is automatically added to the end of each index. "
            "It should not be added explicitly in the index definition.",
        ),
        (["_x"], f"{INVALID}: Reserved fields (starting with `_`) are not allowed in indexes."),
        (["body", "body"], f"{INVALID}: Duplicate field body. Index fields must be unique within an index."),
        ([], f"{INVALID}: An index has at least one field."),
        (["nope"], f"{INVALID} because it references the field nope that does not exist."),
        (["size.height"], f"{INVALID} because it references the field size.height that does not exist."),
        (["body.length"], f"{INVALID} because it references the field body.length that does not exist."),
        (
            [f"extra.f{n}" for n in range(16)],
            f"{INVALID}: Indexes may have up to 16 fields, of which `_creationTime` is one. "
            "The setting is `index_fields_max`.",
        ),
        (
            ["extra.a-b"],
            f"{INVALID}: 'extra.a-b' is not a field: names of letters, digits and `_`, "
            "joined by points if it is nested.",
        ),
    ],
)
def test_faults_of_an_index(fields: list[str], fault: str) -> None:
    table = define_table(Message).index("by_x", fields)
    assert faults(channels=define_table(Channel), messages=table) == [fault]


@pytest.mark.parametrize("name", ["by_id", "by_creation_time", "_mine"])
def test_reserved_index_names(name: str) -> None:
    (fault,) = faults(channels=define_table(Channel).index(name, ["name"]))
    assert "The name is reserved" in fault


@pytest.mark.parametrize("name", ["", "a b", "1a", "x" * 65, "größe"])
def test_bad_index_names(name: str) -> None:
    (fault,) = faults(channels=define_table(Channel).index(name, ["name"]))
    assert "An index name is letters" in fault


@pytest.mark.parametrize("name", ["_users", "a-b", "1a", "x" * 65])
def test_bad_table_names(name: str) -> None:
    (fault,) = faults(**{name: define_table(Channel)})
    assert f'"{name}" is not a table name' in fault


def test_fifteen_fields_are_enough() -> None:
    fields = [f"extra.f{n}" for n in range(Limits.index_fields_max)]
    define_schema(channels=define_table(Channel), messages=define_table(Message).index("wide", fields))


def test_too_many_indexes() -> None:
    table = define_table()
    for number in range(Limits.indexes_per_table_max + 1):
        table = table.index(f"by_{number}", [f"f{number}"])
    assert faults(t=table) == ['Table "t" cannot have more than 64 indexes. The setting is `indexes_per_table_max`.']


@pytest.mark.parametrize(
    ("name", "fields", "fault"),
    [
        ("by_name", "name", '"by_name" is invalid: Its fields are a list of names: ["name"]'),
        ("by_name", 5, '"by_name" is invalid: Its fields are a list of names, and not 5'),
        ("by_name", ["name", 5], "\"by_name\" is invalid: Its fields are a list of names, and not ('name', 5)"),
        (["by_name"], ["name"], '["by_name"] is invalid: The name of an index is a string.'),
    ],
)
def test_an_index_is_a_string_and_a_list_of_strings(name: Any, fields: Any, fault: str) -> None:
    assert faults(channels=define_table(Channel).index(name, fields)) == [f'In table "channels" the index {fault}']


def test_all_faults_are_told_at_once() -> None:
    table = define_table(Channel).index("by_a", ["name"]).index("by_a", ["nope"]).index("by_b", ["name"])
    assert faults(one=table, two=define_table(Channel), three=define_table(dict), four=define_table(Message)) == [
        'Table "one" has two indexes named "by_a".',
        'In table "one" the index "by_a" is invalid because it references the field nope that does not exist.',
        'Table "one" has two indexes with the same fields: "by_a" and "by_b".',
        'Channel is the row type of the tables "one" and "two"',
        'In table "three": dict is not understood as a row type; use a TypedDict or a dataclass',
    ]


def test_an_id_of_a_row_without_a_table() -> None:
    (fault,) = faults(messages=define_table(Message))
    assert fault.startswith('In table "messages": field `channel` of Message: Id[Channel] names no table')


def test_what_is_not_a_table_hides_no_other_fault() -> None:
    raw: Any = Channel
    nothing: Any = None
    assert faults(channels=raw, messages=define_table(Message).index("by_x", ["nope"]), _bad=nothing) == [
        f'In table "channels": use define_table(…) instead of {Channel!r}',
        'In table "_bad": use define_table(…) instead of None',
        f"{INVALID} because it references the field nope that does not exist.",
        '"_bad" is not a table name: letters, digits and `_`, at most 64 of them, and a letter first '
        "(`_` is for system tables).",
    ]


def test_settings_are_those_of_the_load_under_way() -> None:
    table = define_table().index("by_a", ["a", "b"])
    with under(Limits(index_fields_max=1, indexes_per_table_max=1, tables_max=1)):
        assert faults(one=table.index("by_b", ["b"]), two=define_table()) == [
            'Table "one" cannot have more than 1 indexes. The setting is `indexes_per_table_max`.',
            'In table "one" the index "by_a" is invalid: Indexes may have up to 2 fields, of which `_creationTime` is '
            "one. The setting is `index_fields_max`.",
            "Number of tables cannot exceed 1. The setting is `tables_max`.",
        ]
        define_schema(one=define_table().index("by_a", ["a"]))
    with under(Limits(index_fields_max=16)):
        define_schema(one=define_table().index("wide", [f"f{n}" for n in range(16)]))
    define_schema(one=table.index("by_b", ["b"]), two=define_table())
