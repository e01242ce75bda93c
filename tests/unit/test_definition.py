from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from evolute.errors import DefinitionError, ValidationFailed
from evolute.registry.contexts import ActionCtx, BlockingActionCtx, MutationCtx, QueryCtx
from evolute.registry.decorators import action, internal_action, internal_mutation, mutation, query
from evolute.registry.definition import FunctionDefinition, define
from evolute.values.document_id import encode_id
from evolute.values.schema import define_schema, define_table
from evolute.values.value import Document, Id, Int64


class Channel(Document):
    name: str


@dataclass
class Point:
    x: float
    label: str = ""


SCHEMA = define_schema(channels=define_table(Channel))


class TwoTables:
    """A resolver that knows `channels` and `messages`."""

    def table_number(self, name: str) -> int | None:
        return {"channels": 10001, "messages": 10002}.get(name)

    def table_name(self, number: int) -> str | None:
        return {10001: "channels", 10002: "messages"}.get(number)


def bind(definition: FunctionDefinition, **arguments: Any) -> dict[str, Any]:
    return definition.bind(arguments, TwoTables())


def faults_of(function: Any, path: str = "m:f") -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        define(function, path, SCHEMA)
    place = f"{function.file}:{function.line} {path} "
    lines = str(caught.value).splitlines()
    assert all(line.startswith(place) for line in lines), lines
    return [line.removeprefix(place) for line in lines]


def test_the_signature_becomes_validators() -> None:
    @internal_mutation
    def move(ctx: MutationCtx, channel: Id[Channel], to: Point, how: Literal["fast", "slow"] = "slow") -> Channel:
        raise AssertionError("never run")

    definition = define(move, "moves:move", SCHEMA)

    assert (definition.path, definition.kind, definition.visibility) == ("moves:move", "mutation", "internal")
    assert definition.arguments_json()["value"]["channel"] == {
        "fieldType": {"type": "id", "tableName": "channels"},
        "optional": False,
    }
    assert definition.arguments_json()["value"]["how"]["optional"] is True
    returned = definition.returns.to_json()["value"]
    assert isinstance(returned, dict)
    assert sorted(returned) == ["_creationTime", "_id", "name"]
    channel = encode_id(10001, bytes(16))
    assert bind(definition, channel=channel, to={"x": 1}) == {"channel": channel, "to": Point(1.0)}


def test_an_argument_with_a_default_may_be_absent_but_not_null() -> None:
    @query
    def find(ctx: QueryCtx, text: str, limit: int = 50, after: str | None = None) -> None: ...

    definition = define(find, "m:find", SCHEMA)

    assert bind(definition, text="a") == {"text": "a"}
    assert bind(definition, text="a", limit=3, after=None) == {"text": "a", "limit": 3, "after": None}
    with pytest.raises(ValidationFailed, match=r"(?s)^ArgumentValidationError: Value does not match.*Path: \.limit"):
        bind(definition, text="a", limit=None)
    with pytest.raises(
        ValidationFailed, match=r"^ArgumentValidationError: Object is missing the required field `text`"
    ):
        bind(definition)
    with pytest.raises(ValidationFailed, match=r"^ArgumentValidationError: Object contains extra field `more`"):
        bind(definition, text="a", more=1)
    with pytest.raises(ValidationFailed, match=r"(?s)Path: \.text"):
        bind(definition, text=3)


def test_numbers_arrive_as_they_are_annotated() -> None:
    @query
    def count(ctx: QueryCtx, n: int, x: float, big: Int64, free=None): ...  # type: ignore[no-untyped-def]

    definition = define(count, "m:count", SCHEMA)
    bound = bind(definition, n=3, x=3, big=Int64(3), free=[1, "a"])

    assert [type(value) for value in bound.values()].count(float) == 1
    assert bound == {"n": 3, "x": 3.0, "big": 3, "free": [1, "a"]}
    with pytest.raises(ValidationFailed, match="whole number"):
        bind(definition, n=3.5, x=1, big=Int64(1))


def test_an_id_of_another_table_is_refused() -> None:
    @query
    def get(ctx: QueryCtx, channel: Id[Channel]) -> None: ...

    with pytest.raises(
        ValidationFailed, match="from table `messages`, which does not match the table name in validator"
    ):
        bind(define(get, "m:get", SCHEMA), channel=encode_id(10002, bytes(16)))


def test_a_trailing_underscore_that_makes_a_keyword_legal_is_not_part_of_the_name() -> None:
    @query
    def between(ctx: QueryCtx, from_: int, until_: int) -> None: ...

    definition = define(between, "m:between", SCHEMA)

    assert bind(definition, **{"from": 1, "until_": 2}) == {"from_": 1, "until_": 2}
    with pytest.raises(ValidationFailed, match="`from`"):
        bind(definition, from_=1, until_=2)


def test_further_arguments_go_to_rest_and_are_checked_by_its_annotation() -> None:
    @mutation
    def track(ctx: MutationCtx, /, event: str, from_: int = 0, **rest: float) -> None: ...

    definition = define(track, "m:track", SCHEMA)

    assert bind(definition, event="e", ctx=1, **{"from": 2}) == {"event": "e", "ctx": 1.0, "from_": 2}
    assert definition.arguments_json() == {"type": "any"}
    with pytest.raises(ValidationFailed, match=r"(?s)Path: \.speed"):
        bind(definition, event="e", speed="fast")
    with pytest.raises(ValidationFailed, match="extra field `from_`"):
        bind(definition, event="e", from_=2)


def test_a_context_that_could_be_given_by_name_is_no_further_argument() -> None:
    def track(ctx: MutationCtx, **rest: Any) -> None: ...

    definition = define(mutation(track), "m:track", SCHEMA)

    with pytest.raises(ValidationFailed, match="extra field `ctx`"):
        bind(definition, ctx=1)


def test_results_are_checked_by_the_return_annotation() -> None:
    @query
    def names(ctx: QueryCtx) -> list[str]:
        return []

    definition = define(names, "m:names", SCHEMA)

    assert definition.result(["a"], TwoTables()) == ["a"]
    with pytest.raises(ValidationFailed, match=r"(?s)^ReturnsValidationError: Value does not match.*Path: \[1\]"):
        definition.result(["a", 1], TwoTables())


def test_a_dataclass_is_built_from_an_argument_and_taken_apart_in_a_result() -> None:
    @query
    def mirror(ctx: QueryCtx, point: Point) -> Point:
        return Point(-point.x, point.label)

    definition = define(mirror, "m:mirror", SCHEMA)

    returned = definition.function.python(None, **bind(definition, point={"x": 2}))
    assert definition.result(returned, TwoTables()) == {"x": -2.0, "label": ""}


def test_every_fault_of_a_signature_is_named_with_its_parameter() -> None:
    @query
    def f(ctx, a: complex, /, b: set[str], *c: int, d: Id[int], **é: tuple[int]) -> object | bytearray: ...  # type: ignore[no-untyped-def]

    faults = faults_of(f)

    assert [fault.split(":")[0] for fault in faults] == [
        "parameter a",
        "parameter b",
        "parameter c",
        "parameter d",
        "parameter é",
        "return annotation",
    ]
    assert faults[0] == "parameter a: arguments are given by name; remove the `/` after it"
    assert "the annotation set[str] is not understood" in faults[1]
    assert "`*c` can receive none" in faults[2]


def test_an_annotation_that_cannot_be_resolved_is_named() -> None:
    @query
    def f(ctx: QueryCtx, a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    (fault,) = faults_of(f)
    assert fault.startswith("parameter `a`: the annotation Missing")


def test_a_context_comes_first_and_fits_the_kind() -> None:
    @query  # type: ignore[arg-type]
    def none() -> None: ...

    @query  # type: ignore[arg-type]
    def writes(ctx: MutationCtx) -> None: ...

    @mutation
    def reads(ctx: QueryCtx) -> None: ...

    assert faults_of(none) == ["has no context: its first parameter is `ctx: QueryCtx`"]
    assert faults_of(writes) == ["parameter ctx: a query's context is a QueryCtx, not a MutationCtx"]
    define(reads, "m:reads", SCHEMA)


def test_queries_and_mutations_are_plain_functions() -> None:
    @query
    async def waits(ctx: QueryCtx) -> None: ...

    @query
    def yields(ctx: QueryCtx) -> Any:
        yield 1

    assert faults_of(waits) == [
        "is a query written with `async def`; drop `async`: its `ctx` calls are plain. To wait, use an action"
    ]
    assert faults_of(yields) == ["is a generator; a query returns its result: return a list"]


def test_an_action_is_blocking_if_it_is_a_plain_function() -> None:
    @action
    async def waits(ctx: ActionCtx) -> None: ...

    @action(pool="email")
    def blocks(ctx: BlockingActionCtx) -> None: ...

    @internal_action
    def unannotated(ctx):  # type: ignore[no-untyped-def]
        pass

    definitions = [define(function, "m:f", SCHEMA) for function in (waits, blocks, unannotated)]
    assert [definition.blocking for definition in definitions] == [False, True, True]
    assert {definition.kind for definition in definitions} == {"action"}


def test_the_context_of_an_action_says_how_it_is_written() -> None:
    @action  # type: ignore[arg-type]
    def blocks(ctx: ActionCtx) -> None: ...

    @action
    async def waits(context: BlockingActionCtx) -> None: ...

    @action  # type: ignore[arg-type]
    def writes(ctx: MutationCtx) -> None: ...

    @action
    def yields(ctx: BlockingActionCtx) -> Iterator[int]:
        yield 1

    assert faults_of(blocks) == [
        "parameter ctx: an action written with `def` blocks, and its context is a BlockingActionCtx: write "
        "`ctx: BlockingActionCtx`, or `async def` and await what you call"
    ]
    assert faults_of(waits) == [
        "parameter context: an action written with `async def` has an ActionCtx: write `context: ActionCtx`, or drop "
        "`async`: a plain `def` may block"
    ]
    assert faults_of(writes)[0].startswith("parameter ctx: an action written with `def` blocks")
    assert "is a generator; an action returns its result: return a list" in faults_of(yields)


def test_a_name_that_clients_cannot_write_is_refused() -> None:
    @query
    def größe(ctx: QueryCtx, maß: int) -> None: ...

    name, parameter = faults_of(größe, "m:größe")
    assert name.startswith("has a name that clients cannot write")
    assert parameter == "parameter maß: the name of an argument is ASCII"
