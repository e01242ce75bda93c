"""`ctx.db` as functions use it: naming the table with the id, fields that are absent, fields that are the runtime's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evolute import (
    COMMIT_TS,
    UNSET,
    ConvexError,
    Document,
    Id,
    IndexNotFound,
    Int64,
    InvalidId,
    InvalidQuery,
    MutationCtx,
    NonexistentDocument,
    Range,
    SystemTableError,
    define_schema,
    define_table,
    internal_mutation,
    mutation,
    q,
    v,
)
from evolute.errors import EvoluteError
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.document_id import encode_id


class Thing(Document, total=False):
    value: Any
    owner: str


class Note(Document):
    body: str


schema = define_schema(things=define_table(Thing).index("by_owner", ["owner", "value"]), notes=define_table(Note))
OF_NO_TABLE = encode_id(99_999, bytes(16))

on_ctx: Callable[[MutationCtx], Any]


@mutation
def do(ctx: MutationCtx) -> Any:
    return on_ctx(ctx)


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    with LocalBackend(do, schema=schema) as backend:
        yield backend


def mutate(backend: LocalBackend, function: Callable[[MutationCtx], Any]) -> Any:
    global on_ctx
    on_ctx = function
    return backend.mutation(do)


def test_the_table_can_be_named_with_the_id(backend: LocalBackend) -> None:
    def use(ctx: MutationCtx) -> None:
        note = ctx.db.insert(Note, {"body": "a"})
        for table in (Note, "notes"):
            row: Any = ctx.db.get(table, note)
            assert row["body"] == "a"
        ctx.db.patch(Note, note, {"body": "b"})
        assert ctx.db.get(Note, note) == ctx.db.get(note)
        ctx.db.replace("notes", note, {"body": "c"})
        row = ctx.db.get("notes", note)
        assert row is not None
        assert row["body"] == "c"
        ctx.db.delete("notes", note)
        assert ctx.db.get("notes", note) is None
        job = ctx.scheduler.run_after(5, do)
        assert ctx.db.system.get("_scheduled_functions", job) == ctx.db.system.get(job)

    mutate(backend, use)


OTHER = 'Invalid argument `id` for `db.{}`: expected to be an Id<"notes">, got Id<"things"> instead.'


@pytest.mark.parametrize(
    ("method", "use"),
    [
        ("get", lambda db, id: db.get("notes", id)),
        ("get", lambda db, id: db.get(Note, id)),
        ("patch", lambda db, id: db.patch("notes", id, {})),
        ("replace", lambda db, id: db.replace(Note, id, {})),
        ("delete", lambda db, id: db.delete("notes", id)),
    ],
)
def test_an_id_of_another_table_is_refused(backend: LocalBackend, method: str, use: Callable[[Any, str], None]) -> None:
    def refused(ctx: MutationCtx) -> str:
        thing = ctx.db.insert(Thing, {"value": 1})
        with pytest.raises(InvalidId) as error:
            use(ctx.db, thing)
        assert str(error.value) == OTHER.format(method)
        assert ctx.db.get(thing) is not None
        return thing

    assert mutate(backend, refused)


USE_SYSTEM = "System tables can only be accessed with db.system."
READ_ONLY = "System tables (prefixed with `_`) are read-only."


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda ctx, id: ctx.db.get("_scheduled_functions", id), SystemTableError, USE_SYSTEM),
        (lambda ctx, id: ctx.db.delete("_scheduled_functions", id), SystemTableError, READ_ONLY),
        (
            lambda ctx, id: ctx.db.system.get("notes", id),
            SystemTableError,
            "User tables cannot be accessed with db.system.",
        ),
        (
            lambda ctx, id: ctx.db.system.get("_crons", ctx.scheduler.run_after(5, do)),
            InvalidId,
            'Invalid argument `id` for `db.system.get`: expected to be an Id<"_crons">, '
            'got Id<"_scheduled_functions"> instead.',
        ),
        (
            lambda ctx, id: ctx.db.get("notes", ctx.scheduler.run_after(5, do)),
            InvalidId,
            'Invalid argument `id` for `db.get`: expected to be an Id<"notes">, '
            'got Id<"_scheduled_functions"> instead.',
        ),
        (
            lambda ctx, id: ctx.db.get("notes", 5),
            InvalidId,
            "Invalid argument `id` for `db.get`, expected string but got 'int': 5",
        ),
        (
            lambda ctx, id: ctx.db.patch("notes", "x", {}),
            InvalidId,
            "Invalid argument `id` for `db.patch`: Unable to decode ID: ",
        ),
        (lambda ctx, id: ctx.db.get(5, id), InvalidQuery, "5 names no table."),
        (
            lambda ctx, id: ctx.db.delete("notes", OF_NO_TABLE),
            InvalidId,
            f'Table for ID "{OF_NO_TABLE}" not found',
        ),
        (lambda ctx, id: ctx.db.get("notes", OF_NO_TABLE) or ctx.db.get(OF_NO_TABLE), None, ""),
        (
            lambda ctx, id: (ctx.db.delete("notes", id), ctx.db.patch("notes", id, {})),
            NonexistentDocument,
            "Update on nonexistent document ID ",
        ),
    ],
)
def test_whatever_else_is_wrong(
    backend: LocalBackend, use: Callable[[MutationCtx, str], object], error: type[EvoluteError] | None, text: str
) -> None:
    def refused(ctx: MutationCtx) -> None:
        note = ctx.db.insert(Note, {"body": "a"})
        if error is None:
            assert use(ctx, note) is None
            return
        with pytest.raises(error) as told:
            use(ctx, note)
        assert str(told.value).startswith(text)

    mutate(backend, refused)


def test_rows_without_a_field_are_found_by_UNSET(backend: LocalBackend) -> None:
    def find(ctx: MutationCtx) -> list[list[Any]]:
        ctx.db.insert(Thing, {"value": 1})
        ctx.db.insert(Thing, {"value": 2, "owner": "ada"})
        ctx.db.insert(Thing, {"value": 3})
        ctx.db.insert(Thing, {"owner": "ada"})
        things = [
            ctx.db.query(Thing).with_index("by_owner", owner=UNSET),
            ctx.db.query(Thing).with_index("by_owner", lambda q: q.eq("owner", UNSET).gt("value", 1)),
            ctx.db.query(Thing).with_index("by_owner", owner="ada", value=UNSET),
            ctx.db.query(Thing).with_index("by_owner", owner=Range(gt=UNSET, lte="ada")),
            ctx.db.query(Thing).with_index("by_owner", lambda q: q.gt("owner", UNSET)),
            ctx.db.query(Thing).filter(q.eq(q.field("owner"), UNSET)),
        ]
        return [[row.get("value") for row in query] for query in things]

    assert mutate(backend, find) == [[1, 3], [3], [None], [1, 3, None, 2], [None, 2], [1, 3]]


def test_by_id_is_said_to_be_no_index(backend: LocalBackend) -> None:
    def find(ctx: MutationCtx) -> list[str]:
        note = ctx.db.insert(Note, {"body": "a"})
        told = []
        for query in (ctx.db.query(Note), ctx.db.system.query("_crons")):
            with pytest.raises(IndexNotFound) as error:
                query.with_index("by_id", _id=note).unique()
            told.append(str(error.value))
        return told

    assert mutate(backend, find) == [
        "Index notes.by_id not found. To load a document by its id, use `ctx.db.get(id)`.",
        "Index by_id not found: a system table has only by_creation_time.",
    ]


def test_a_full_table_scan_is_the_query_that_is_told_nothing_else(backend: LocalBackend) -> None:
    def find(ctx: MutationCtx) -> list[Any]:
        for value in (3, 1, 2):
            ctx.db.insert(Thing, {"value": value})
        assert ctx.db.query("nowhere").full_table_scan().collect() == []
        scan = ctx.db.query(Thing).full_table_scan().order("desc")
        return [row["value"] for row in scan.filter(lambda row: row["value"] > 1)]

    assert mutate(backend, find) == [2, 3]


@pytest.mark.parametrize(
    "use",
    [
        lambda query: query.full_table_scan().full_table_scan(),
        lambda query: query.full_table_scan().with_index("by_owner"),
        lambda query: query.with_index("by_owner").full_table_scan(),
        lambda query: query.order("asc").full_table_scan(),
    ],
)
def test_where_to_read_is_said_once_and_first(backend: LocalBackend, use: Callable[[Any], object]) -> None:
    def misuse(ctx: MutationCtx) -> None:
        with pytest.raises(InvalidQuery, match="comes first, right after `query`, and once"):
            use(ctx.db.query(Thing))
        raise KeyError("as it should be")  # the transaction is poisoned, whatever it does

    with pytest.raises(Exception, match=r"comes first|as it should be"):
        mutate(backend, misuse)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"_id": "x"}, InvalidId, "doesn't match '_id' field \"x\""),
        ({"_id": UNSET}, InvalidId, "doesn't match '_id' field UNSET"),
        ({"_creationTime": 5}, SystemTableError, "doesn't match '_creationTime' field 5"),
        ({"_creationTime": UNSET}, SystemTableError, "doesn't match '_creationTime' field UNSET"),
        ({"_mine": 1}, SystemTableError, "Field '_mine' starts with an underscore, which is only allowed for system"),
    ],
)
def test_system_fields_cannot_be_changed(
    backend: LocalBackend, fields: dict[str, object], error: type[Exception], text: str
) -> None:
    def change(ctx: MutationCtx) -> None:
        note = ctx.db.insert(Note, {"body": "a"})
        before = ctx.db.get(note)
        assert before is not None
        for write in (ctx.db.patch, ctx.db.replace):
            given = fields if write == ctx.db.patch else {"body": "b", **fields}
            if UNSET in fields.values() and write != ctx.db.patch:
                continue
            with pytest.raises(error, match=text):
                write(note, given)
        ctx.db.patch(note, {**before})
        ctx.db.replace(note, {**before})
        assert ctx.db.get(note) == before

    mutate(backend, change)


# --- The timestamp of the commit (C12) --------------------------------------------------------------------------------


class Event(Document, total=False):
    at: Int64
    seen: list[Int64]


events = define_schema(events=define_table(Event), sorted=define_table({"at": v.commit_ts()}).index("by_at", ["at"]))


def raise_data(ctx: MutationCtx) -> None:
    raise ConvexError(COMMIT_TS)


@internal_mutation
def take(ctx: MutationCtx, at: Any) -> None: ...


def test_a_field_can_be_left_to_the_commit() -> None:
    def write(ctx: MutationCtx) -> str:
        event = ctx.db.insert(Event, {"at": COMMIT_TS, "seen": [Int64(1), COMMIT_TS]})
        row: Any = ctx.db.get(event)
        assert (row["at"], row["seen"]) == (COMMIT_TS, [1, COMMIT_TS])
        ctx.db.patch(event, {"seen": [COMMIT_TS]})
        return event

    with LocalBackend(do, take, schema=events) as backend:
        event = mutate(backend, write)
        row: Any = mutate(backend, lambda ctx: ctx.db.get(Id(event)))
        assert isinstance(row["at"], Int64)
        assert row["seen"] == [row["at"]]
        assert abs(row["at"] / 1e6 - row["_creationTime"]) < 1000


@pytest.mark.parametrize(
    "use",
    [
        lambda ctx: [COMMIT_TS],
        lambda ctx: ctx.db.get(ctx.db.insert(Event, {"at": COMMIT_TS})),
        lambda ctx: ctx.run_mutation(take, at=COMMIT_TS),
        lambda ctx: ctx.scheduler.run_after(0, take, at=COMMIT_TS),
        lambda ctx: ctx.db.insert("sorted", {"at": COMMIT_TS}),
        lambda ctx: ctx.db.query("sorted").with_index("by_at", at=COMMIT_TS).collect(),
        raise_data,
    ],
)
def test_until_then_it_goes_nowhere(use: Callable[[MutationCtx], Any]) -> None:
    with LocalBackend(do, take, schema=events) as backend:
        with pytest.raises((FunctionFailed, ConvexError), match=r"CommitTs is not a value|invalid data: COMMIT_TS"):
            mutate(backend, use)
        assert mutate(backend, lambda ctx: len(ctx.db.query(Event).collect())) == 0
