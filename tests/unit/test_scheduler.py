"""The scheduler under a clock that stands still: when jobs run, how often, and in which state each of them ends."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    Document,
    Id,
    JobOutcome,
    MutationCtx,
    QueryCtx,
    define_schema,
    define_table,
    internal_action,
    internal_mutation,
    mutation,
    query,
)
from evolute.clock import NS_PER_MS, NS_PER_S
from evolute.database.transaction import Transaction
from evolute.errors import Overloaded, StorageFull
from evolute.execution.request import Call, FunctionOutcome, RequestKind
from evolute.limits import MIB, Limits
from evolute.scheduler.job_runner import INTERRUPTED
from evolute.system import job_queue, jobs
from evolute.testing import LocalBackend

LIMITS = Limits(map_bytes_max=64 * MIB)


class Mark(Document):
    label: str


schema = define_schema(marks=define_table(Mark))
gate: asyncio.Event | None = None
started: list[str] = []


@internal_mutation
def mark(ctx: MutationCtx, label: str) -> None:
    ctx.db.insert(Mark, {"label": label})


@internal_mutation
def stumble(ctx: MutationCtx, label: str) -> None:
    ctx.db.insert(Mark, {"label": label})
    raise ValueError(f"{label} fell")


@internal_mutation
def chain(ctx: MutationCtx, left: int) -> None:
    ctx.db.insert(Mark, {"label": str(left)})
    if left:
        ctx.scheduler.run_after(1000, chain, left=left - 1)


@internal_action
async def work(ctx: ActionCtx, label: str) -> None:
    started.append(label)
    if gate is not None:
        await gate.wait()
    await ctx.run_mutation(mark, label=label)


@internal_action
async def work_and_stumble(ctx: ActionCtx, label: str) -> None:
    started.append(label)
    raise ValueError(f"{label} fell")


@mutation
def spin(ctx: MutationCtx, left: int) -> None:
    if left == 30:
        ctx.scheduler.run_after(0.1, mark, label="timed")  # after ten ticks of the clock
    if left:
        ctx.scheduler.run_at(ctx.now_ms - 1, spin, left=left - 1)


@internal_action
async def ask(ctx: ActionCtx) -> None:
    await ctx.run_query(marks)


@mutation
def ask_often(ctx: MutationCtx) -> None:
    for _ in range(5):
        ctx.scheduler.run_after(0, ask)


@mutation
def later(ctx: MutationCtx, function: str, label: str, delay_ms: float = 0) -> str:
    return ctx.scheduler.run_after(delay_ms, f"test_scheduler:{function}", label=label)


@mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert(Mark, {"label": f"told of {job.kind}"})


@mutation
def later_and_told(ctx: MutationCtx, label: str, delay_ms: float) -> str:
    return ctx.scheduler.options(on_complete=told).run_after(delay_ms, work, label=label)


@mutation
def start_chain(ctx: MutationCtx, length: int) -> None:
    ctx.scheduler.run_after(1000, chain, left=length)


@mutation
def schedule_and_fail(ctx: MutationCtx) -> None:
    ctx.scheduler.run_after(0, mark, label="never")
    raise ValueError("no")


@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(Id(job))


@query
def marks(ctx: QueryCtx) -> list[str]:
    return [row["label"] for row in ctx.db.query(Mark).collect()]


@query
def state(ctx: QueryCtx, job: str) -> Any:
    row: dict[str, Any] | None = ctx.db.system.get(Id(job))
    return None if row is None else row["state"]


FUNCTIONS = (
    mark,
    stumble,
    chain,
    work,
    work_and_stumble,
    later,
    told,
    later_and_told,
    start_chain,
    schedule_and_fail,
    cancel,
    marks,
    state,
)


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    global gate
    started.clear()
    with LocalBackend(*FUNCTIONS, schema=schema, limits=LIMITS) as backend:
        yield backend
    gate = None


def within(backend: LocalBackend, coroutine: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, backend.executor._database._loop).result(30)


def schedule_row(backend: LocalBackend, path: str, *, due_ns: int | None = None, in_progress: bool = False) -> str:
    """A job as an older deployment, or a crash, may have left it."""

    def insert(transaction: Transaction) -> str:
        job = jobs.schedule(transaction, path=path, arguments={"label": "x"}, due_ns=due_ns, scheduled_ms=0)
        if in_progress:
            jobs.mark_in_progress(transaction, job)
        return job

    job: str = within(backend, backend.executor.run_system(insert)).value
    backend.run_due()
    return job


def fail_runs(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, *faults: Exception) -> list[int]:
    """The next runs of mutations meet these faults, one each; the times at which they were made."""
    runners, left, times = backend._runners, list(faults), list[int]()
    run = runners.run

    async def failing(
        kind: RequestKind, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> FunctionOutcome:
        if kind == "mutation" and calls[0].job is not None:
            times.append(backend.clock.now_ns())
            if left:
                raise left.pop(0)
        return await run(kind, calls, urgent=urgent, fresh=fresh, deaths=deaths)

    monkeypatch.setattr(runners, "run", failing)
    return times


# --- When ------------------------------------------------------------------------------------------------------------


def test_jobs_run_in_the_order_of_their_times(backend: LocalBackend) -> None:
    delays = list(range(100, 2100, 100))
    random.Random(7).shuffle(delays)
    for delay in delays:
        backend.mutation(later, function="mark", label=f"{delay:05}", delay_ms=delay)
    backend.advance(milliseconds=99)
    assert backend.query(marks) == []
    backend.advance(milliseconds=901)
    assert backend.query(marks) == [f"{delay:05}" for delay in range(100, 1100, 100)]
    backend.advance(seconds=5)
    assert backend.query(marks) == [f"{delay:05}" for delay in range(100, 2100, 100)]


def test_a_job_that_is_due_earlier_wakes_the_scheduler(backend: LocalBackend) -> None:
    backend.mutation(later, function="mark", label="late", delay_ms=60_000)
    backend.mutation(later, function="mark", label="early", delay_ms=10)
    backend.run_due()
    assert backend.scheduler.sleeps_until_ns <= backend.clock.now_ns() + 10 * NS_PER_MS
    backend.advance(milliseconds=10)
    assert backend.query(marks) == ["early"]


def test_a_job_may_schedule_the_next(backend: LocalBackend) -> None:
    backend.mutation(start_chain, length=3)
    backend.advance(seconds=3)
    assert backend.query(marks) == ["3", "2", "1"]
    backend.advance(seconds=60)
    assert backend.query(marks) == ["3", "2", "1", "0"]


def test_more_jobs_than_may_run_at_once_run_once_each() -> None:
    limits = Limits(map_bytes_max=64 * MIB, jobs_running_max=4)
    with LocalBackend(*FUNCTIONS, schema=schema, limits=limits) as backend:
        ids = [backend.mutation(later, function="mark", label=str(n), delay_ms=1000) for n in range(50)]
        backend.advance(seconds=1)
        assert sorted(map(int, backend.query(marks))) == list(range(50))
        assert {backend.query(state, job=job)["kind"] for job in ids} == {"success"}


def test_long_jobs_do_not_keep_others_waiting_while_there_is_room() -> None:
    """More is due than may run, and most of what runs takes long: what is free is used all the same."""
    global gate
    gate = asyncio.Event()
    started.clear()
    limits = Limits(map_bytes_max=64 * MIB, jobs_running_max=4)
    with LocalBackend(*FUNCTIONS, schema=schema, limits=limits) as backend:
        for number in range(3):
            backend.mutation(later, function="work", label=str(number))
        quick = [backend.mutation(later, function="mark", label="quick") for _ in range(10)]

        async def count_marks() -> int:
            found = await backend.executor.run_system(lambda transaction: transaction.query("marks").collect())
            return len(found.value)

        async def wait_for_the_quick() -> None:
            async with asyncio.timeout(20):
                while await count_marks() < 10:  # noqa: ASYNC110 - the scheduler gathers in real time
                    await asyncio.sleep(0.01)

        within(backend, wait_for_the_quick())
        assert backend.scheduler.running == 3

        async def open_the_gate() -> None:
            assert gate is not None
            gate.set()

        within(backend, open_the_gate())
        backend.run_due()
        assert {backend.query(state, job=job)["kind"] for job in quick} == {"success"}
        assert sorted(backend.query(marks)) == ["0", "1", "2", *["quick"] * 10]
    gate = None


# --- How often, and how it ends --------------------------------------------------------------------------------------


def test_what_a_failed_mutation_scheduled_does_not_exist(backend: LocalBackend) -> None:
    with pytest.raises(Exception, match="no"):
        backend.mutation(schedule_and_fail)
    backend.advance(seconds=60)
    assert backend.query(marks) == []


def test_a_job_that_raises_has_failed_and_written_nothing(backend: LocalBackend) -> None:
    mutating = backend.mutation(later, function="stumble", label="m")
    acting = backend.mutation(later, function="work_and_stumble", label="a")
    backend.advance(seconds=600)
    for job, label in ((mutating, "m"), (acting, "a")):
        ended = backend.query(state, job=job)
        assert ended["kind"] == "failed"
        assert ended["error"].startswith(f"Uncaught ValueError: {label} fell\n")
    assert backend.query(marks) == []
    assert started == ["a"]


def test_an_action_is_run_once_and_ends(backend: LocalBackend) -> None:
    job = backend.mutation(later, function="work", label="a", delay_ms=1000)
    assert backend.query(state, job=job) == {"kind": "pending"}
    backend.advance(seconds=600)
    assert backend.query(state, job=job) == {"kind": "success"}
    assert (started, backend.query(marks)) == (["a"], ["a"])


def test_an_action_that_a_crash_interrupted_fails_and_is_not_run(backend: LocalBackend) -> None:
    """It is in progress, and this process is not running it."""
    job = schedule_row(backend, "test_scheduler:work", in_progress=True)
    assert backend.query(state, job=job) == {"kind": "failed", "error": INTERRUPTED}
    assert started == []


def test_a_job_without_its_function_fails(backend: LocalBackend) -> None:
    gone = schedule_row(backend, "test_scheduler:gone")
    ended = backend.query(state, job=gone)
    assert ended["kind"] == "failed"
    assert "test_scheduler:gone" in ended["error"]


def test_a_job_whose_function_has_become_a_query_fails(backend: LocalBackend) -> None:
    job = schedule_row(backend, "test_scheduler:marks")
    ended = backend.query(state, job=job)
    assert ended["kind"] == "failed"
    assert "test_scheduler:marks is defined as a query. Only mutations and actions can be scheduled." in ended["error"]


@pytest.mark.parametrize("fault", [Overloaded("full"), StorageFull("full"), RuntimeError("odd")], ids=repr)
def test_a_fault_that_is_not_the_functions_is_met_with_patience(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """The job stays pending and is tried again, ever more slowly."""
    times = fail_runs(backend, monkeypatch, fault, fault, fault)
    job = backend.mutation(later, function="mark", label="m", delay_ms=1000)
    backend.advance(seconds=1.1)
    assert len(times) == 1
    backend.run_due()
    assert backend.query(state, job=job) == {"kind": "pending"}
    backend.advance(seconds=10)
    assert backend.query(state, job=job) == {"kind": "success"}
    assert backend.query(marks) == ["m"]
    waits_ms = [(after - before) / NS_PER_MS for before, after in itertools.pairwise(times)]
    assert waits_ms == sorted(waits_ms)
    assert len(waits_ms) == 3
    assert 200 <= waits_ms[0] <= 220


def test_jobs_that_wait_to_be_tried_again_may_take_all_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalBackend(*FUNCTIONS, schema=schema, limits=replace(LIMITS, jobs_running_max=1)) as backend:
        fail_runs(backend, monkeypatch, Overloaded("full"))
        for label in ("a", "b"):
            backend.mutation(later, function="mark", label=label)
        backend.run_due()
        assert backend.query(marks) == []
        backend.advance(seconds=1)
        assert backend.query(marks) == ["a", "b"]


def test_the_clock_may_be_moved_while_the_end_of_an_action_cannot_be_written(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has run, so its end is written however long that takes; `advance` does not wait for that."""
    run_system, refused = backend.executor.run_system, list[int]()

    async def refusing(function: Any, **options: Any) -> Any:
        if started and len(refused) < 4:
            refused.append(backend.clock.now_ns())
            raise StorageFull("full")
        return await run_system(function, **options)

    job = backend.mutation(later, function="work", label="a", delay_ms=1000)
    monkeypatch.setattr(backend.executor, "run_system", refusing)
    backend.advance(seconds=1.1)
    assert (len(refused), backend.query(state, job=job)) == (1, {"kind": "inProgress"})
    backend.advance(seconds=10)
    assert (len(refused), backend.query(state, job=job)) == (4, {"kind": "success"})
    assert started == ["a"]


# --- Cancelling ------------------------------------------------------------------------------------------------------


def test_a_running_action_that_is_cancelled_is_interrupted_and_stays_cancelled(backend: LocalBackend) -> None:
    global gate
    gate = asyncio.Event()
    job = backend.mutation(later, function="work", label="a")

    async def wait_started() -> None:
        async with asyncio.timeout(20):
            while not started:  # noqa: ASYNC110 - a function of the user's has no event
                await asyncio.sleep(0.001)

    async def open_the_gate() -> None:
        assert gate is not None
        gate.set()

    within(backend, wait_started())
    assert backend.query(state, job=job) == {"kind": "inProgress"}
    backend.mutation(cancel, job=job)
    within(backend, open_the_gate())
    backend.run_due()
    assert backend.query(state, job=job) == {"kind": "canceled"}
    assert backend.query(marks) == [], "it was interrupted at its await"


def test_cancelling_what_has_ended_changes_nothing(backend: LocalBackend) -> None:
    job = backend.mutation(later, function="mark", label="m")
    backend.run_due()
    backend.mutation(cancel, job=job)
    assert backend.query(state, job=job) == {"kind": "success"}


# --- The end ---------------------------------------------------------------------------------------------------------


def test_an_action_that_is_due_while_the_server_drains_stays_pending(backend: LocalBackend) -> None:
    job = backend.mutation(later, function="work", label="a", delay_ms=1000)

    async def drain_and_let_it_be_due() -> Any:
        await backend.executor.drain(1000)
        backend.clock.set_ns(backend.clock.now_ns() + NS_PER_S)
        for _ in range(50):
            await asyncio.sleep(0)
        read = await backend.executor.run_system(lambda transaction: transaction.get(job))
        assert read.value is not None
        return read.value["state"]

    assert within(backend, drain_and_let_it_be_due()) == {"kind": "pending"}
    assert started == []


def test_an_action_that_is_in_progress_when_the_server_begins_to_drain_is_run(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be put off any more; and the drain waits for it and for its completion, with moments of rest."""
    job = backend.mutation(later_and_told, label="a", delay_ms=1000)
    mark_in_progress, marked, drains = jobs.mark_in_progress, asyncio.Event(), list[asyncio.Task[None]]()

    def mark_and_drain(transaction: Transaction, job_id: str) -> bool:
        marked.set()
        drains.append(asyncio.get_running_loop().create_task(backend.executor.drain(5000)))
        return mark_in_progress(transaction, job_id)

    monkeypatch.setattr(jobs, "mark_in_progress", mark_and_drain)

    async def let_it_be_due() -> Any:
        backend.clock.set_ns(backend.clock.now_ns() + NS_PER_S)
        await asyncio.wait_for(marked.wait(), 10)
        await drains[0]
        return (await backend.executor.run_system(read)).value

    def read(transaction: Transaction) -> tuple[Any, list[str]]:
        row = transaction.get(job)
        assert row is not None
        return row["state"], [row["label"] for row in transaction.query("marks").collect()]

    assert within(backend, let_it_be_due()) == ({"kind": "success"}, ["a", "told of success"])
    assert started == ["a"]


def test_timed_jobs_have_their_turn_among_those_that_are_due_at_once() -> None:
    """However many of these follow each other."""
    with LocalBackend(spin, mark, marks, schema=schema, limits=replace(LIMITS, jobs_running_max=1)) as backend:
        backend.mutation(spin, left=30)
        backend.advance(seconds=1)
        order = [entry.path for entry in backend.log.entries()]
        assert order.count("test_scheduler:spin") == 31
        assert order.index("test_scheduler:mark") < 20


def test_actions_of_different_jobs_share_the_answers_of_queries() -> None:
    with LocalBackend(ask, marks, ask_often, schema=schema) as backend:
        backend.mutation(ask_often)
        backend.advance(seconds=1)
        assert [entry.path for entry in backend.log.entries()].count("test_scheduler:marks") == 1


def test_a_look_that_fails_is_made_again(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row that cannot be read must not stop all jobs for ever."""
    due, faults = job_queue.due, [RuntimeError("odd"), RuntimeError("odd")]

    def failing(transaction: Transaction, pool: str, **options: Any) -> job_queue.DueJobs:
        if faults:
            raise faults.pop()
        return due(transaction, pool, **options)

    monkeypatch.setattr(job_queue, "due", failing)
    job = backend.mutation(later, function="mark", label="m")
    backend.advance(seconds=1)
    assert backend.query(state, job=job) == {"kind": "pending"}
    backend.advance(seconds=1)
    assert backend.query(state, job=job) == {"kind": "success"}
