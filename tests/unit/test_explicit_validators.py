"""Validators beside a signature: they win over its hints, and must fit its parameters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    BlockingActionCtx,
    DefinitionError,
    Id,
    MutationCtx,
    QueryCtx,
    Retry,
    ValidationFailed,
    action,
    internal_action,
    internal_mutation,
    internal_query,
    mutation,
    query,
    v,
)
from evolute.limits import Limits
from evolute.registry.definition import define
from evolute.registry.loader import load, read_folder
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.schema import define_schema
from tests.unit.test_validators import POST, TABLES, USER

SCHEMA = define_schema()
MESSAGE = v.object({"author": v.id("users"), "body": v.string()})


def faults_of(function: Any) -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        define(function, "m:f", SCHEMA)
    place = f"{function.file}:{function.line} m:f "
    return [line.removeprefix(place) for line in str(caught.value).splitlines()]


def test_they_win_over_the_hints() -> None:
    @query(args={"author": v.id("users"), "limit": v.optional(v.number()), "from": v.any()}, returns=v.array(MESSAGE))
    def find(ctx: QueryCtx, author: str, from_: NoSuchThing, limit: int = 10) -> set[int]:  # type: ignore[name-defined]  # noqa: F821
        raise AssertionError("never run")

    definition = define(find, "m:find", SCHEMA)

    assert definition.arguments_json() == {
        "type": "object",
        "value": {
            "author": {"fieldType": {"type": "id", "tableName": "users"}, "optional": False},
            "from": {"fieldType": {"type": "any"}, "optional": False},
            "limit": {"fieldType": {"type": "number"}, "optional": True},
        },
    }
    assert definition.returns.to_json() == {"type": "array", "value": MESSAGE.to_json()}
    assert definition.bind({"author": USER, "from": 1, "limit": 0.5}, TABLES) == {
        "author": USER,
        "from_": 1,
        "limit": 0.5,
    }
    with pytest.raises(ValidationFailed, match=r"^ArgumentValidationError: Found ID .* from table `posts`"):
        definition.bind({"author": POST, "from": 1}, TABLES)


def test_either_may_be_given_alone() -> None:
    @query(returns=v.string())
    def hinted(ctx: QueryCtx, n: int) -> int:
        raise AssertionError("never run")

    @query(args={"n": v.string()})
    def returning(ctx: QueryCtx, n: int) -> int:
        raise AssertionError("never run")

    first, second = define(hinted, "m:hinted", SCHEMA), define(returning, "m:returning", SCHEMA)
    assert first.arguments.describe() == "v.object({n: v.float64() that is a whole number})"
    assert first.returns == v.string()
    assert second.arguments == v.object({"n": v.string()})
    assert second.returns.describe() == "v.float64() that is a whole number"


def test_every_decorator_takes_them() -> None:
    args, returns = {"n": v.number()}, {"n": v.number()}

    def plain(ctx: Any, n: float) -> dict[str, float]:
        return {"n": n}

    async def waiting(ctx: ActionCtx, n: float) -> dict[str, float]:
        return {"n": n}

    def blocking(ctx: BlockingActionCtx, n: float) -> dict[str, float]:
        return {"n": n}

    retry = Retry(attempts=2)
    decorated: list[Any] = [
        query(args=args, returns=returns)(plain),
        internal_query(args=args, returns=returns)(plain),
        mutation(args=args, returns=returns, pool="p")(plain),
        internal_mutation(args=args, returns=returns, pool="p")(plain),
        action(args=args, returns=returns, pool="p", retry=retry)(waiting),
        internal_action(args=args, returns=returns, pool="p", retry=retry)(blocking),
    ]
    for function in decorated:
        definition = define(function, "m:f", SCHEMA)
        assert definition.arguments == definition.returns == v.object(args)
    assert [function.visibility for function in decorated] == ["public", "internal"] * 3
    assert {function.pool for function in decorated[2:]} == {"p"}
    assert {function.retry for function in decorated[4:]} == {retry}
    assert decorated[0](None, 2) == asyncio.run(decorated[4](None, 2)) == {"n": 2}


def test_rest_receives_what_no_parameter_is_named_for_and_nothing_more() -> None:
    @query(args=MESSAGE.extend({"likes": v.optional(v.number())}))
    def find(ctx: QueryCtx, /, author: Id[Any], **rest: set[int]) -> None: ...

    definition = define(find, "m:find", SCHEMA)
    assert definition.bind({"author": USER, "body": "x"}, TABLES) == {"author": USER, "body": "x"}
    assert definition.arguments_json()["type"] == "object"
    with pytest.raises(ValidationFailed, match="Object contains extra field `more`"):
        definition.bind({"author": USER, "body": "x", "more": 1}, TABLES)


TEXT = v.object({"kind": v.literal("text"), "body": v.string(), "bold": v.optional(v.boolean())})
IMAGE = v.object({"kind": v.literal("image"), "from": v.bytes()})


def test_args_may_be_one_object_or_another() -> None:
    @mutation(args=v.union(TEXT, v.union(IMAGE)))
    def send(ctx: MutationCtx, kind: str, body: str = "", bold: bool = False, from_: bytes = b"") -> None: ...

    definition = define(send, "m:send", SCHEMA)
    assert definition.bind({"kind": "text", "body": "x"}, TABLES) == {"kind": "text", "body": "x"}
    assert definition.bind({"kind": "image", "from": b"x"}, TABLES) == {"kind": "image", "from_": b"x"}
    assert definition.unbind({"kind": "image", "from_": b"x"}, TABLES) == {"kind": "image", "from": b"x"}
    assert definition.arguments_json() == v.union(TEXT, v.union(IMAGE)).to_json()
    for arguments in ({"kind": "text", "from": b"x"}, {"kind": "image", "body": "x"}, {}):
        with pytest.raises(ValidationFailed, match=r"^ArgumentValidationError: Value does not match validator\."):
            definition.bind(arguments, TABLES)  # type: ignore[arg-type]


def test_what_a_member_of_args_lacks_needs_a_default() -> None:
    @mutation(args=v.union(TEXT, IMAGE))
    def send(ctx: MutationCtx, kind: str, body: str, other: int = 0) -> None: ...

    assert faults_of(send) == [
        "parameter body: `args` says that it may be absent, so it needs a default",
        "parameter other: `args` does not name it, so no call could give it; add it to `args`, or remove the parameter",
        "parameter bold: `args` names it, but the function has no such parameter; add it, or `**rest`",
        "parameter from: `args` names it, but the function has no such parameter; add it, or `**rest`",
    ]

    @mutation(args=v.union(TEXT, IMAGE))
    def rest(ctx: MutationCtx, /, **rest: Any) -> None: ...

    assert define(rest, "m:rest", SCHEMA).bind({"kind": "image", "from": b""}, TABLES) == {"kind": "image", "from": b""}


def test_args_may_be_anything() -> None:
    @query(args=v.any())  # type: ignore[arg-type]
    def find(ctx: QueryCtx, from_: int = 0, **rest: int) -> None: ...

    definition = define(find, "m:find", SCHEMA)
    assert definition.arguments_json() == {"type": "any"}
    assert definition.bind({"from": "x", "more": None}, TABLES) == {"from_": "x", "more": None}
    with pytest.raises(ValidationFailed, match="Object contains extra field `ctx`"):
        definition.bind({"ctx": 1}, TABLES)

    @query(args=v.any())
    def fixed(ctx: QueryCtx, from_: int) -> None: ...

    assert faults_of(fixed) == [
        "has args=v.any(), so a call may name any argument: it needs `**rest` to receive them",
        "parameter from_: with args=v.any() it may be absent, so it needs a default",
    ]


def test_args_are_an_object() -> None:
    for args, fault in (
        (v.string(), r"^find: args is v\.object\(…\), a union of these, or v\.any\(\), not v\.string\(\)$"),
        (v.union(), r"^find: args is v\.object\(…\), a union of these, or v\.any\(\), not v\.union\(\)$"),
        (v.union(TEXT, v.null()), r"^find: args is a union of v\.object\(…\), and not of v\.null\(\)$"),
    ):
        with pytest.raises(DefinitionError, match=fault):

            @query(args=args)  # type: ignore[arg-type]
            def find(ctx: QueryCtx, /, **rest: Any) -> None: ...


def test_no_arguments_at_all() -> None:
    @query(args={})
    def nothing(ctx: QueryCtx) -> None: ...

    with pytest.raises(ValidationFailed, match="Object contains extra field `x`"):
        define(nothing, "m:nothing", SCHEMA).bind({"x": 1}, TABLES)


def test_a_mismatch_names_the_parameter() -> None:
    @mutation(args={"body": v.string(), "limit": v.optional(v.number()), "more": v.any()})
    def send(ctx: MutationCtx, body: str, limit: float, until: float = 0) -> None: ...

    assert faults_of(send) == [
        "parameter limit: `args` says that it may be absent, so it needs a default",
        "parameter until: `args` does not name it, so no call could give it; add it to `args`, or remove the parameter",
        "parameter more: `args` names it, but the function has no such parameter; add it, or `**rest`",
    ]

    @query(args={"ctx": v.any(), "from_": v.any(), "from": v.any()})  # type: ignore[arg-type]
    def find(ctx: QueryCtx, from_: Any, **rest: Any) -> None: ...

    assert faults_of(find) == [
        "parameter ctx: `args` names it, but the function uses this name for something else",
        "parameter from_: `args` names it, but the function uses this name for something else",
    ]


def test_the_context_is_still_checked() -> None:
    @query(args={}, returns=v.null())  # type: ignore[arg-type]
    def find(ctx: MutationCtx) -> None: ...

    assert faults_of(find) == ["parameter ctx: a query's context is a QueryCtx, not a MutationCtx"]


def test_what_is_no_validator_is_refused_where_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    for name, options in {
        "hints": 'args={"text": str}',
        "uncalled": 'args={"text": v.string}',
        "a_list": "args=[]",
        "a_name": 'args={"$x": v.any()}',
        "optional": "returns=v.optional(v.null())",
    }.items():
        source = f"from evolute import query, v\n\n@query({options})\ndef find(ctx, text=''): ...\n"
        (folder / f"{name}.py").write_text(source)

    with pytest.raises(DefinitionError) as caught:
        load(read_folder(folder, Limits()), Limits())

    text = str(caught.value)
    for fault in (
        "find: args, field `text`: <class 'str'> is not a validator; validators are v.string(), v.array(v.id(…)) …",
        "find: args, field `text`: v.string is not called; write v.string(…)",
        "find: args: [] is not a dict of validators",
        "find: args, field `$x`: a field name is printable ASCII",
        "find: returns: v.optional(…) stands for a field of an object, and nowhere else",
    ):
        assert fault in text
    for name in ("hints", "uncalled", "a_list", "a_name", "optional"):
        assert str(folder / f"{name}.py") in text


@mutation(args={"body": v.string()}, returns=v.id("notes"))
def write_note(ctx: MutationCtx, body: Any) -> Any:
    id = ctx.db.insert("notes", {"body": body})
    return id if body == "good" else body


@query(args={}, returns=v.array(v.object({"body": v.string()}).extend({"_id": v.id("notes")}).partial()))
def notes(ctx: QueryCtx) -> Any:
    return [{"body": note["body"], "_id": note["_id"]} for note in ctx.db.query("notes")]


def test_SV5_an_explicit_validator_of_the_result_rolls_back() -> None:
    with LocalBackend(write_note, notes) as backend:
        written = backend.mutation(write_note, body="good")
        with pytest.raises(FunctionFailed) as failed:
            backend.mutation(write_note, body="bad")
        assert str(failed.value) == (
            'ReturnsValidationError: Value does not match validator.\n\nValue: "bad"\nValidator: v.id("notes")'
        )
        assert backend.query(notes) == [{"_id": written, "body": "good"}]
        with pytest.raises(FunctionFailed) as failed:
            backend.mutation("test_explicit_validators:write_note", body=1)
        assert str(failed.value) == (
            "ArgumentValidationError: Value does not match validator.\nPath: .body\nValue: 1.0\nValidator: v.string()"
        )
