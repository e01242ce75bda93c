"""The acceptance checks of the specification, under their names (semantics M), where no other test has the name's case.

Functions run in `evolute.testing`; what is about the order of two transactions is done with transactions.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute import (
    UNSET,
    Document,
    Id,
    Int64,
    InvalidSchedule,
    LimitReached,
    MutationCtx,
    QueryCtx,
    Range,
    define_schema,
    define_table,
    internal_mutation,
    mutation,
    q,
    query,
)
from evolute.clock import NS_PER_S
from evolute.database.subscriptions import Token
from evolute.database.transaction import Transaction
from evolute.errors import Conflict
from evolute.execution.request import Call
from evolute.limits import Limits
from evolute.testing import FunctionFailed, LocalBackend
from tests.open_store import OpenStore
from tests.server_thread import ServerThread

YEAR_MS = 366 * 24 * 3600 * 1000
NO_ID: Id[Any] = Id("")
JOBS: Literal["_scheduled_functions"] = "_scheduled_functions"


class Thing(Document, total=False):
    value: Any
    group: str


class Note(Document):
    body: str


schema = define_schema(things=define_table(Thing).index("by_value", ["value"]), notes=define_table(Note))

# What the next function is to do with its context; a test sets it and looks at what comes of it.
on_ctx: Callable[[Any], Any]
inner_on_ctx: Callable[[Any], Any]
seen_identities: list[object] = []


@mutation
def do(ctx: MutationCtx) -> Any:
    return on_ctx(ctx)


@mutation
def do_inside(ctx: MutationCtx) -> Any:
    return inner_on_ctx(ctx)


@query
def look(ctx: QueryCtx) -> Any:
    return on_ctx(ctx)


@internal_mutation
def note(ctx: MutationCtx, body: str = "ran") -> None:
    ctx.db.insert(Note, {"body": body})


@internal_mutation
def cancel_me(ctx: MutationCtx) -> None:
    (row,) = (row for row in ctx.db.system.query(JOBS).collect() if row["state"]["kind"] == "inProgress")
    ctx.scheduler.cancel(row["_id"])


@internal_mutation
def see_identity(ctx: MutationCtx) -> None:
    seen_identities.append(ctx.auth.get_user_identity())


@query
def typed(ctx: QueryCtx, a: Literal["x"], n: float, note: Id[Note] | None = None, id: Id[Note] = NO_ID) -> None: ...


@mutation
def mistyped(ctx: MutationCtx) -> list[str]:
    ctx.db.insert(Note, {"body": "never"})
    return ["fine", 7]  # type: ignore[list-item]


FUNCTIONS = (do, do_inside, look, note, cancel_me, see_identity, typed, mistyped)


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        yield backend


def mutate(backend: LocalBackend, function: Callable[[MutationCtx], Any]) -> Any:
    global on_ctx
    on_ctx = function
    return backend.mutation(do)


def read(backend: LocalBackend, function: Callable[[QueryCtx], Any]) -> Any:
    """In a mutation too, which no cache answers."""
    return mutate(backend, function)


def job_rows(backend: LocalBackend) -> list[Any]:
    rows: list[Any] = read(backend, lambda ctx: ctx.db.system.query(JOBS).collect())
    return rows


def states(backend: LocalBackend) -> list[str]:
    return [row["state"]["kind"] for row in job_rows(backend)]


def notes(backend: LocalBackend) -> list[str]:
    found: list[str] = read(backend, lambda ctx: [row["body"] for row in ctx.db.query(Note).collect()])
    return found


# --- Scheduler --------------------------------------------------------------------------------------------------------


def test_S1_a_mutation_that_schedules_and_then_raises_leaves_no_job(backend: LocalBackend) -> None:
    def schedule_and_fail(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, note)
        raise ValueError("after all")

    with pytest.raises(FunctionFailed, match="after all"):
        mutate(backend, schedule_and_fail)
    backend.run_due()
    assert (job_rows(backend), notes(backend)) == ([], [])


def test_S2_only_the_job_of_the_nested_mutation_that_failed_is_gone(backend: LocalBackend) -> None:
    global inner_on_ctx

    def schedule_and_fail(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, note, body="inner")
        raise ValueError

    def outer(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, note, body="outer")
        with pytest.raises(ValueError):
            ctx.run_mutation(do_inside)

    inner_on_ctx = schedule_and_fail
    mutate(backend, outer)
    backend.run_due()
    assert (states(backend), notes(backend)) == (["success"], ["outer"])


def test_S3_the_mutation_that_schedules_sees_the_row(backend: LocalBackend) -> None:
    def schedule(ctx: MutationCtx) -> Any:
        job = ctx.scheduler.run_after(100, note, body="x")
        again = ctx.scheduler.run_after(100, note)
        row, other = ctx.db.system.get(job), ctx.db.system.get(again)
        assert row is not None
        assert other is not None
        assert row["scheduledTime"] == other["scheduledTime"] == ctx.now_ms + 100
        return row

    row = mutate(backend, schedule)
    assert row["state"] == {"kind": "pending"}
    assert row["name"] == "test_semantics.py:note"
    assert row["args"] == [{"body": "x"}]
    assert "completedTime" not in row


@pytest.mark.parametrize(
    ("delay", "text"),
    [
        (-1, "`delay` must be non-negative"),
        (math.nan, "`delay` must be a finite number"),
        (math.inf, "`delay` must be a finite number"),
        (-math.inf, "`delay` must be a finite number"),
        ("1", "`delay` must be a number"),
    ],
)
def test_S4_delays_that_are_none(backend: LocalBackend, delay: Any, text: str) -> None:
    def schedule(ctx: MutationCtx) -> str:
        with pytest.raises(InvalidSchedule, match=text):
            ctx.scheduler.run_after(delay, note)
        return "caught"

    assert mutate(backend, schedule) == "caught"
    assert job_rows(backend) == []


def test_S5_a_time_in_the_past_is_due_now(backend: LocalBackend) -> None:
    ago_ms = backend.clock.now_ns() / 1e6 - YEAR_MS
    mutate(backend, lambda ctx: ctx.scheduler.run_at(ago_ms, note))
    backend.run_due()
    (row,) = job_rows(backend)
    assert row["state"] == {"kind": "success"}
    assert row["scheduledTime"] == pytest.approx(ago_ms)
    assert row["completedTime"] > ago_ms + YEAR_MS
    assert notes(backend) == ["ran"]


@pytest.mark.parametrize(("years", "text"), [(5.01, "more than 5 years in the future"), (-5.01, "5 years in the past")])
def test_S6_more_than_five_years_away(backend: LocalBackend, years: float, text: str) -> None:
    with pytest.raises(FunctionFailed, match=text):
        mutate(backend, lambda ctx: ctx.scheduler.run_at(ctx.now_ms + years * YEAR_MS, note))
    mutate(backend, lambda ctx: ctx.scheduler.run_at(ctx.now_ms + math.copysign(4.99, years) * YEAR_MS, note))


def test_S11_a_pending_job_that_is_cancelled_never_runs(backend: LocalBackend) -> None:
    job = mutate(backend, lambda ctx: ctx.scheduler.run_after(1000, note))
    mutate(backend, lambda ctx: ctx.scheduler.cancel(job))
    backend.advance(seconds=10)
    assert (states(backend), notes(backend)) == (["canceled"], [])


def test_S13_cancelling_what_has_ended_is_nothing(backend: LocalBackend) -> None:
    cancelled = mutate(backend, lambda ctx: ctx.scheduler.run_after(1000, note))
    done = mutate(backend, lambda ctx: ctx.scheduler.run_after(0, note))
    backend.run_due()

    def cancel_all(ctx: MutationCtx) -> None:
        for job in (cancelled, done):
            ctx.scheduler.cancel(job)

    for _ in range(2):
        mutate(backend, cancel_all)
    assert states(backend) == ["canceled", "success"]


def test_S14_a_job_cannot_cancel_itself(backend: LocalBackend) -> None:
    mutate(backend, lambda ctx: ctx.scheduler.run_after(0, cancel_me))
    backend.run_due()
    (row,) = job_rows(backend)
    assert row["state"]["kind"] == "failed"
    assert "A mutation cannot cancel itself" in row["state"]["error"]


def test_S15_the_1001st_job_of_a_mutation_is_refused_and_1000_stay(backend: LocalBackend) -> None:
    def schedule(ctx: MutationCtx) -> int:
        for _ in range(1000):
            ctx.scheduler.run_after(10_000, note)
        with pytest.raises(LimitReached, match=r"Too many functions scheduled by this mutation \(limit: 1000\)"):
            ctx.scheduler.run_after(10_000, note)
        return len(ctx.db.system.query(JOBS).collect())

    assert mutate(backend, schedule) == 1000
    assert states(backend) == ["pending"] * 1000


def test_S21_nobody_is_logged_in_in_a_job(backend: LocalBackend) -> None:
    global on_ctx

    def schedule(ctx: MutationCtx) -> Any:
        ctx.scheduler.run_after(0, see_identity)
        ctx.run_mutation(see_identity)
        return ctx.auth.get_user_identity()

    on_ctx = schedule
    seen_identities.clear()
    call = Call("test_semantics:do", b"{}", kind="mutation", identity=b'{"tokenIdentifier":"me"}')
    outcome = backend._wait(backend.executor.mutate(call))
    assert outcome.value == b'{"tokenIdentifier":"me"}'
    backend.run_due()
    assert seen_identities == [{"tokenIdentifier": "me"}, None]


# --- Transactions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def things(store: OpenStore) -> OpenStore:
    """Three things with the values 1, 2 and 3, and an index on them."""
    store.run(lambda tx: [tx.insert("things", {"value": value}) for value in (1, 2, 3)], schema=schema)
    return store


def value_of(tx: Transaction, value: object) -> dict[str, Any]:
    row = tx.query("things").with_index("by_value", value=value).first()
    assert row is not None
    return row


def conflicts(store: OpenStore, transaction: Transaction) -> bool:
    try:
        store.commit(transaction)
    except Conflict:
        return True
    return False


def test_T1_write_skew_conflicts(things: OpenStore) -> None:
    """Both read 1 and 2, each writes one of them: the second must run again."""
    first, second = things.begin(), things.begin()
    for tx, mine in ((first, 1), (second, 2)):
        rows = [value_of(tx, 1), value_of(tx, 2)]
        tx.patch(rows[mine - 1]["_id"], {"group": "gone"})
    assert not conflicts(things, first)
    assert conflicts(things, second)


def test_T2_a_phantom_conflicts_and_what_take_left_unread_does_not(things: OpenStore) -> None:
    def insert(value: float) -> None:
        things.run(lambda tx: tx.insert("things", {"value": value}), schema=schema)

    ranged, taken = things.begin(schema=schema), things.begin(schema=schema)
    assert len(ranged.query("things").with_index("by_value", value=Range(gte=1, lte=2)).collect()) == 2
    assert len(taken.query("things").with_index("by_value").take(1)) == 1
    for tx in (ranged, taken):
        tx.insert("notes", {"body": "x"})
    insert(1.5)
    assert conflicts(things, ranged)
    assert not conflicts(things, taken)


def test_T3_blind_inserts_do_not_conflict(things: OpenStore) -> None:
    transactions = [things.begin(schema=schema) for _ in range(10)]
    for tx in transactions:
        tx.insert("things", {"value": 7})
    assert all(isinstance(ts, int) for ts in things.commit_together(transactions))


def test_T4_a_patch_that_changes_nothing_notifies_nobody(things: OpenStore) -> None:
    reader = things.begin(writable=False)
    document = value_of(reader, 1)
    broken: list[int] = []
    subscription = things.database.subscriptions.subscribe(Token(reader.read_set, reader.begin_ts), broken.append)
    things.run(lambda tx: tx.patch(document["_id"], {"value": 1}))
    things.run(lambda tx: tx.replace(document["_id"], {"value": 1.0}))
    assert broken == []
    things.run(lambda tx: tx.patch(document["_id"], {"value": 1.5}))
    assert len(broken) == 1
    subscription.close()


def test_T6_an_empty_range_that_is_filled_conflicts(things: OpenStore) -> None:
    tx = things.begin(schema=schema)
    assert tx.query("things").with_index("by_value", value=9).first() is None
    tx.insert("notes", {"body": "there was no 9"})
    things.run(lambda other: other.insert("things", {"value": 9}), schema=schema)
    assert conflicts(things, tx)


def test_T7_rows_that_a_filter_refused_conflict(things: OpenStore) -> None:
    by_function, by_expression = things.begin(schema=schema), things.begin(schema=schema)
    filters: list[tuple[Transaction, Any]] = [
        (by_function, lambda row: row["value"] > 2),
        (by_expression, q.gt(q.field("value"), 2)),
    ]
    for tx, wanted in filters:
        assert [row["value"] for row in tx.query("things").filter(wanted)] == [3]
        tx.insert("notes", {"body": "x"})
    things.run(lambda other: other.patch(value_of(other, 1)["_id"], {"group": "changed"}))
    assert conflicts(things, by_function)
    assert conflicts(things, by_expression)


def test_T8_commit_timestamps_rise_also_when_the_clock_goes_back(tmp_path: Path) -> None:
    timestamps: list[int | BaseException] = []
    for _ in range(3):
        store = OpenStore(tmp_path)  # the clock begins anew
        try:
            for _ in range(3):
                transactions = [store.begin(schema=schema) for _ in range(3)]
                for tx in transactions:
                    tx.insert("notes", {"body": "x"})
                store.clock.set_ns(store.clock.now_ns() - NS_PER_S)
                timestamps += store.commit_together(transactions)
        finally:
            store.close()
    commits = [ts for ts in timestamps if isinstance(ts, int)]
    assert len(commits) == 3 * 3 * 3 - 2, "of the first three, two met each other at the making of the table"
    assert commits == sorted(set(commits))


def test_T9_a_nested_mutation_that_failed_leaves_its_reads(things: OpenStore) -> None:
    tx = things.begin(schema=schema)
    tx.insert("notes", {"body": "outer"})
    savepoint = tx.savepoint()
    tx.patch(value_of(tx, 2)["_id"], {"group": "inner"})
    tx.rollback(savepoint)
    assert "group" not in value_of(tx, 2)
    things.run(lambda other: other.patch(value_of(other, 2)["_id"], {"group": "other"}))
    assert conflicts(things, tx)


def runs_of(backend: LocalBackend, path: str) -> int:
    return sum(entry.path == path for entry in backend.log.entries())


@query
def who(ctx: QueryCtx) -> Any:
    return ctx.run_query("test_semantics:look_at_caller")


@query
def look_at_caller(ctx: QueryCtx) -> Any:
    return (ctx.auth.get_user_identity() or {}).get("name")


@query
def count_notes(ctx: QueryCtx) -> int:
    return len(ctx.db.query(Note).collect())


def test_T12_a_query_that_does_not_ask_who_is_calling_runs_once_for_all() -> None:
    with LocalBackend(who, look_at_caller, count_notes, note, schema=schema) as backend:

        def asked(path: str, name: str | None) -> bytes | None:
            identity = None if name is None else json.dumps({"name": name}).encode()
            call = Call(f"test_semantics:{path}", b"{}", kind="query", identity=identity)
            outcome = backend._wait(backend.executor.query(call))
            assert outcome.error is None
            return outcome.value

        users = ("ada", "bob", None, "ada")
        assert [asked("count_notes", user) for user in users] == [b"0"] * 4
        assert runs_of(backend, "test_semantics:count_notes") == 1
        assert [asked("who", user) for user in users] == [b'"ada"', b'"bob"', b"null", b'"ada"']
        assert runs_of(backend, "test_semantics:who") == 3
        backend.mutation(note)
        assert [asked("count_notes", user) for user in users] == [b"1"] * 4
        assert runs_of(backend, "test_semantics:count_notes") == 2
        backend.advance(seconds=17.1)
        assert asked("count_notes", "bob") == b"1"
        assert runs_of(backend, "test_semantics:count_notes") == 3, "what is shared is as old as it is"


def test_T13_a_cached_result_serves_for_17_seconds(backend: LocalBackend) -> None:
    global on_ctx

    def now_ms(ctx: QueryCtx) -> float:
        return ctx.now_ms

    on_ctx = now_ms
    first = backend.query(look)
    backend.advance(seconds=16.9)
    assert backend.query(look) == first
    backend.advance(seconds=0.2)
    assert backend.query(look) == first + 17_100
    assert runs_of(backend, "test_semantics:look") == 2


def test_T14_a_query_that_raises_runs_each_time(backend: LocalBackend) -> None:
    global on_ctx

    def fail(ctx: QueryCtx) -> None:
        raise ValueError("again")

    on_ctx = fail
    for _ in range(3):
        with pytest.raises(FunctionFailed, match="again"):
            backend.query(look)
    assert runs_of(backend, "test_semantics:look") == 3


# --- Database ---------------------------------------------------------------------------------------------------------

ASCENDING: list[Any] = [UNSET, None, Int64(5), -0.0, 0.0, 1.0, math.nan, False, True, "a", b"", [], {}]


def described(row: Any) -> str:
    value = row.get("value", UNSET)
    return "nan" if isinstance(value, float) and math.isnan(value) else f"{type(value).__name__} {value!r}"


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(len(ASCENDING))))
def test_DB1_an_index_orders_all_types(order: list[int]) -> None:
    def insert(ctx: MutationCtx) -> None:
        for place in order:
            value = ASCENDING[place]
            ctx.db.insert(Thing, {"group": str(place)} if value is UNSET else {"group": str(place), "value": value})

    def places(direction: Literal["asc", "desc"]) -> Callable[[QueryCtx], list[str]]:
        return lambda ctx: [
            row["group"] for row in ctx.db.query(Thing).with_index("by_value").order(direction).collect()
        ]

    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        mutate(backend, insert)
        ascending = [str(place) for place in range(len(ASCENDING))]
        assert read(backend, places("asc")) == ascending
        assert read(backend, places("desc")) == ascending[::-1]


def test_DB2_below_a_number_are_the_rows_without_one(backend: LocalBackend) -> None:
    def insert(ctx: MutationCtx) -> None:
        for fields in ({}, {"value": None}, {"value": Int64(99)}, {"value": 4.0}, {"value": 5.0}, {"value": "text"}):
            ctx.db.insert(Thing, fields)

    def below(bounds: Range) -> list[str]:
        found: list[str] = read(
            backend,
            lambda ctx: [described(row) for row in ctx.db.query(Thing).with_index("by_value", value=bounds).collect()],
        )
        return found

    mutate(backend, insert)
    assert below(Range(lt=5.0)) == ["Unset UNSET", "NoneType None", "Int64 Int64(99)", "int 4"]
    assert below(Range(gt=None, lt=5.0)) == ["Int64 Int64(99)", "int 4"]
    assert below(Range(gt=4.0)) == ["int 5", "str 'text'"]


def test_DB4_unique_names_the_two_that_it_found(backend: LocalBackend) -> None:
    ids = mutate(backend, lambda ctx: [ctx.db.insert(Thing, {"value": "same"}) for _ in range(3)])
    with pytest.raises(FunctionFailed) as failed:
        read(backend, lambda ctx: ctx.db.query(Thing).with_index("by_value", value="same").unique())
    text = f"unique() query returned more than one result from table things:\n [{ids[0]}, {ids[1]}, ...]"
    assert text in str(failed.value)


def test_DB8_patch_is_shallow_and_unset_removes(backend: LocalBackend) -> None:
    def change(ctx: MutationCtx) -> Any:
        thing = ctx.db.insert(Thing, {"value": {"a": 1, "b": {"c": 2}}, "group": "g"})
        ctx.db.patch(thing, {"value": {"b": {"d": 3}}, "group": UNSET})
        return ctx.db.get(thing)

    changed = mutate(backend, change)
    assert changed["value"] == {"b": {"d": 3}}
    assert "group" not in changed


def test_DB9_creation_times_rise_strictly_in_a_mutation(backend: LocalBackend) -> None:
    def insert(ctx: MutationCtx) -> list[float]:
        ids = [ctx.db.insert(Note, {"body": str(n)}) for n in range(100)]
        return [row["_creationTime"] for id in ids if (row := ctx.db.get(id)) is not None]

    times = mutate(backend, insert)
    assert times == sorted(set(times))
    assert notes(backend) == [str(n) for n in range(100)]


def test_DB10_normalize_id_knows_tables(backend: LocalBackend) -> None:
    def normalize(ctx: MutationCtx) -> list[Any]:
        thing = ctx.db.insert(Thing, {})
        ctx.db.insert(Note, {"body": "x"})
        ctx.db.delete(thing)
        names = ("things", "notes", "nowhere")
        return [ctx.db.normalize_id(name, thing) == thing for name in names] + [ctx.db.normalize_id("things", "x")]

    assert mutate(backend, normalize) == [True, False, False, None]


# --- Schema -----------------------------------------------------------------------------------------------------------

TYPED = """v.object({a: v.literal("x"), id: v.optional(v.id("notes")), n: v.float64(), \
note: v.optional(v.union(v.id("notes"), v.null()))})"""


def test_SV1_the_texts_of_validation(backend: LocalBackend) -> None:
    def told(**arguments: Any) -> str:
        with pytest.raises(FunctionFailed) as failed:
            backend.query("test_semantics:typed", **arguments)
        text = str(failed.value)
        assert text.startswith("ArgumentValidationError: ")
        return text.removeprefix("ArgumentValidationError: ")

    assert told(a="x") == (
        "Object is missing the required field `n`. Consider wrapping the field validator in `v.optional(...)` if this "
        f'is expected.\n\nObject: {{a: "x"}}\nValidator: {TYPED}'
    )
    assert told(a="x", n=1, more=None) == (
        "Object contains extra field `more` that is not in the validator.\n\n"
        f'Object: {{a: "x", more: null, n: 1.0}}\nValidator: {TYPED}'
    )
    assert told(a="x", n="1") == 'Value does not match validator.\nPath: .n\nValue: "1"\nValidator: v.float64()'
    assert told(a="z", n=1) == '`"z"` does not match literal validator `v.literal("x")`.Path: .a'
    thing = mutate(backend, lambda ctx: ctx.db.insert(Thing, {}))
    mutate(backend, lambda ctx: ctx.db.insert(Note, {"body": "x"}))
    assert told(a="x", n=1, id=thing) == (
        f'Found ID "{thing}" from table `things`, which does not match the table name in validator '
        '`v.id("notes")`.Path: .id'
    )
    assert told(a="x", n=1, note=thing) == (
        f'Value does not match validator.\nPath: .note\nValue: "{thing}"\nValidator: v.union(v.id("notes"), v.null())'
    )


def test_SV5_a_result_that_does_not_fit_rolls_back(backend: LocalBackend) -> None:
    with pytest.raises(FunctionFailed) as failed:
        backend.mutation(mistyped)
    assert str(failed.value) == (
        "ReturnsValidationError: Value does not match validator.\nPath: [1]\nValue: 7.0\nValidator: v.string()"
    )
    assert notes(backend) == []


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_ER1_a_limit_that_is_swallowed_is_met_again_and_stands() -> None:
    met: list[str] = []

    def swallow(ctx: MutationCtx) -> str:
        for _ in range(3):
            try:
                ctx.db.query(Note).collect()
            except LimitReached as error:
                met.append(str(error))
        ctx.db.insert(Note, {"body": "never"})
        return "fine"

    with LocalBackend(*FUNCTIONS, schema=schema, limits=Limits(documents_read_max=10)) as backend:
        mutate(backend, lambda ctx: [ctx.db.insert(Note, {"body": "x"}) for _ in range(8)] and None)
        with pytest.raises(FunctionFailed, match=r"Too many documents read .* \(limit: 10\)"):
            mutate(backend, swallow)
        assert len(met) == 2
        assert len(notes(backend)) == 8


def test_ER2_a_conflict_cannot_be_caught(backend: LocalBackend) -> None:
    """Two that read before either commits: the function that catches everything is run again all the same."""
    meeting = threading.Barrier(2)
    runs: list[int] = []

    def add(ctx: MutationCtx) -> Any:
        try:
            count = len(ctx.db.query(Note).collect())
            runs.append(count)
            if len(runs) <= 2:
                meeting.wait(timeout=10)
            ctx.db.insert(Note, {"body": str(count)})
            return count
        except BaseException:
            return "caught"

    global on_ctx
    on_ctx = add
    counts: list[Any] = []
    threads = [threading.Thread(target=lambda: counts.append(backend.mutation(do))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 1]
    assert runs == [0, 0, 1]
    assert notes(backend) == ["0", "1"]


REDACTED = """
from evolute import ActionCtx, ConvexError, MutationCtx, action, mutation

@mutation
def inner(ctx: MutationCtx, secret: bool) -> None:
    raise ValueError("a secret") if secret else ConvexError({"code": 7})

@action
async def outer(ctx: ActionCtx, secret: bool) -> None:
    await ctx.run_mutation(inner, secret=secret)
"""


def test_ER3_the_data_of_a_ConvexError_survives_and_other_texts_do_not() -> None:
    with ServerThread({"m.py": REDACTED}, redact=True) as server:

        def answer(secret: bool) -> Any:
            call = {"path": "m:outer", "args": {"secret": secret}}
            return json.loads(server.request("POST", "/api/action", call).body)

        told = answer(secret=False)
        assert told["errorData"] == {"code": 7}
        assert told["errorMessage"].endswith("] Server Error")
        assert "secret" not in json.dumps(answer(secret=True))


def test_ER4_of_257_log_lines_256_are_kept(backend: LocalBackend) -> None:
    mutate(backend, lambda ctx: [print(n) for n in range(257)] and None)
    lines = backend.log.entries()[-1].log_lines
    assert len(lines) == 256
    assert lines[254] == "[LOG] 254"
    assert lines[255] == "[ERROR] Log overflow (maximum 256). Remaining log lines omitted."
