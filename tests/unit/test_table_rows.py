"""Tables given by validators, unions and row types: what they accept, and what cannot be a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Union

import pytest

from evolute import (
    DefinitionError,
    Document,
    MutationCtx,
    QueryCtx,
    define_schema,
    define_table,
    mutation,
    query,
    v,
)
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.schema import Schema

wrong: Any = define_table  # what a type checker would not let pass


class Text(Document):
    kind: Literal["text"]
    body: str


@dataclass
class Image:
    kind: Literal["image"]
    url: str
    width: float = 0


class Plain(TypedDict):
    body: str


@mutation
def write(ctx: MutationCtx, table: str, fields: dict[str, Any]) -> str:
    return ctx.db.insert(table, fields)


@mutation
def write_image(ctx: MutationCtx) -> str:
    instance: Any = Image("image", "u")
    return ctx.db.insert("notes", instance)


@mutation
def change(ctx: MutationCtx, id: Any, fields: dict[str, Any]) -> None:
    ctx.db.patch(id, fields)


@query
def rows(ctx: QueryCtx, table: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if not name.startswith("_")} for row in ctx.db.query(table)]


OBJECT = v.object({"body": v.string(), "likes": v.optional(v.number())})
GOOD: dict[str, Any] = {"body": "x", "likes": 1}
NO_BODY = (
    'Failed to insert or update a document in table "notes" because it does not match the schema: Object is missing '
    "the required field `body`. Consider wrapping the field validator in `v.optional(...)` if this is expected.\n\n"
    "Object: {}\nValidator: v.object({body: v.string(), likes: v.optional(v.float64())})"
)


def refusal(backend: LocalBackend, fields: dict[str, Any]) -> str:
    with pytest.raises(FunctionFailed) as failed:
        backend.mutation(write, table="notes", fields=fields)
    return str(failed.value)


@pytest.mark.parametrize("table", [define_table(OBJECT), define_table(OBJECT.fields)], ids=["object", "dict"])
def test_a_table_of_validators(table: Any) -> None:
    schema = define_schema(notes=table.index("by_likes", ["likes"]))
    assert schema.validators["notes"] == OBJECT
    with LocalBackend(write, change, rows, schema=schema) as backend:
        written = backend.mutation(write, table="notes", fields=GOOD)
        assert NO_BODY in refusal(backend, {})
        with pytest.raises(FunctionFailed, match=r"(?s)Failed to insert or update.*Path: \.likes"):
            backend.mutation(change, id=written, fields={"likes": "many"})
        assert backend.query(rows, table="notes") == [GOOD]


@pytest.mark.parametrize(
    "table",
    [
        define_table(Text | Image),
        define_table(
            v.union(
                v.object({"kind": v.literal("text"), "body": v.string()}),
                v.union(v.object({"kind": v.literal("image"), "url": v.string(), "width": v.optional(v.number())})),
            )
        ),
        wrong(Union[Text, Image]),  # noqa: UP007
    ],
    ids=["row types", "validators", "Union"],
)
def test_a_table_of_several_shapes(table: Any) -> None:
    schema = define_schema(notes=table.index("by_width", ["width"]).index("by_body", ["body"]))
    with LocalBackend(write, write_image, rows, schema=schema) as backend:
        backend.mutation(write, table="notes", fields={"kind": "text", "body": "x"})
        backend.mutation(write, table="notes", fields={"kind": "image", "url": "u"})
        for fields in ({"kind": "text", "url": "u"}, {"kind": "text", "body": "x", "url": "u"}, {"body": "x"}):
            assert "because it does not match the schema: Value does not match validator." in refusal(backend, fields)
        assert [row["kind"] for row in backend.query(rows, table="notes")] == ["text", "image"]


def test_an_instance_of_one_of_several_row_types() -> None:
    with LocalBackend(write_image, rows, schema=define_schema(notes=define_table(Text | Image))) as backend:
        backend.mutation(write_image)
        assert backend.query(rows, table="notes") == [{"kind": "image", "url": "u", "width": 0}]


@pytest.mark.parametrize("schema", [define_schema(notes=define_table(v.any())), define_schema(notes=define_table())])
def test_a_table_of_anything(schema: Schema) -> None:
    with LocalBackend(write, rows, schema=schema) as backend:
        backend.mutation(write, table="notes", fields={"anything": [None]})
        assert backend.query(rows, table="notes") == [{"anything": [None]}]


def test_without_schema_validation_indexes_stay_and_documents_are_not_checked() -> None:
    schema = define_schema(schema_validation=False, notes=define_table(OBJECT).index("by_likes", ["likes"]))

    @query
    def by_likes(ctx: QueryCtx) -> list[Any]:
        return [row["likes"] for row in ctx.db.query("notes").with_index("by_likes")]

    with LocalBackend(write, by_likes, schema=schema) as backend:
        backend.mutation(write, table="notes", fields={"likes": "many", "more": 1})
        backend.mutation(write, table="notes", fields={"likes": 1})
        assert backend.query(by_likes) == [1, "many"]
    with pytest.raises(DefinitionError, match="references the field nope that does not exist"):
        define_schema(schema_validation=False, notes=define_table(OBJECT).index("by_x", ["nope"]))
    with pytest.raises(DefinitionError, match="`schema_validation` is True or False, not 0"):
        define_schema(schema_validation=0)  # type: ignore[arg-type]


def test_the_schema_as_convex_tools_read_it() -> None:
    schema = define_schema(notes=define_table(OBJECT).index("by_likes", ["likes"]), loose=define_table())
    assert schema.to_json() == {
        "tables": [
            {
                "tableName": "notes",
                "indexes": [{"indexDescriptor": "by_likes", "fields": ["likes"]}],
                "documentType": OBJECT.to_json(),
            },
            {"tableName": "loose", "indexes": [], "documentType": {"type": "any"}},
        ],
        "schemaValidation": True,
    }
    assert define_schema(schema_validation=False).to_json() == {"tables": [], "schemaValidation": False}


def test_every_table_that_is_none_is_named() -> None:
    with pytest.raises(DefinitionError) as error:
        define_schema(
            a=wrong(v.string()),
            b=wrong(v.union(OBJECT, v.null())),
            c=wrong(v.union()),
            d=wrong({"x": str}),
            e=wrong({"_id": v.any()}),
            f=define_table(v.object({"_x": v.any()})),
            g=wrong(3),
            h=wrong(Text | int),
            i=wrong({"x": v.string}),
            j=define_table(v.union(OBJECT, v.object({"y": v.any()}))).index("by_z", ["likes", "z"]),
        )
    assert str(error.value).splitlines() == [
        'In table "a": a row is v.object(…), a union of these, or v.any(), and not v.string()',
        'In table "b": a row is v.object(…), a union of these, or v.any(), and not v.null()',
        'In table "c": a row is v.object(…), a union of these, or v.any(), and not v.union()',
        "In table \"d\": define_table, field `x`: <class 'str'> is not a validator; "
        "validators are v.string(), v.array(v.id(…)) …",
        'In table "e": field `_id`: every row has it; leave it out',
        "In table \"f\": field `_x`: Field '_x' starts with an underscore, "
        "which is only allowed for system fields like '_id'",
        'In table "g": define_table takes a row type, validators or nothing, not 3',
        'In table "h": int is not understood as a row type; use a TypedDict or a dataclass',
        'In table "i": define_table, field `x`: v.string is not called; write v.string(…)',
        'In table "j" the index "by_z" is invalid because it references the field z that does not exist.',
    ]


def test_two_tables_may_share_a_validator_but_not_a_row_type() -> None:
    define_schema(a=define_table(OBJECT), b=define_table(OBJECT), c=define_table(Text | Image), d=define_table(Text))
    with pytest.raises(DefinitionError, match="Plain is the row type of the tables"):
        define_schema(a=define_table(Plain), b=define_table(Plain))
