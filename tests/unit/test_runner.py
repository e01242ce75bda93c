"""Running queries and mutations on a real store: results, errors, nesting, sessions, jobs, contexts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evolute.errors import ContextClosed
from evolute.execution.request import JOB_CHANGED, WRONG_DEPLOYMENT, Call
from evolute.limits import Limits
from evolute.storage.keyspace import DEPLOYMENT
from tests.unit.function_store import NOW_NS, FunctionStore, call

MakeStore = Callable[..., FunctionStore]

SCHEMA = """
from evolute import Document, define_schema, define_table
class Note(Document):
    body: str
schema = define_schema(notes=define_table(Note).index("by_body", ["body"]))
"""


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[MakeStore]:
    stores: list[FunctionStore] = []

    def make(text: str, limits: Limits | None = None, **more: str) -> FunctionStore:
        files = {"m.py": text, **{f"{name}.py": source for name, source in more.items()}}
        stores.append(FunctionStore(tmp_path, files, limits))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


NOTES = """
@mutation
def add(ctx: MutationCtx, body: str) -> Id["notes"]:
    return ctx.db.insert("notes", {"body": body})

@query
def bodies(ctx: QueryCtx) -> list[str]:
    return [note["body"] for note in ctx.db.query("notes")]
"""


def test_what_a_mutation_writes_the_next_query_reads(make_store: MakeStore) -> None:
    store = make_store(NOTES)
    store.mutate("m:add", body="first")
    assert store.query("m:bodies") == ["first"]


def test_queries_of_a_batch_see_one_snapshot_and_have_read_sets_of_their_own(make_store: MakeStore) -> None:
    store = make_store(
        NOTES
        + """
@query
def constant(ctx: QueryCtx) -> int:
    print("constant")
    return 1
"""
    )
    store.mutate("m:add", body="a")
    outcome = store.run_queries(call("m:constant", "query"), call("m:bodies", "query"), call("m:nothing", "query"))
    constant, bodies, missing = outcome.results
    assert outcome.begin_ts == store.ts
    assert (constant.value, constant.log_lines) == (b"1", ("[LOG] constant",))
    assert constant.read_set.points == missing.read_set.points == {DEPLOYMENT}
    assert bodies.value == b'["a"]'
    assert len(bodies.read_set) > 1
    assert missing.error is not None
    assert missing.error.message == "Could not find public function for 'm:nothing'."


def test_an_exception_shows_the_users_frames_and_keeps_what_was_read(make_store: MakeStore) -> None:
    store = make_store(
        """
def check(value: int) -> None:
    if value:
        raise ValueError("boom")

@mutation
def fail(ctx: MutationCtx) -> None:
    ctx.db.query("notes").collect()
    check(len(str(ctx)))
"""
    )
    outcome = store.run_mutation(call("m:fail", "mutation"))
    (result,) = outcome.results
    assert outcome.write_set is None
    assert result.error is not None
    assert result.error.message.splitlines() == [
        "Uncaught ValueError: boom",
        '  File "functions/m.py", line 15, in fail',
        "    check(len(str(ctx)))",
        '  File "functions/m.py", line 10, in check',
        '    raise ValueError("boom")',
    ]
    assert len(result.read_set) > 1


def test_convex_errors_keep_their_data(make_store: MakeStore) -> None:
    store = make_store(
        """
@mutation
def fail(ctx: MutationCtx, invalid: bool) -> None:
    raise ConvexError({1, 2} if invalid else {"code": 7})
"""
    )
    error = store.run_mutation(call("m:fail", "mutation", invalid=False)).results[0].error
    assert error is not None
    assert error.data == b'{"code":7}'
    assert error.message.startswith('Uncaught ConvexError: {"code":7}\n  File "functions/m.py"')
    assert store.error("m:fail", invalid=True).startswith("Uncaught ConvexError with invalid data: {1, 2}")


@pytest.mark.parametrize(
    ("path", "kind", "arguments", "text"),
    [
        ("m:hidden", "query", {}, "Could not find public function for 'm:hidden'."),
        ("no/where:f", "query", {}, "Could not find public function for 'no/where:f'."),
        ("m:read", "mutation", {"n": 1}, "Trying to execute m.py:read as Mutation, but it is defined as Query."),
        ("m:read", "query", {}, "ArgumentValidationError: Object is missing the required field `n`."),
        ("m:read", "query", {"n": "x"}, "ArgumentValidationError: Value does not match validator."),
        ("m:read", "query", {"n": 1, "x": 2}, "ArgumentValidationError: Object contains extra field `x`"),
        ("m:read", "query", {"n": 0}, "ReturnsValidationError: Value does not match validator."),
        ("m:not_ended", "query", {}, "Return value is a Query. Results must be retrieved with `.collect()`"),
        ("m:no_value", "query", {}, "Function m:no_value returned what is not a value: "),
        ("m:leave", "query", {}, "Uncaught SystemExit: 3\n"),
        ("m:deep", "query", {}, "Uncaught RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_what_a_call_that_cannot_run_fails_with(
    make_store: MakeStore, path: str, kind: str, arguments: dict[str, object], text: str
) -> None:
    store = make_store(
        """
@internal_query
def hidden(ctx: QueryCtx) -> None: ...

@query
def read(ctx: QueryCtx, n: int) -> str:
    return "x" if n else n

@query
def not_ended(ctx: QueryCtx) -> Any:
    return ctx.db.query("notes")

@query
def no_value(ctx: QueryCtx) -> Any:
    return {"a": {1, 2}}

@query
def leave(ctx: QueryCtx) -> None:
    raise SystemExit(3)

@query
def deep(ctx: QueryCtx) -> None:
    deep(ctx)
"""
    )
    assert store.error(path, kind, **arguments).startswith(text)  # type: ignore[arg-type]


def test_internal_functions_run_for_callers_who_may(make_store: MakeStore) -> None:
    store = make_store(
        """
@internal_query
def hidden(ctx: QueryCtx) -> str:
    return "seen"
"""
    )
    outcome = store.run_queries(call("m:hidden", None)._replace(public_only=False))
    assert outcome.results[0].value == b'"seen"'


def test_sizes_of_arguments_results_and_errors_are_limited(make_store: MakeStore) -> None:
    store = make_store(
        """
@query
def echo(ctx: QueryCtx, text: str) -> str:
    return text * 2

@query
def shout(ctx: QueryCtx) -> None:
    raise ValueError("x" * 1000)
""",
        Limits(arguments_bytes_max=100, result_bytes_max=100, error_bytes_max=200),
    )
    assert store.error("m:echo", "query", text="x" * 100) == (
        "Arguments for m:echo are too large (actual: 111 bytes, limit: 100 bytes; the setting is arguments_bytes_max)"
    )
    assert "Function m:echo return value is too large (actual: 102 bytes" in store.error(
        "m:echo", "query", text="x" * 50
    )
    text = store.error("m:shout", "query")
    assert len(text) == 200
    assert text.endswith("x (truncated due to length)")


NESTED = """
@internal_mutation
def write(ctx: MutationCtx, body: str, fail: bool = False) -> list[str]:
    ctx.db.insert("notes", {"body": body})
    if fail:
        raise ConvexError("undone")
    return [body]

@internal_query
def count(ctx: QueryCtx) -> int:
    return len(ctx.db.query("notes").collect())

@internal_query
def cheat(ctx: QueryCtx) -> None:
    ctx.run_query("m:write", body="x")

@internal_query
def cheat_again(ctx: QueryCtx) -> None:
    ctx.run_mutation(write, body="x")

@mutation
def forever(ctx: MutationCtx, level: int) -> None:
    ctx.run_mutation(forever, level + 1)
"""


def test_nested_mutations_are_undone_alone(make_store: MakeStore) -> None:
    store = make_store(
        NESTED
        + """
@mutation
def parent(ctx: MutationCtx) -> list[Any]:
    seen: list[Any] = []
    kept = ctx.run_mutation(write, body="kept")
    kept.append("changed by the caller only")
    seen.append(ctx.run_query(count))
    try:
        ctx.run_mutation("m:write", body="gone", fail=True)
    except ConvexError as error:
        seen.append(error.data)
    seen.append(ctx.run_query("m:count"))
    return seen
"""
    )
    assert store.mutate("m:parent") == [1, "undone", 1]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ('ctx.run_query("m:cheat")', "Uncaught WrongKind: Cannot call a mutation function from a query function"),
        ('ctx.run_query("m:cheat_again")', "Uncaught AttributeError: `ctx` of a query has no 'run_mutation'"),
        ('ctx.run_query("m:write", body="x")', "Uncaught WrongKind: Trying to execute m.py:write as Query"),
        ("ctx.run_mutation(write)", "Uncaught ValidationFailed: ArgumentValidationError: Object is missing"),
        ("ctx.run_mutation(write, 1, 2, 3)", "Uncaught ValidationFailed: ArgumentValidationError: m:write takes 2"),
        ('ctx.run_mutation("m:none")', "Uncaught FunctionNotFound: Could not find public function for 'm:none'."),
        ("ctx.run_mutation(forever, level=1)", "Uncaught LimitReached: Function call depth limit exceeded (limit: 8;"),
        ("ctx.run_action(write)", "Uncaught AttributeError: `ctx` of a mutation has no 'run_action': only an action"),
    ],
)
def test_nested_calls_that_cannot_be(make_store: MakeStore, code: str, text: str) -> None:
    store = make_store(f"{NESTED}\n@mutation\ndef parent(ctx: MutationCtx) -> None:\n    {code}\n")
    assert store.error("m:parent").startswith(text)


def test_a_swallowed_limit_poisons_the_mutation(make_store: MakeStore) -> None:
    store = make_store(
        """
@mutation
def greedy(ctx: MutationCtx) -> str:
    for number in range(20):
        ctx.db.insert("notes", {"body": str(number)})
    try:
        ctx.db.query("notes").collect()
    except Exception:
        return "swallowed"
""",
        Limits(documents_read_max=10),
    )
    text = store.error("m:greedy")
    assert "Too many documents read" in text
    assert "documents_read_max" in text
    assert 'ctx.db.query("notes").collect()' in text


def test_the_runtimes_own_tables_are_kept_apart(make_store: MakeStore) -> None:
    store = make_store(
        """
@mutation
def schedule(ctx: MutationCtx) -> Any:
    return ctx.scheduler.run_after(1000, "m:schedule")

@mutation
def touch(ctx: MutationCtx, code: str, job: str) -> Any:
    note = ctx.db.insert("notes", {"body": "x"})
    return eval(code, {"ctx": ctx, "job": job, "note": note})
"""
    )
    job = store.mutate("m:schedule")
    read_only, use_system = "System tables (prefixed with `_`) are read-only.", "only be accessed with db.system."
    for code, text in {
        'ctx.db.query("_scheduled_functions")': use_system,
        'ctx.db.query("_deployments")': use_system,
        "ctx.db.get(job)": use_system,
        'ctx.db.insert("_scheduled_functions", {})': read_only,
        "ctx.db.patch(job, {})": read_only,
        "ctx.db.replace(job, {})": read_only,
        "ctx.db.delete(job)": read_only,
        'ctx.db.system.query("notes")': "User tables cannot be accessed with db.system.",
        "ctx.db.system.get(note)": "User tables cannot be accessed with db.system.",
        'ctx.db.system.query("_deployments")': "There is no system table '_deployments'",
        'ctx.db.system.query("_scheduled_functions").with_index("by_due").collect()': "Index by_due not found",
        "ctx.db.system.insert": "AttributeError",
        "ctx.db.get('nonsense')": "Invalid argument `id` for `db.get`: Unable to decode ID: Invalid ID length 8",
        "ctx.db.get(3)": "Invalid argument `id` for `db.get`, expected string but got 'int': 3",
        "ctx.db.query(int)": "int names no table.",
    }.items():
        assert text in store.error("m:touch", code=code, job=job), code
    public = {"_id", "_creationTime", "name", "args", "scheduledTime", "state"}
    for code in (
        "ctx.db.system.get(job)",
        'ctx.db.system.query("_scheduled_functions").filter(lambda row: set(row) & {"_due"} == set()).unique()',
        'next(iter(ctx.db.system.query("_scheduled_functions").order("desc")))',
    ):
        assert set(store.mutate("m:touch", code=code, job=job)) == public, code
    code = 'ctx.db.system.normalize_id("_scheduled_functions", job)'
    assert store.mutate("m:touch", code=code, job=job) == job


def test_tables_are_named_by_their_row_types(make_store: MakeStore) -> None:
    store = make_store(
        """
from functions.schema import Note

@mutation
def add(ctx: MutationCtx, body: str) -> Id[Note]:
    return ctx.db.insert(Note, {"body": body})

@query
def find(ctx: QueryCtx, body: str) -> Note | None:
    return ctx.db.query(Note).with_index("by_body", body=body).unique()

@mutation
def change(ctx: MutationCtx, note: Id[Note], body: str) -> None:
    ctx.db.patch(note, {"body": body})
    assert ctx.db.normalize_id(Note, note) == note
""",
        schema=SCHEMA,
    )
    note = store.mutate("m:add", body="a")
    store.mutate("m:change", note=note, body="b")
    assert store.query("m:find", body="a") is None
    found = store.query("m:find", body="b")
    assert found == {"_id": note, "_creationTime": found["_creationTime"], "body": "b"}
    assert "does not match" in store.error("m:change", note="10000000000000000000000000000000", body="c")


def test_time_and_chance_stand_still(make_store: MakeStore) -> None:
    store = make_store(
        """
@mutation
def look(ctx: MutationCtx) -> list[Any]:
    return [ctx.now_ms, ctx.now_ms, ctx.now.isoformat(), ctx.random.random(), ctx.run_query("m:inner")]

@query
def inner(ctx: QueryCtx) -> float:
    return ctx.random.random()
"""
    )
    with store.snapshot() as snapshot:
        request = store.request("mutation", call("m:look", "mutation"))
        first, second = (store.runner.run(request, snapshot).results[0].value for _ in range(2))
    other = store.run_mutation(call("m:look", "mutation")).results[0].value
    assert first is not None
    assert other is not None
    assert first == second
    now, again, text, chance, inner = json.loads(first)
    assert now == again == NOW_NS / 1e6
    assert text == "2023-11-14T22:13:20.123000+00:00"
    assert chance != inner
    assert json.loads(other)[3] != chance


def test_the_callers_identity_is_seen_by_nested_functions_too(make_store: MakeStore) -> None:
    store = make_store(
        """
@query
def who(ctx: QueryCtx) -> Any:
    return ctx.auth.get_user_identity()

@query
def nested(ctx: QueryCtx) -> Any:
    return ctx.run_query(who)
"""
    )
    me = call("m:nested", "query")._replace(identity=b'{"subject":"me"}')
    assert [result.value for result in store.run_queries(call("m:who", "query"), me).results] == [
        b"null",
        b'{"subject":"me"}',
    ]


def test_a_context_that_is_kept_is_closed(make_store: MakeStore) -> None:
    store = make_store(
        """
kept: dict[str, Any] = {}

@mutation
def keep(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {"body": "x"})
    rows = iter(ctx.db.query("notes"))
    next(rows)
    kept.update(ctx=ctx, rows=rows, query=ctx.db.query("notes"))
"""
    )
    kept: dict[str, Any] = sys.modules["functions.m"].kept
    store.mutate("m:keep")
    ctx = kept["ctx"]
    uses: list[Callable[[], object]] = [
        lambda: ctx.db.get("x"),
        lambda: ctx.db.insert("notes", {}),
        lambda: ctx.db.query("notes"),
        lambda: ctx.scheduler.run_after(1, "m:keep"),
        lambda: ctx.run_mutation("m:keep"),
        lambda: ctx.db.system.query("_scheduled_functions"),
        lambda: next(kept["rows"]),
        lambda: kept["query"].collect(),
    ]
    for use in uses:
        with pytest.raises(ContextClosed, match="after its function returned"):
            use()


def test_side_effects_are_refused_in_mutations(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(
        """
@mutation
def write(ctx: MutationCtx, file: str) -> None:
    open(file, "w").close()
"""
    )
    text = store.error("m:write", file=str(tmp_path / "new"))
    assert text.startswith("Uncaught SideEffectRefused: Can't open a file for writing in queries and mutations. Use an")
    assert not (tmp_path / "new").exists()


def test_a_sessions_mutation_runs_once(make_store: MakeStore) -> None:
    store = make_store(
        """
@mutation
def add(ctx: MutationCtx, fail: bool = False) -> int:
    print("runs")
    ctx.db.insert("notes", {"body": "x"})
    if fail:
        raise ValueError("no")
    return len(ctx.db.query("notes").collect())
"""
    )
    failing = call("m:add", "mutation", fail=True)._replace(session=("session", 1))
    assert store.run_mutation(failing).results[0].error is not None
    again = call("m:add", "mutation")._replace(session=("session", 1))
    first = store.run_mutation(again)
    assert first.write_set is not None
    ts = store.commit(first.write_set)
    second = store.run_mutation(again)
    assert (second.replayed_ts, second.write_set) == (ts, None)
    assert (second.results[0].value, second.results[0].log_lines) == (b"1", ("[LOG] runs",))
    other = again._replace(session=("session", 2))
    assert store.run_mutation(other).results[0].value == b"2"


def test_a_job_and_its_mutation_are_one_transaction(make_store: MakeStore) -> None:
    store = make_store(
        """
from datetime import timedelta

@mutation
def later(ctx: MutationCtx) -> str:
    return ctx.scheduler.run_after(timedelta(seconds=2), work, text="hi")

@internal_mutation
def work(ctx: MutationCtx, text: str) -> Any:
    return [row["state"]["kind"] for row in ctx.db.system.query("_scheduled_functions")]

@mutation
def stop(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(job)

@query
def job(ctx: QueryCtx, id: str) -> Any:
    return ctx.db.system.get(id)
"""
    )
    job = store.mutate("m:later")
    row = store.query("m:job", id=job)
    assert (row["name"], row["args"]) == ("m.py:work", [{"text": "hi"}])
    assert row["scheduledTime"] == NOW_NS / 1e6 + 2000
    run = Call("m:work", b'{"text":"hi"}', "mutation", public_only=False, job=job)
    outcome = store.run_mutation(run)
    assert outcome.results[0].value == b'["inProgress"]'
    assert outcome.write_set is not None
    store.commit(outcome.write_set)
    assert store.query("m:job", id=job)["state"] == {"kind": "success"}
    assert store.run_mutation(run).refused == JOB_CHANGED
    other = store.mutate("m:later")
    store.mutate("m:stop", job=other)
    assert store.run_mutation(run._replace(job=other)).refused == JOB_CHANGED


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("run_after(-1, work)", "InvalidSchedule: `delay` must be non-negative"),
        ("run_after(float('nan'), work)", "InvalidSchedule: `delay` must be a finite number"),
        ("run_after(float('inf'), work)", "InvalidSchedule: `delay` must be a finite number"),
        ("run_after('soon', work)", "InvalidSchedule: `delay` must be a number"),
        ("run_after(10**400, work)", "is more than 5 years in the future"),
        ("run_at(10**13, work)", "2286-11-20T17:46:40+00:00 is more than 5 years in the future"),
        ("run_at(0, work)", "1970-01-01T00:00:00+00:00 is more than 5 years in the past"),
        ("run_at(-1, work)", "is before 1970"),
        ("run_at(datetime(2030, 1, 1), work)", "has no time zone"),
        ("run_at('tomorrow', work)", "`time` must be a datetime or milliseconds since 1970"),
        (
            "run_after(0, 'm:look')",
            "look in module m is defined as a Query. Only Mutation and Action can be scheduled.",
        ),
        ("run_after(0, 'x:y')", "Attempted to schedule function at nonexistent path: x"),
        ("run_after(0, 'm:none')", "no exported function none found in the file: m.py"),
        ("run_after(0, print)", "is not a function reference"),
        ("run_after(0, work, text=3)", "ValidationFailed: ArgumentValidationError: Value does not match validator."),
        ("run_after(0, work)", "ArgumentValidationError: Object is missing the required field `text`"),
        ("cancel('nonsense')", "Unable to decode ID"),
    ],
)
def test_schedules_that_cannot_be_are_errors_where_they_are_made(make_store: MakeStore, code: str, text: str) -> None:
    store = make_store(
        f"""
from datetime import datetime

@internal_mutation
def work(ctx: MutationCtx, text: str) -> None: ...

@query
def look(ctx: QueryCtx) -> None: ...

@mutation
def parent(ctx: MutationCtx) -> None:
    ctx.scheduler.{code}
"""
    )
    assert text in store.error("m:parent")


def test_a_query_schedules_nothing_and_writes_nothing(make_store: MakeStore) -> None:
    store = make_store(
        """
@query
def schedule(ctx: QueryCtx) -> None:
    ctx.scheduler.run_after(0, "m:schedule")

@query
def write(ctx: QueryCtx) -> None:
    ctx.db.insert("notes", {})
"""
    )
    assert "`ctx` of a query has no 'scheduler': only mutations and actions schedule" in store.error(
        "m:schedule", "query"
    )
    assert "`ctx.db` of a query has no 'insert': only a mutation writes" in store.error("m:write", "query")


def test_code_never_runs_on_a_snapshot_of_other_code(make_store: MakeStore) -> None:
    store = make_store(NOTES)
    store.engine.write({DEPLOYMENT: b"another"})
    queries, mutation = store.run_queries(call("m:bodies", "query")), store.run_mutation(call("m:add", "mutation"))
    assert queries.refused == mutation.refused == WRONG_DEPLOYMENT
    assert queries.results == mutation.results == ()
