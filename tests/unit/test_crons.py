"""Crons as they run: one at a time, one commit a run, at most once for actions, through restarts and deployments.

The clock stands still until a test moves it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    Crons,
    DefinitionError,
    Document,
    InvalidSchedule,
    MutationCtx,
    QueryCtx,
    action,
    cron,
    daily,
    define_schema,
    define_table,
    hourly,
    internal_action,
    internal_mutation,
    interval,
    mutation,
    query,
)
from evolute.clock import NS_PER_S
from evolute.database.transaction import Transaction
from evolute.errors import Overloaded
from evolute.execution.request import Call, FunctionOutcome
from evolute.limits import Limits
from evolute.registry.crons import CronDefinition
from evolute.scheduler.crons import CronLoop
from evolute.system import crons as cron_table
from evolute.system import pauses
from evolute.testing import FunctionFailed, LocalBackend, LocalRunners
from tests.unit.function_store import FunctionStore


class Tick(Document):
    label: str
    at_ms: float


schema = define_schema(ticks=define_table(Tick))


class Gate:
    """An action that has begun and may not end yet."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.starts = 0

    async def passed(self) -> None:
        self.starts += 1
        self.begun.set()
        await asyncio.to_thread(self.opened.wait)


gate = Gate()


@pytest.fixture(autouse=True)
def _a_new_gate() -> None:
    global gate
    gate = Gate()


@internal_mutation
def tick(ctx: MutationCtx, label: str = "tick") -> str:
    print("ticking", label)
    ctx.db.insert(Tick, {"label": label, "at_ms": ctx.now_ms})
    return label


@internal_mutation
def fail_at_first(ctx: MutationCtx) -> None:
    ctx.db.insert(Tick, {"label": "tried", "at_ms": ctx.now_ms})
    if not ctx.db.system.query("_cron_runs").collect():
        raise ValueError("not yet")


@internal_action
async def slow(ctx: ActionCtx) -> None:
    await ctx.run_mutation(tick, label="begun")
    await gate.passed()


@action
async def fragile(ctx: ActionCtx) -> None:
    await ctx.run_mutation(tick, label=str(ctx.auth.get_user_identity()))
    raise RuntimeError("broken " + "x" * 2000)


@query
def ticks(ctx: QueryCtx) -> list[str]:
    return [row["label"] for row in ctx.db.query(Tick).collect()]


@query
def times(ctx: QueryCtx) -> list[float]:
    return [row["at_ms"] for row in ctx.db.query(Tick).collect()]


@query
def rows(ctx: QueryCtx) -> list[dict[str, Any]]:
    return ctx.db.system.query("_crons").collect()


@query
def runs(ctx: QueryCtx) -> list[dict[str, Any]]:
    return ctx.db.system.query("_cron_runs").collect()


@mutation
def begin_ticking(ctx: MutationCtx, name: str, seconds: int, label: str = "tick", fall: bool = False) -> None:
    ctx.crons.set(name, interval(seconds=seconds), tick, label=label)
    if fall:
        raise ValueError("fell")


@mutation
def stop_ticking(ctx: MutationCtx, name: str) -> None:
    ctx.crons.remove(name)


@internal_mutation
def adapt(ctx: MutationCtx, name: str, seconds: int) -> None:
    """A cron that is slower each time."""
    ctx.db.insert(Tick, {"label": str(seconds), "at_ms": ctx.now_ms})
    ctx.crons.set(name, interval(seconds=2 * seconds), adapt, name=name, seconds=2 * seconds)


@mutation
def adapt_from(ctx: MutationCtx, name: str, seconds: int) -> None:
    ctx.crons.set(name, interval(seconds=seconds), adapt, name=name, seconds=seconds)


@internal_mutation
def only_once(ctx: MutationCtx, name: str) -> None:
    ctx.db.insert(Tick, {"label": "once", "at_ms": ctx.now_ms})
    ctx.crons.remove(name)


@mutation
def run_only_once(ctx: MutationCtx) -> None:
    ctx.crons.set("once", interval(seconds=1), only_once, name="once")


@mutation
def misuse(ctx: MutationCtx) -> list[str]:
    found = []
    wrong: list[tuple[Any, Any, Any]] = [
        ("é", hourly(), tick),
        ("a", hourly(minute=61), tick),
        ("a", cron("0 0 30 2 *"), tick),
        ("a", timedelta(seconds=5), tick),
        ("a", hourly(), ticks),
        ("a", hourly(), "test_crons:nothing"),
        ("a", hourly(), 5),
        ("declared", hourly(), tick),
    ]
    for name, schedule, function in wrong:
        with pytest.raises(InvalidSchedule) as error:
            ctx.crons.set(name, schedule, function)
        found.append(str(error.value))
    with pytest.raises(InvalidSchedule, match=r"declared in crons\.py"):
        ctx.crons.remove("declared")
    return found


FUNCTIONS = (
    tick,
    fail_at_first,
    slow,
    fragile,
    ticks,
    times,
    rows,
    runs,
    begin_ticking,
    stop_ticking,
    adapt,
    adapt_from,
    only_once,
    run_only_once,
    misuse,
)


def backend_with(*registrations: Any, limits: Limits | None = None) -> LocalBackend:
    crons = Crons()
    for name, schedule, function, arguments in registrations:
        crons.add(name, schedule, function, **arguments)
    return LocalBackend(*FUNCTIONS, schema=schema, crons=crons, limits=limits)


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    with backend_with() as opened:
        yield opened


def deploy(backend: LocalBackend, *definitions: CronDefinition) -> None:
    """What the activation of a deployment does with its crons."""
    run = backend.executor.run_system(lambda transaction: cron_table.apply(transaction, definitions))
    backend._wait(run)


def definition(
    name: str, schedule: Any, path: str = "test_crons:tick", arguments: bytes = b'{"label":"tick"}'
) -> CronDefinition:
    return CronDefinition(name, schedule.to_value(), path, arguments, "/app/crons.py", 3)


def step_clock(backend: LocalBackend, seconds: float) -> None:
    """Moves the clock, while functions may be running, and waits for nothing."""

    async def step() -> None:
        backend.clock.set_ns(backend.clock.now_ns() + round(seconds * NS_PER_S))

    backend._wait(step())


def seconds_since(start_ns: int, times_ms: Sequence[float]) -> list[int]:
    return [round(at_ms / 1000 - start_ns / NS_PER_S) for at_ms in times_ms]


def refuse(backend: LocalBackend, refused: bool) -> None:
    """As while too much is running: no call of a function is taken."""

    async def refusing(kind: Any, calls: tuple[Call, ...], **options: Any) -> FunctionOutcome:
        if refused and kind != "queries":
            raise Overloaded("no room")
        return await LocalRunners.run(backend._runners, kind, calls, **options)

    backend._runners.run = refusing  # type: ignore[method-assign]


def statuses(backend: LocalBackend) -> list[str]:
    return [run["status"]["kind"] for run in backend.query(runs)]


# --- The checks of the specification ----------------------------------------------------------------------------------


def test_r1_a_run_longer_than_the_interval_runs_alone_and_skips_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with backend_with(("slow", interval(seconds=10), slow, {})) as backend:
        assert gate.begun.wait(10)
        for _ in range(7):
            step_clock(backend, 5)
        assert backend.query(rows)[0]["state"] == {"kind": "inProgress"}
        assert gate.starts == 1
        gate.opened.set()
        backend.run_due()
        assert gate.starts == 1
        success, skipped = backend.query(runs)
        assert success["status"] == {"kind": "success", "result": "null"}
        assert success["executionTime"] == pytest.approx(35_000, abs=1)
        assert skipped["status"] == {"kind": "canceled", "skipped": 3}
        text = "Skipping 3 run(s) of job slow because multiple scheduled runs are in the past"
        assert skipped["logLines"] == [text]
        assert text in caplog.text
        assert backend.query(rows)[0]["nextTime"] == success["scheduledTime"] + 40_000
        backend.advance(seconds=5)
        assert gate.starts == 2
        assert backend.crons.statistics().skipped == 3


def test_r2_a_deployment_that_changes_nothing_keeps_the_next_time(backend: LocalBackend) -> None:
    unchanged = [definition("a", interval(seconds=100)), definition("b", daily(hour=3))]
    deploy(backend, *unchanged)
    backend.run_due()
    backend.advance(seconds=30)
    before = backend.query(rows)
    ts = backend.database.log.published_ts
    deploy(backend, *unchanged)
    assert backend.query(rows) == before
    assert backend.database.log.published_ts == ts, "nothing was written"
    deploy(backend, definition("a", interval(seconds=100), arguments=b'{"label":"new"}'), unchanged[1])
    assert [row["nextTime"] for row in backend.query(rows)] == [row["nextTime"] for row in before]
    backend.advance(seconds=71)
    assert backend.query(ticks) == ["tick", "new"]


def test_r3_a_query_is_refused_when_the_code_is_loaded() -> None:
    with pytest.raises(DefinitionError) as error:
        backend_with(("a", hourly(), ticks, {}))
    text = "The cron job 'a' schedules a query function, only actions and mutations can be scheduled: test_crons:ticks"
    assert text in str(error.value)


# --- Mutations --------------------------------------------------------------------------------------------------------


def test_a_mutation_runs_at_its_times() -> None:
    with backend_with(("t", interval(seconds=10), tick, {"label": "a"})) as backend:
        start_ns = backend.clock.now_ns()
        backend.advance(seconds=35)
        assert seconds_since(start_ns, backend.query(times)) == [0, 10, 20, 30]
        (row,) = backend.query(rows)
        assert row["name"] == "t"
        assert row["schedule"] == {"type": "interval", "seconds": 10}
        assert (row["path"], row["args"], row["static"]) == ("test_crons:tick", [{"label": "a"}], True)
        assert row["state"] == {"kind": "pending"}
        assert [name for name in row if name.startswith("_")] == ["_creationTime", "_id"]
        *_, before, newest = backend.query(runs)
        assert newest["status"] == {"kind": "success", "result": '"a"'}
        assert newest["scheduledTime"] == before["scheduledTime"] + 10_000
        assert "ticking" in newest["logLines"][0]


NOTES = """
@mutation
def add(ctx: MutationCtx, text: str) -> int:
    ctx.db.insert("notes", {"text": text})
    if text == "bad":
        raise ValueError("bad")
    return 7
"""


def test_a_run_its_record_and_the_next_time_are_one_commit(tmp_path: Path) -> None:
    store = FunctionStore(tmp_path, {"notes.py": NOTES})

    def in_transaction(work: Any) -> Any:
        with store.snapshot() as snapshot:
            transaction = Transaction(
                snapshot, limits=store.limits, now_ns=store.ts, seed=store.ts.to_bytes(9, "big"), writable=True
            )
            value = work(transaction)
            store.commit(transaction.write_set())
            return value

    def tables(transaction: Transaction) -> tuple[int, int, list[int]]:
        crons, made = transaction.query("_crons").collect(), transaction.query("_cron_runs").collect()
        notes = transaction.query("notes").collect() if transaction.table("notes") else []
        return len(notes), len(made), [int(row["_due"]) for row in crons]

    good = definition("n", interval(seconds=10), "notes:add", b'{"text":"good"}')
    in_transaction(lambda transaction: cron_table.apply(transaction, [good]))
    due_ns = in_transaction(tables)[2][0]
    call = Call("notes:add", good.arguments, "mutation", public_only=False, cron=(cron_table.cron_id("n"), due_ns))
    outcome = store.run_mutation(call)
    assert in_transaction(tables) == (0, 0, [due_ns]), "the run commits nothing"
    assert outcome.write_set is not None
    store.commit(outcome.write_set)
    assert in_transaction(tables) == (1, 1, [due_ns + 10 * NS_PER_S]), "and then everything at once"

    assert store.run_mutation(call).refused == "JobChanged", "that run is over"
    following = call._replace(cron=(cron_table.cron_id("n"), due_ns + 10 * NS_PER_S))
    assert store.run_mutation(following._replace(arguments=b'{"text":"other"}')).refused == "JobChanged"
    bad = definition("n", interval(seconds=10), "notes:add", b'{"text":"bad"}')
    in_transaction(lambda transaction: cron_table.apply(transaction, [bad]))
    failed = store.run_mutation(following._replace(arguments=bad.arguments))
    assert failed.results[0].error is not None
    assert failed.write_set is None, "nothing of a run that fails is kept, not even that it ran"
    store.close()


def test_a_failed_run_is_recorded_writes_nothing_and_does_not_stop_the_cron() -> None:
    with backend_with(("f", interval(seconds=10), fail_at_first, {})) as backend:
        backend.run_due()
        assert backend.query(ticks) == []
        (failed,) = backend.query(runs)
        assert failed["status"]["kind"] == "failed"
        assert "ValueError: not yet" in failed["status"]["error"]
        backend.advance(seconds=9)
        assert statuses(backend) == ["failed"], "it is not tried again before it is due"
        backend.advance(seconds=1)
        assert statuses(backend) == ["failed", "success"]
        assert backend.query(ticks) == ["tried"]


def test_the_five_newest_runs_are_kept_and_texts_are_cut() -> None:
    with backend_with(("x", interval(seconds=1), fragile, {})) as backend:
        backend.advance(seconds=9)
        kept = backend.query(runs)
        assert len(backend.query(ticks)) == 10
        assert len(kept) == 5
        assert [run["scheduledTime"] for run in kept] == sorted(run["scheduledTime"] for run in kept)
        assert {len(run["status"]["error"]) for run in kept} == {1000}


def test_what_is_not_the_functions_fault_is_tried_again_ever_later() -> None:
    with backend_with(("t", interval(seconds=60), tick, {})) as backend:
        backend.run_due()
        refuse(backend, True)
        backend.advance(seconds=61)
        assert backend.crons.statistics().resting == 1
        backend.advance(seconds=10)
        assert backend.crons.statistics().resting == 1
        refuse(backend, False)
        assert statuses(backend) == ["success"]
        backend.advance(seconds=15)
        assert statuses(backend) == ["success", "success"]
        assert backend.crons.statistics().resting == 0
        backend.advance(seconds=60)
        assert len(backend.query(ticks)) == 3, "and it keeps to its times"


def test_a_clock_that_is_set_back_does_not_put_off_what_is_tried_again() -> None:
    with backend_with(("t", interval(seconds=60), tick, {})) as backend:
        backend.run_due()
        refuse(backend, True)
        backend.advance(seconds=61)
        refuse(backend, False)

        async def set_back() -> None:
            backend.clock.set_ns(backend.clock.now_ns() - 30 * NS_PER_S)

        backend._wait(set_back())
        backend._wait(settled(backend))
        assert backend.crons.statistics().resting == 0


async def settled(backend: LocalBackend) -> None:
    for _ in range(50):
        await asyncio.sleep(0)
    await backend.crons.wait_idle()


def test_a_look_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """`advance` does not wait for it either."""
    due, faults = cron_table.due, [RuntimeError("odd"), RuntimeError("odd")]

    def failing(transaction: Transaction, **options: Any) -> cron_table.DueCrons:
        if faults:
            raise faults.pop()
        return due(transaction, **options)

    monkeypatch.setattr(cron_table, "due", failing)
    with backend_with(("t", interval(seconds=60), tick, {})) as backend:
        backend.run_due()
        assert backend.query(ticks) == []
        backend.advance(seconds=2)
        assert len(backend.query(ticks)) == 1


def test_a_run_that_waits_to_be_tried_again_ends_with_its_cron() -> None:
    with backend_with(("t", interval(seconds=60), tick, {})) as backend:
        backend.run_due()
        refuse(backend, True)
        backend.advance(seconds=61)
        deploy(backend)
        refuse(backend, False)
        backend.advance(seconds=120)
        assert len(backend.query(ticks)) == 1
        assert backend.crons.statistics().running == 0


def test_while_everything_is_paused_nothing_runs_and_then_each_cron_once() -> None:
    with backend_with(("t", interval(seconds=10), tick, {})) as backend:
        backend.run_due()
        backend._wait(backend.executor.run_system(lambda transaction: pauses.pause(transaction)))
        backend.advance(seconds=45)
        assert len(backend.query(ticks)) == 1
        backend._wait(backend.executor.run_system(lambda transaction: pauses.resume(transaction)))
        backend.run_due()
        assert len(backend.query(ticks)) == 2
        assert backend.query(runs)[-1]["status"] == {"kind": "canceled", "skipped": 3}


# --- Actions and restarts ---------------------------------------------------------------------------------------------


def stop_crons(backend: LocalBackend) -> None:
    """What a crash is to the crons: the loop and its tasks are gone."""

    async def stop() -> None:
        backend._cron_loop.cancel()
        await asyncio.gather(backend._cron_loop, return_exceptions=True)
        await backend.crons.close()

    backend._wait(stop())


def start_crons(backend: LocalBackend) -> None:
    """A new loop knows nothing but the table."""

    async def start() -> None:
        backend.crons = CronLoop(backend.executor, backend.database.subscriptions, backend.clock, backend.limits)
        backend._cron_loop = asyncio.get_running_loop().create_task(backend.crons.run())

    backend._wait(start())


def mark_due(transaction: Transaction) -> list[bool]:
    due = cron_table.due(transaction, now_ns=transaction.now_ns, limit=10).crons
    return [cron_table.begin(transaction, one.due, one.path, one.arguments) for one in due]


def test_an_action_that_was_running_at_a_crash_is_not_run_again_and_the_cron_goes_on() -> None:
    """The crash came after the mark was committed: what the store holds then is all that the next start knows."""
    gate.opened.set()
    with backend_with(("slow", interval(seconds=10), slow, {})) as backend:
        backend.run_due()
        stop_crons(backend)
        step_clock(backend, 13)
        begun = backend._wait(backend.executor.run_system(mark_due))
        assert begun.value == [True]
        start_crons(backend)
        backend.run_due()
        assert gate.starts == 1
        failed = backend.query(runs)[-1]
        assert failed["status"] == {"kind": "failed", "error": "Transient error while executing action"}
        backend.advance(seconds=7)
        assert gate.starts == 2
        assert statuses(backend) == ["success", "failed", "success"]


def stored_runs(transaction: Transaction) -> list[str]:
    """For when no query is taken any more."""
    return [run["status"]["kind"] for run in transaction.query("_cron_runs").collect()]


def test_an_action_that_is_in_progress_when_the_server_begins_to_drain_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be put off any more, and the drain waits for it."""
    gate.opened.set()
    with backend_with(("slow", interval(seconds=10), slow, {})) as backend:
        backend.run_due()
        begin, begun, drains = cron_table.begin, asyncio.Event(), list[asyncio.Task[None]]()

        def begin_and_drain(*arguments: Any) -> bool:
            drains.append(asyncio.get_running_loop().create_task(backend.executor.drain(5000)))
            begun.set()
            return begin(*arguments)

        async def let_it_be_due() -> list[str]:
            backend.clock.set_ns(backend.clock.now_ns() + 10 * NS_PER_S)
            await asyncio.wait_for(begun.wait(), 10)
            await drains[0]
            return (await backend.executor.run_system(stored_runs)).value

        monkeypatch.setattr(cron_table, "begin", begin_and_drain)
        assert backend._wait(let_it_be_due()) == ["success", "success"]
        assert gate.starts == 2


@pytest.mark.parametrize("function", [tick, slow])
def test_what_is_due_while_the_server_drains_is_left_to_the_next_one(
    caplog: pytest.LogCaptureFixture, function: Any
) -> None:
    gate.opened.set()
    with backend_with(("x", interval(seconds=10), function, {})) as backend:
        backend.run_due()

        async def drain_and_let_it_be_due() -> list[str]:
            await backend.executor.drain(1000)
            backend.clock.set_ns(backend.clock.now_ns() + 10 * NS_PER_S)
            await backend.crons.wait_idle()
            assert backend.crons.statistics().resting == 1
            return (await backend.executor.run_system(stored_runs)).value

        assert backend._wait(drain_and_let_it_be_due()) == ["success"]
        assert "tried again" not in caplog.text


def test_after_downtime_there_is_one_run_and_the_rest_is_skipped() -> None:
    with backend_with(("t", interval(seconds=10), tick, {})) as backend:
        backend.run_due()
        stop_crons(backend)
        step_clock(backend, 95)
        start_crons(backend)
        backend.run_due()
        assert backend.query(ticks) == ["tick", "tick"]
        assert backend.query(runs)[-1]["status"] == {"kind": "canceled", "skipped": 8}
        backend.advance(seconds=5)
        assert len(backend.query(ticks)) == 3


def test_a_failed_action_is_recorded_and_runs_as_nobody() -> None:
    with backend_with(("x", hourly(), fragile, {})) as backend:
        backend.advance(seconds=3600)
        assert backend.query(ticks) == ["None"]
        assert "RuntimeError: broken" in backend.query(runs)[0]["status"]["error"]


def test_at_most_so_many_run_at_once_and_the_others_follow() -> None:
    names = ("a", "b", "c")
    crons: list[Any] = [(name, interval(hours=1), slow, {}) for name in names]
    with backend_with(*crons, limits=Limits(crons_running_max=2)) as backend:
        while gate.starts < 2:
            assert gate.begun.wait(10)
        assert backend.crons.statistics().running == 2
        gate.opened.set()
        backend.run_due()
        assert gate.starts == 3
        assert statuses(backend) == ["success"] * 3


# --- Deployments ------------------------------------------------------------------------------------------------------


def test_a_changed_schedule_is_computed_anew_from_the_last_run(backend: LocalBackend) -> None:
    start_ns = backend.clock.now_ns()
    deploy(backend, definition("a", interval(seconds=100)))
    backend.advance(seconds=30)
    deploy(backend, definition("a", interval(seconds=40)))
    backend.advance(seconds=9)
    assert len(backend.query(ticks)) == 1
    backend.advance(seconds=2)
    assert seconds_since(start_ns, backend.query(times)) == [0, 40]
    deploy(backend, definition("a", interval(seconds=1)))
    backend.advance(seconds=2)
    assert seconds_since(start_ns, backend.query(times)) == [0, 40, 41, 42, 43]
    deploy(backend, definition("a", cron("0 0 1 1 *")))
    assert backend.query(rows)[0]["nextTime"] == 1_704_067_200_000


def test_a_removed_cron_is_gone_with_its_runs(backend: LocalBackend) -> None:
    deploy(backend, definition("a", interval(seconds=10)), definition("b", interval(seconds=10)))
    backend.advance(seconds=15)
    deploy(backend, definition("b", interval(seconds=10)))
    backend.advance(seconds=10)
    assert [row["name"] for row in backend.query(rows)] == ["b"]
    assert {run["name"] for run in backend.query(runs)} == {"b"}
    assert len(backend.query(ticks)) == 2 + 3


def test_a_cron_that_is_removed_while_it_runs_leaves_nothing() -> None:
    with backend_with(("slow", interval(seconds=10), slow, {})) as backend:
        assert gate.begun.wait(10)
        deploy(backend)
        gate.opened.set()
        backend.advance(seconds=20)
        assert (backend.query(rows), backend.query(runs), gate.starts) == ([], [], 1)


def test_a_schedule_that_changes_while_it_runs_counts_from_that_run() -> None:
    with backend_with(("slow", interval(seconds=10), slow, {})) as backend:
        assert gate.begun.wait(10)
        step_clock(backend, 3)
        deploy(backend, definition("slow", interval(seconds=100), "test_crons:slow", b"{}"))
        assert gate.starts == 1
        gate.opened.set()
        backend.run_due()
        assert backend.query(rows)[0]["nextTime"] == backend.query(runs)[0]["scheduledTime"] + 100_000


def test_a_function_that_is_gone_or_became_a_query_is_an_error_of_the_run(backend: LocalBackend) -> None:
    deploy(
        backend, definition("a", interval(hours=1), "old:gone"), definition("b", interval(hours=1), "test_crons:ticks")
    )
    backend.run_due()
    errors = {run["name"]: run["status"]["error"] for run in backend.query(runs)}
    assert errors["a"].startswith("Could not find function for 'old:gone'")
    assert errors["b"].startswith("Unsupported function type. test_crons:ticks is defined as a query.")


def test_faults_of_a_deployments_crons_are_told_at_once(backend: LocalBackend) -> None:
    backend.mutation(begin_ticking, name="mine", seconds=10)
    big = b'{"label":"' + b"x" * 2**20 + b'"}'
    with pytest.raises(DefinitionError) as error:
        deploy(backend, definition("mine", hourly()), definition("big", hourly(), arguments=big))
    first, second = str(error.value).splitlines()
    assert first.startswith("/app/crons.py:3 The cron job 'mine' exists already: a mutation has made it")
    assert second.startswith("/app/crons.py:3 The arguments of the cron job 'big' are too large")
    assert [row["name"] for row in backend.query(rows)] == ["mine"]


def test_a_time_that_a_wrong_clock_computed_is_mended_by_the_next_start(backend: LocalBackend) -> None:
    crons = [definition("a", interval(seconds=10)), definition("b", hourly())]
    deploy(backend, *crons)
    backend.run_due()
    step_clock(backend, 366 * 24 * 3600)
    backend.run_due()
    step_clock(backend, -366 * 24 * 3600)
    backend.advance(seconds=7200)
    assert len(backend.query(ticks)) == 3
    deploy(backend, *crons)
    backend.advance(seconds=3600)
    labels = [run["name"] for run in backend.query(runs)]
    assert labels.count("b") == 2
    assert len(backend.query(ticks)) == 3 + 1 + 360


def test_crons_of_one_time_may_be_spread() -> None:
    names = [f"c{number}" for number in range(20)]
    crons = [(name, daily(hour=3), tick, {"label": name}) for name in names]
    with backend_with(*crons, limits=Limits(cron_splay_s_max=59)) as backend:
        due_s = [row["nextTime"] / 1000 for row in backend.query(rows)]
        assert {time // 60 for time in due_s} == {min(due_s) // 60}
        assert len(set(due_s)) > 5
        backend.advance(seconds=24 * 3600)
        assert sorted(backend.query(ticks)) == sorted(names)
        assert [row["nextTime"] / 1000 - 24 * 3600 for row in backend.query(rows)] == due_s


# --- Dynamic crons ----------------------------------------------------------------------------------------------------


def test_a_mutation_makes_changes_and_removes_a_cron(backend: LocalBackend) -> None:
    start_ns = backend.clock.now_ns()
    backend.mutation(begin_ticking, name="mine", seconds=10)
    assert [(row["name"], row["static"]) for row in backend.query(rows)] == [("mine", False)]
    backend.advance(seconds=15)
    backend.mutation(begin_ticking, name="mine", seconds=10, label="new")
    backend.advance(seconds=6)
    assert backend.query(ticks) == ["tick", "tick", "new"]
    assert seconds_since(start_ns, backend.query(times)) == [0, 10, 20]
    backend.mutation(stop_ticking, name="mine")
    backend.mutation(stop_ticking, name="mine")
    backend.advance(seconds=60)
    assert backend.query(rows) == []
    assert len(backend.query(ticks)) == 3


def test_it_exists_if_and_only_if_its_mutation_commits(backend: LocalBackend) -> None:
    with pytest.raises(FunctionFailed, match="fell"):
        backend.mutation(begin_ticking, name="mine", seconds=10, fall=True)
    backend.advance(seconds=30)
    assert (backend.query(rows), backend.query(ticks)) == ([], [])


def test_a_deployment_leaves_dynamic_crons_alone(backend: LocalBackend) -> None:
    backend.mutation(begin_ticking, name="mine", seconds=10)
    deploy(backend, definition("declared", hourly()))
    deploy(backend)
    assert [row["name"] for row in backend.query(rows)] == ["mine"]


def test_a_cron_may_change_and_remove_itself(backend: LocalBackend) -> None:
    start_ns = backend.clock.now_ns()
    backend.mutation(adapt_from, name="slower", seconds=10)
    backend.mutation(run_only_once)
    backend.advance(seconds=150)
    labels = backend.query(ticks)
    assert labels.count("once") == 1
    slower = [at for at, label in zip(backend.query(times), labels, strict=True) if label != "once"]
    assert seconds_since(start_ns, slower) == [0, 20, 60, 140]
    assert [row["name"] for row in backend.query(rows)] == ["slower"]
    assert {run["name"] for run in backend.query(runs)} == {"slower"}


def test_mistakes_are_errors_where_they_are_made() -> None:
    with backend_with(("declared", hourly(), tick, {})) as backend:
        texts = backend.mutation(misuse)
    assert texts[:4] == [
        "Invalid cron identifier 'é': use ASCII letters that are not control characters",
        "The cron job 'a': Minute of hour must be an integer from 0 to 59",
        "The cron job 'a': The cron spec \"0 0 30 2 *\" will never match any time",
        "The cron job 'a' has no schedule but datetime.timedelta(seconds=5); make one with interval(…), hourly(…), "
        "daily(…), weekly(…), monthly(…) or cron(…)",
    ]
    assert texts[4].startswith("The cron job 'a' schedules a query function, only actions and mutations")
    assert texts[5] == "The cron job 'a' schedules a function that does not exist: test_crons:nothing"
    assert texts[6].startswith("The cron job 'a' schedules 5, which is no function reference")
    assert texts[7].startswith("The cron job 'declared' is declared in crons.py")


def test_one_mutation_makes_a_bounded_number_of_them() -> None:
    with backend_with(limits=Limits(scheduled_per_mutation_max=0)) as backend:
        with pytest.raises(FunctionFailed, match=r"Too many functions scheduled by this mutation \(limit: 0\)"):
            backend.mutation(begin_ticking, name="mine", seconds=10)
        assert backend.query(rows) == []


def test_the_runtimes_own_times_are_hidden(backend: LocalBackend) -> None:
    backend.mutation(begin_ticking, name="mine", seconds=10)
    backend.run_due()
    (row,) = backend.query(rows)
    assert {name for name in row if name.startswith("_")} == {"_id", "_creationTime"}
    assert set(row) - {"_id", "_creationTime"} == {"name", "schedule", "path", "args", "static", "state", "nextTime"}
