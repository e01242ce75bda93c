"""Worker processes: what they answer, what stops their calls, and what ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evolute.execution.request import Call, CallError, CallResult, FunctionOutcome, Kind
from evolute.limits import MIB, Limits
from evolute.system.tables import SCHEDULED_NUMBER
from evolute.values.document_id import encode_id
from tests.end_to_end.worker_under_test import WorkerUnderTest
from tests.unit.function_store import FunctionStore, call

JOB = encode_id(SCHEDULED_NUMBER, bytes(16))

Start = Callable[..., tuple[FunctionStore, WorkerUnderTest]]

QUICK = Limits(query_user_ms_max=200, mutation_user_ms_max=200, system_ms_max=1000)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    stores: list[FunctionStore] = []
    workers: list[WorkerUnderTest] = []

    def start(
        text: str, limits: Limits | None = None, lane: str = "transaction"
    ) -> tuple[FunctionStore, WorkerUnderTest]:
        stores.append(FunctionStore(tmp_path, {"m.py": text}, limits))
        workers.append(WorkerUnderTest(stores[-1], lane))
        assert workers[-1].loaded[0] == "loaded", workers[-1].loaded
        return stores[-1], workers[-1]

    yield start
    for worker in workers:
        worker.close()
    for store in stores:
        store.close()


def error_of(outcome: FunctionOutcome) -> CallError:
    (result,) = outcome.results
    assert result.error is not None, result.value
    return result.error


def value_of(result: CallResult) -> object:
    assert result.error is None, result.error
    assert result.value is not None
    return json.loads(result.value)


NOTES = """
@mutation
def add(ctx: MutationCtx, body: str) -> Id["notes"]:
    print("adding", body)
    return ctx.db.insert("notes", {"body": body})

@query
def bodies(ctx: QueryCtx) -> list[str]:
    return [note["body"] for note in ctx.db.query("notes")]

@query
def endless(ctx: QueryCtx) -> None:
    count = 0
    while True:
        count += 1

@query
def stuck_in_c(ctx: QueryCtx) -> None:
    import itertools

    all(itertools.repeat(True))

@action
def blocked_in_c(ctx: BlockingActionCtx) -> None:
    sum(range(10**15))
"""


def test_mutations_come_back_as_write_sets_and_queries_see_their_commits(start: Start) -> None:
    store, worker = start(NOTES)
    _, report = worker.loaded
    paths = {"m:add", "m:bodies", "m:endless", "m:stuck_in_c", "m:blocked_in_c"}
    assert {function["path"] for function in report["functions"]} == paths
    assert [function["path"] for function in report["functions"] if function["blocking"]] == ["m:blocked_in_c"]
    added = worker.run(store.request("mutation", call("m:add", "mutation", body="hi")))
    assert added.write_set
    assert added.results[0].log_lines == ("[LOG] adding hi",)
    before = worker.run(store.request("query", call("m:bodies", "query"))).results[0]
    ts = store.commit(added.write_set)
    after = worker.run(store.request("query", call("m:bodies", "query"), call("m:bodies", "query")))
    assert value_of(before) == []
    assert [value_of(result) for result in after.results] == [["hi"], ["hi"]]
    assert after.begin_ts == ts
    assert any(after.results[0].read_set.contains(key) for key in added.write_set.touched)


def test_requests_are_answered_in_order(start: Start) -> None:
    store, worker = start(NOTES)
    requests = [store.request("query", call("m:bodies", "query")) for _ in range(5)]
    for request in requests:
        worker.send("request", request.to_wire())
    assert [worker.outcome().id for _ in requests] == [request.id for request in requests]
    worker.send("exit")
    assert worker.wait() == 0


def test_an_endless_loop_is_stopped_with_the_line_that_ran(start: Start) -> None:
    store, worker = start(NOTES, QUICK)
    outcome = worker.run(store.request("query", call("m:bodies", "query"), call("m:endless", "query")))
    assert value_of(outcome.results[0]) == []
    error = outcome.results[1].error
    assert error is not None
    first, frame, *_ = error.message.splitlines()
    assert first == "Function execution timed out (maximum duration: 0.2s); the setting is query_user_ms_max"
    assert frame.startswith('  File "functions/m.py", line ')
    assert frame.endswith(", in endless")
    assert outcome.exiting
    assert worker.wait() == 0


@pytest.mark.parametrize(
    "code",
    [
        "while swallowed < 2:\n        try:\n            endless()\n        except BaseException:\n"
        "            swallowed += 1",
        'for _ in iter(int, 1):\n        ctx.db.query("notes").first()',
        'ctx.db.insert("notes", {})\n    ctx.db.query("notes").filter(lambda note: endless()).first()',
        'ctx.db.insert("notes", {})\n    ctx.run_mutation(inner)',
        'ctx.db.insert("notes", {})\n    try:\n        endless()\n    finally:\n        ctx.db.insert("notes", {})',
    ],
    ids=["swallowed", "reading", "in a filter", "in a nested mutation", "on the way out"],
)
def test_every_mutation_past_its_time_fails_and_writes_nothing(start: Start, code: str) -> None:
    store, worker = start(
        f"""
def endless() -> bool:
    while True:
        pass

@internal_mutation
def inner(ctx: MutationCtx) -> None:
    endless()

@mutation
def run(ctx: MutationCtx) -> None:
    swallowed = 0
    {code}
""",
        QUICK,
    )
    outcome = worker.run(store.request("mutation", call("m:run", "mutation")))
    assert "the setting is mutation_user_ms_max" in error_of(outcome).message or (
        "the setting is system_ms_max" in error_of(outcome).message
    )
    assert 'File "functions/m.py"' in error_of(outcome).message
    assert outcome.write_set is None
    assert outcome.exiting
    assert worker.wait() == 0


def test_time_spent_in_the_database_is_not_the_functions(start: Start) -> None:
    store, worker = start(
        """
@mutation
def fill(ctx: MutationCtx) -> None:
    for number in range(2000):
        ctx.db.insert("notes", {"body": str(number)})

@query
def read(ctx: QueryCtx) -> int:
    return sum(len(ctx.db.query("notes").collect()) for _ in range(6))
""",
        Limits(query_user_ms_max=20, mutation_user_ms_max=1000),
    )
    store.mutate("m:fill")
    outcome = worker.run(store.request("query", call("m:read", "query")))
    result = outcome.results[0]
    assert value_of(result) == 12_000
    assert result.user_ns < 20e6 < result.total_ns


def test_c_code_that_never_returns_is_left_to_the_servers_kill(start: Start) -> None:
    store, worker = start(
        """
import itertools

@query
def stuck(ctx: QueryCtx) -> None:
    all(itertools.repeat(True))
""",
        QUICK,
    )
    worker.send("request", store.request("query", call("m:stuck", "query")).to_wire())
    assert not worker.answers_within(QUICK.query_user_ms_max / 1000 + 0.5)
    worker.signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    with store.snapshot():
        assert store.engine.check_readers() == 1


def test_memory_is_limited_and_the_error_names_the_setting(start: Start) -> None:
    store, worker = start(
        """
@mutation
def grow(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})
    try:
        blocks = [bytearray(10_000_000) for _ in range(100)]
    except MemoryError:
        del ctx
        raise
""",
        Limits(worker_memory_bytes_max=200 * MIB),
    )
    outcome = worker.run(store.request("mutation", call("m:grow", "mutation")))
    text = error_of(outcome).message
    assert text.startswith("Function execution ran out of memory (maximum: 200 MiB; the setting is worker_memory_bytes")
    assert "in grow\n" in text
    assert outcome.write_set is None
    assert outcome.exiting
    assert worker.wait() == 0


def test_an_outcome_too_large_for_a_frame_is_an_error_naming_the_limit(start: Start) -> None:
    store, worker = start(
        """
@query
def large(ctx: QueryCtx, mib: int) -> str:
    return "x" * (mib * 1_000_000)
""",
        Limits(frame_bytes_max=4 * MIB, arguments_bytes_max=2 * MIB, result_bytes_max=2 * MIB),
    )
    calls = [call("m:large", "query", mib=size) for size in (1, 2, 2, 1)]
    outcome = worker.run(store.request("query", *calls))
    sizes = [result.value and len(result.value) for result in outcome.results]
    assert sizes == [1_000_002, 2_000_002, None, 1_000_002]
    error = outcome.results[2].error
    assert error is not None
    assert "frame_bytes_max" in error.message
    assert outcome.results[2].read_set == outcome.results[1].read_set


@pytest.mark.parametrize("path", ["m:endless", "m:stuck_in_c", "m:blocked_in_c"])
def test_a_worker_ends_when_its_server_is_gone_whatever_it_does(start: Start, path: str) -> None:
    kind: Kind = "action" if path == "m:blocked_in_c" else "query"
    store, worker = start(NOTES, lane="blocking" if kind == "action" else "transaction")
    worker.send("request", store.request(kind, call(path, kind)).to_wire())
    assert not worker.answers_within(0.1)
    worker.close_lifeline()
    assert worker.wait() in (0, -signal.SIGKILL)


def test_a_worker_ends_when_its_channel_is_closed(start: Start) -> None:
    _, worker = start(NOTES)
    worker.hang_up()
    assert worker.wait() == 0


def test_the_terminals_signals_are_the_servers_to_handle(start: Start) -> None:
    store, worker = start(NOTES)
    worker.signal(signal.SIGINT)
    worker.signal(signal.SIGTERM)
    assert value_of(worker.run(store.request("query", call("m:bodies", "query"))).results[0]) == []


def test_a_broken_folder_reports_every_traceback(tmp_path: Path) -> None:
    store = FunctionStore(tmp_path, {"m.py": NOTES})
    worker = WorkerUnderTest(store, sources={"a.py": b"import nothing_like_it", "b.py": b"x = 1 / 0", "c.py": b"def"})
    name, texts = worker.loaded
    text = "\n".join(texts)
    assert name == "load_failed"
    for part in ("nothing_like_it", "ZeroDivisionError", "SyntaxError", "a.py", "b.py", "c.py"):
        assert part in text
    assert worker.wait() == 0
    worker.close()
    store.close()


def test_what_a_transaction_worker_imports() -> None:
    program = "import sys, evolute.execution.worker; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    assert "evolute.execution.runner" in modules
    layers = {name.split(".")[1] for name in modules if name.startswith("evolute.")}
    assert layers.isdisjoint({"server", "sync", "scheduler", "cli", "protocol", "backend", "testing"})
    ours = {"committer", "write_log", "subscriptions", "database"}
    assert modules.isdisjoint({f"evolute.database.{name}" for name in ours})
    assert modules.isdisjoint({"asyncio", "ssl", "starlette", "uvicorn"})


def test_what_a_blocking_worker_imports() -> None:
    """No event loop: an action has it as its own if it wants one."""
    program = "import sys, evolute.execution.worker, evolute.execution.blocking_worker; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    assert "evolute.execution.blocking_runner" in modules
    layers = {name.split(".")[1] for name in modules if name.startswith("evolute.")}
    assert layers.isdisjoint({"server", "sync", "scheduler", "cli", "protocol", "backend", "testing"})
    assert modules.isdisjoint({"asyncio", "ssl", "evolute.database.committer", "evolute.database.write_log"})


def test_a_transaction_worker_is_small(start: Start) -> None:
    store, worker = start(NOTES)
    worker.run(store.request("query", call("m:bodies", "query")))
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
    assert int(line.split()[1]) < 45 * 1024


def test_a_worker_gives_way_to_the_server(start: Start) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    _, worker = start(NOTES, Limits(worker_niceness=3))
    assert os.getpriority(os.PRIO_PROCESS, worker.process.pid) == min(own + 3, 19)
    if hasattr(os, "SCHED_BATCH"):
        assert os.sched_getscheduler(worker.process.pid) == os.SCHED_BATCH


ACTIONS = """
import asyncio
import time

@internal_query
def twice(ctx: QueryCtx, n: int) -> int:
    return 2 * n

@internal_mutation
def work(ctx: MutationCtx, n: int) -> None: ...
"""


def action(path: str, **arguments: object) -> Call:
    return call(path, "action", **arguments)


def test_actions_run_side_by_side_and_call_back(start: Start) -> None:
    store, worker = start(
        ACTIONS
        + """
@action
async def both(ctx: ActionCtx) -> list[int]:
    print("before")
    results = await asyncio.gather(ctx.run_query(twice, 1), ctx.run_query("m:twice", n=2))
    await ctx.run_mutation(work, n=3)
    job = await ctx.scheduler.run_after(1000, work, n=4)
    await ctx.scheduler.cancel(job)
    print("after")
    return results
""",
        lane="action",
    )
    requests = [store.request("action", action("m:both")) for _ in range(2)]
    for request in requests:
        worker.send("request", request.to_wire())
    asked: dict[int, list[object]] = {request.id: [] for request in requests}
    outcomes: list[FunctionOutcome] = []
    while len(outcomes) < 2:
        frame = worker.receive()
        if frame[0] == "outcome":
            outcomes.append(FunctionOutcome.from_wire(frame[1]))
            continue
        name, request_id, callback_id, operation, payload = frame
        assert name == "callback"
        if operation.startswith("run_"):
            nested = Call.from_wire(payload)
            assert (nested.depth, nested.public_only) == (1, False)
            asked[request_id].append((operation, nested.path, nested.arguments))
            n = json.loads(nested.arguments)["n"]
            worker.send("reply", callback_id, True, json.dumps(2 * n if operation == "run_query" else None).encode())
        elif operation == "schedule":
            asked[request_id].append((operation, *payload[:2]))
            worker.send("reply", callback_id, True, json.dumps(JOB).encode())
        else:
            asked[request_id].append((operation, payload))
            worker.send("reply", callback_id, True, b"null")
    for outcome in outcomes:
        assert value_of(outcome.results[0]) == [2, 4]
        assert outcome.results[0].log_lines == ("[LOG] before", "[LOG] after")
        assert asked[outcome.id] == [
            ("run_query", "m:twice", b'{"n":1}'),
            ("run_query", "m:twice", b'{"n":2}'),
            ("run_mutation", "m:work", b'{"n":3}'),
            ("schedule", "m:work", b'{"n":4}'),
            ("cancel", JOB),
        ]


def test_errors_of_called_functions_arrive_in_the_action(start: Start) -> None:
    store, worker = start(
        ACTIONS
        + """
@action
async def run(ctx: ActionCtx) -> list[Any]:
    try:
        await ctx.run_query(twice, n=1)
    except ConvexError as error:
        first = error.data
    await ctx.run_query(twice, n=2)
    return [first]
""",
        lane="action",
    )
    worker.send("request", store.request("action", action("m:run")).to_wire())
    worker.send("reply", worker.receive()[2], False, CallError("Uncaught ConvexError: 7", b"7").to_wire())
    worker.send("reply", worker.receive()[2], False, CallError("Uncaught ValueError: boom").to_wire())
    text = error_of(worker.outcome()).message
    assert text.startswith("Uncaught CalledFunctionFailed: Uncaught ValueError: boom\n")
    assert text.endswith("await ctx.run_query(twice, n=2)")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ctx.db", "Uncaught AttributeError: `ctx` of an action has no 'db': an action reads and writes through"),
        ("await ctx.run_query(work, n=1)", "Trying to execute m.py:work as Query, but it is defined as Mutation."),
        ("await ctx.run_query(twice, n='x')", "ArgumentValidationError: Value does not match validator."),
        ("await ctx.scheduler.run_after(-1, work, n=1)", "InvalidSchedule: `delay` must be non-negative"),
        ("await ctx.scheduler.run_after(1, twice, n=1)", "Only Mutation and Action can be scheduled."),
        ("raise SystemExit(1)", "Uncaught SystemExit: 1\n"),
        ("asyncio.get_running_loop().create_task(leave()); await asyncio.sleep(0.05); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_an_action_does_wrong_is_its_own_error(start: Start, code: str, text: str) -> None:
    store, worker = start(
        f"{ACTIONS}\nasync def leave() -> None:\n    raise SystemExit(1)\n\n"
        f"@action\nasync def run(ctx: ActionCtx) -> None:\n    {code}\n",
        lane="action",
    )
    assert text in error_of(worker.run(store.request("action", action("m:run")))).message
    assert text in error_of(worker.run(store.request("action", action("m:run")))).message


def test_a_blocking_action_is_interrupted_and_its_neighbours_go_on(start: Start) -> None:
    store, worker = start(
        ACTIONS
        + """
@action
async def neighbour(ctx: ActionCtx) -> str:
    value = await ctx.run_query(twice, n=1)
    return f"went on with {value}"

@action
async def block(ctx: ActionCtx) -> None:
    time.sleep(600)
""",
        Limits(action_block_ms_max=300),
        lane="action",
    )
    worker.send("request", store.request("action", action("m:neighbour")).to_wire())
    callback = worker.receive()
    worker.send("request", store.request("action", action("m:block")).to_wire())
    worker.send("reply", callback[2], True, b"2")
    worker.send("ping")
    frames = [worker.receive() for _ in range(3)]
    outcomes = {frame[1][0]: FunctionOutcome.from_wire(frame[1]) for frame in frames if frame[0] == "outcome"}
    assert [frame for frame in frames if frame[0] != "outcome"] == [("pong",)]
    blocked = error_of(outcomes[2]).message
    assert blocked.startswith("The action blocked its event loop (maximum duration: 0.3s; the setting is action_block")
    assert "time.sleep(600)" in blocked
    assert value_of(outcomes[1].results[0]) == "went on with 2"


def test_an_action_past_its_time_is_cancelled_where_it_waits(start: Start) -> None:
    store, worker = start(
        ACTIONS
        + """
@action
async def wait(ctx: ActionCtx) -> None:
    await asyncio.sleep(600)

@action
async def leave_running(ctx: ActionCtx) -> str:
    task = asyncio.create_task(wait(ctx))
    other = asyncio.ensure_future(ctx.run_query(twice, n=1))
    await asyncio.sleep(0)
    return "done"
""",
        Limits(action_ms_max=200),
        lane="action",
    )
    text = error_of(worker.run(store.request("action", action("m:wait")))).message
    assert text.startswith("Function execution timed out (maximum duration: 0.2s); the setting is action_ms_max\n")
    assert "await asyncio.sleep(600)" in text
    worker.send("request", store.request("action", action("m:leave_running")).to_wire())
    assert worker.receive()[0] == "callback"
    result = worker.outcome().results[0]
    assert value_of(result) == "done"
    assert result.log_lines == (
        "[WARN] 1 unawaited operation(s): [run_query]. Async operations should be awaited or they might not run.",
    )


def test_a_cancelled_action_ends_at_its_next_await(start: Start) -> None:
    store, worker = start(
        ACTIONS
        + """
@action
async def wait(ctx: ActionCtx) -> None:
    await ctx.run_query(twice, n=1)
""",
        lane="action",
    )
    request = store.request("action", action("m:wait"))
    worker.send("request", request.to_wire())
    assert worker.receive()[0] == "callback"
    worker.send("cancel", request.id)
    assert error_of(worker.outcome()).message == "The action was cancelled by the server."
    worker.send("exit")
    assert worker.wait() == 0
