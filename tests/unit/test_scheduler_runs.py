"""How jobs run and end: retry policies, cancelling what runs, crashes, clock steps, retention. The clock is manual."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from evolute import ActionCtx, ConvexError, Id, JobOutcome, MutationCtx, QueryCtx, Retry, action, mutation, query
from evolute.database.transaction import Transaction
from evolute.errors import Overloaded, StorageFailed
from evolute.execution.request import Call, FunctionOutcome
from evolute.limits import Limits
from evolute.scheduler.housekeeping import Housekeeping
from evolute.scheduler.scheduler import Scheduler
from evolute.system import job_endings
from evolute.system import jobs as job_table
from evolute.testing import LocalBackend

SECOND_NS = 10**9
runs: list[str] = []
started: asyncio.Event
gate: asyncio.Event
caught: list[str] = []


class Transient(Exception):
    pass


class Special(Transient):
    pass


FAULTS = {
    "transient": Transient,
    "special": Special,
    "value": ValueError,
    "convex": ConvexError,
}


@action(retry=Retry(attempts=3, initial_ms=1000, factor=2))
async def flaky(ctx: ActionCtx, fault: str, failures: int) -> str:
    runs.append(fault)
    if len(runs) <= failures:
        raise FAULTS[fault](f"failure {len(runs)}")
    return "done"


@action
async def once(ctx: ActionCtx, fault: str, failures: int) -> str:
    return await flaky(ctx, fault, failures)


@action(retry=Retry(attempts=3))
async def picky(ctx: ActionCtx, number: int) -> int:
    runs.append("picky")
    return "not a number"  # type: ignore[return-value]


@action
async def hold(ctx: ActionCtx) -> str:
    runs.append("hold")
    started.set()
    try:
        await gate.wait()
    except asyncio.CancelledError:
        caught.append("cancelled")
        raise
    await ctx.scheduler.run_after(0, "test_scheduler_runs:flaky", fault="value", failures=0)
    return "held"


@mutation
def touch(ctx: MutationCtx) -> Any:
    assert ctx.auth.get_user_identity() is None
    row = ctx.db.query("counters").first()
    if row is None:
        ctx.db.insert("counters", {"n": 1})
    else:
        ctx.db.patch(row["_id"], {"n": row["n"] + 1})


@mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", dataclasses.asdict(job))


@mutation
def plan(
    ctx: MutationCtx, target: str, args: dict[str, Any] = {}, delay: float = 0, options: dict[str, Any] = {}  # noqa: B006
) -> str:  # fmt: skip
    options = {**options, "retry": POLICIES[options["retry"]]} if "retry" in options else options
    return ctx.scheduler.options(**options).run_after(delay, f"test_scheduler_runs:{target}", **args)


@mutation
def plan_at(ctx: MutationCtx, ms: float) -> str:
    return ctx.scheduler.run_at(ms, touch)


@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(Id(job))


@query
def jobs(ctx: QueryCtx) -> list[dict[str, Any]]:
    return ctx.db.system.query("_scheduled_functions").collect()


@query
def rows(ctx: QueryCtx, table: str) -> list[dict[str, Any]]:
    return ctx.db.query(table).collect()


POLICIES = {"on transient": Retry(attempts=3, on=(Transient,)), "many": Retry(attempts=50, initial_ms=1, max_ms=10)}
FUNCTIONS = (flaky, once, picky, hold, touch, told, plan, plan_at, cancel, jobs, rows)
TOLD = {"on_complete": "test_scheduler_runs:told"}


@pytest.fixture
def one() -> Iterator[LocalBackend]:
    global started, gate
    started, gate = asyncio.Event(), asyncio.Event()
    runs.clear()
    caught.clear()
    with LocalBackend(*FUNCTIONS) as backend:
        yield backend


def system(backend: LocalBackend, function: Any, *arguments: Any, **options: Any) -> Any:
    run = backend.executor.run_system(lambda transaction: function(transaction, *arguments, **options))
    return backend._wait(run).value


def stored(backend: LocalBackend, job: str) -> Any:
    return system(backend, job_table.read, job)


def the_job(backend: LocalBackend) -> dict[str, Any]:
    (job,) = backend.query(jobs)
    return job


# --- retry ------------------------------------------------------------------------------------------------------------


def test_an_action_with_a_policy_is_tried_again_and_each_attempt_is_on_record(one: LocalBackend) -> None:
    start_ms = one.clock.now_ns() / 1e6
    one.mutation(plan, target="flaky", args={"fault": "value", "failures": 2}, options=TOLD)
    one.run_due()
    job = the_job(one)
    assert job["state"] == {"kind": "pending"}
    assert job["scheduledTime"] == pytest.approx(start_ms, abs=1)
    one.advance(milliseconds=999)
    assert len(runs) == 1
    one.advance(milliseconds=2)
    assert len(runs) == 2
    one.advance(seconds=2)
    job = the_job(one)
    assert job["state"] == {"kind": "success"}
    assert [round(attempt["startedTime"] - start_ms, -2) for attempt in job["attempts"]] == [0, 1000, 3000]
    errors = [attempt.get("error", "") for attempt in job["attempts"]]
    assert [error.partition("\n")[0] for error in errors] == [
        "Uncaught ValueError: failure 1",
        "Uncaught ValueError: failure 2",
        "",
    ]
    (outcome,) = one.query(rows, table="told")
    assert (outcome["kind"], outcome["value"], len(outcome["attempts"])) == ("success", "done", 3)


def test_when_its_attempts_are_used_up_it_has_failed(one: LocalBackend) -> None:
    one.mutation(plan, target="flaky", args={"fault": "value", "failures": 9}, options=TOLD)
    one.advance(seconds=60)
    job = the_job(one)
    assert len(runs) == len(job["attempts"]) == 3
    assert job["state"]["kind"] == "failed"
    assert job["state"]["error"].startswith("Uncaught ValueError: failure 3")
    assert [row["kind"] for row in one.query(rows, table="told")] == ["failed"]
    assert one.scheduler.statistics().outcomes == {
        ("test_scheduler_runs:flaky", "again"): 2,
        ("test_scheduler_runs:flaky", "failed"): 1,
    }


@pytest.mark.parametrize(
    ("target", "args", "options", "count"),
    [
        ("once", {"fault": "value", "failures": 9}, {}, 1),
        ("once", {"fault": "special", "failures": 9}, {"retry": "on transient"}, 3),
        ("once", {"fault": "value", "failures": 9}, {"retry": "on transient"}, 1),
        ("flaky", {"fault": "convex", "failures": 9}, {}, 1),
        ("flaky", {"fault": "value", "failures": 9}, {"retry": "on transient"}, 1),
        ("picky", {"number": 3}, {}, 1),
        ("once", {"fault": "value", "failures": 99}, {"retry": "many"}, 50),
    ],
)
def test_what_is_tried_again(
    one: LocalBackend, target: str, args: dict[str, Any], options: dict[str, Any], count: int
) -> None:
    one.mutation(plan, target=target, args=args, options=options)
    one.advance(seconds=600)
    assert len(runs) == count
    assert the_job(one)["state"]["kind"] == "failed"


def test_a_newer_job_of_its_key_stands_in_for_a_retry(one: LocalBackend) -> None:
    options = {"key": "k", **TOLD}
    one.mutation(plan, target="flaky", args={"fault": "value", "failures": 1}, options=options)
    one.run_due()
    assert len(runs) == 1
    one.mutation(plan, target="flaky", args={"fault": "value", "failures": 0}, options=options)
    one.advance(seconds=10)
    kinds = [row["state"]["kind"] for row in one.query(jobs)]
    assert kinds == ["canceled", "success"], "between its attempts it holds its key"
    assert len(runs) == 2
    assert sorted(outcome["kind"] for outcome in one.query(rows, table="told")) == ["canceled", "success"]


def test_a_job_is_not_tried_again_while_a_newer_one_holds_its_key(one: LocalBackend) -> None:
    first = one.mutation(plan, target="hold", options={"key": "k", "retry": "on transient"})
    one._wait(started.wait())
    one.mutation(plan, target="touch", delay=5000, options={"key": "k"})
    assert system(one, job_endings.try_later, first, "failure", Retry()) == job_endings.KEY_TAKEN
    one._loop.call_soon_threadsafe(gate.set)
    one.run_due()


def test_an_action_that_a_crash_cut_short_is_tried_again_only_with_a_policy(one: LocalBackend) -> None:
    """The rows as a crash leaves them: in progress, and nobody runs them."""

    def crashed(transaction: Any, path: str, retry: Any) -> str:
        job = job_table.schedule(
            transaction,
            path=f"test_scheduler_runs:{path}",
            arguments={"fault": "value", "failures": 0},
            due_ns=None,
            scheduled_ms=0.0,
            options=job_table.JobOptions(retry=retry),
        )
        assert job_table.mark_in_progress(transaction, job)
        return job

    retried = system(one, crashed, "flaky", Retry().to_row())
    lost = system(one, crashed, "once", None)
    one.advance(seconds=10)
    assert runs == ["value"]
    by_id = {row["_id"]: row for row in one.query(jobs)}
    assert by_id[lost]["state"] == {"kind": "failed", "error": "Transient error while executing action"}
    assert by_id[retried]["state"] == {"kind": "success"}
    assert [attempt.get("error") for attempt in by_id[retried]["attempts"]] == [
        "Transient error while executing action",
        None,
    ]


# --- cancelling what runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, TOLD])
def test_s12_cancelling_interrupts_a_running_action_and_says_so(one: LocalBackend, options: dict[str, Any]) -> None:
    job = one.mutation(plan, target="hold", options=options)
    one._wait(started.wait())
    one.mutation(cancel, job=job)
    one.mutation(cancel, job=job)
    one.run_due()
    assert caught == ["cancelled"]
    row = the_job(one)
    assert row["state"] == {"kind": "canceled"}
    assert [attempt["error"] for attempt in row["attempts"]] == ["The action was cancelled by the server."]
    assert [outcome["kind"] for outcome in one.query(rows, table="told")] == ["canceled"] * len(options)
    hidden = {name for name in stored(one, job) if name.startswith("_")}
    assert hidden <= {"_creationTime", "_id", "_options"}


def test_a_job_that_was_canceled_before_a_crash_still_tells(one: LocalBackend) -> None:
    """The row as a crash leaves it between the cancel and the completion."""

    def canceled(transaction: Any) -> str:
        job = job_table.schedule(
            transaction,
            path="test_scheduler_runs:hold",
            arguments={},
            due_ns=None,
            scheduled_ms=0.0,
            options=job_table.JobOptions(on_complete="test_scheduler_runs:told"),
        )
        assert job_table.mark_in_progress(transaction, job)
        job_table.cancel(transaction, job)
        return job

    system(one, canceled)
    one.run_due()
    assert [outcome["kind"] for outcome in one.query(rows, table="told")] == ["canceled"]
    one.run_due()
    assert runs == []


def test_s13_cancel_of_what_has_ended_is_nothing(one: LocalBackend) -> None:
    job = one.mutation(plan, target="touch")
    one.run_due()
    one.mutation(cancel, job=job)
    assert the_job(one)["state"] == {"kind": "success"}


# --- due times and clocks ---------------------------------------------------------------------------------------------


def test_s5_a_time_in_the_past_is_due_now_and_stays_on_record(one: LocalBackend) -> None:
    past_ms = one.clock.now_ns() / 1e6 - 365 * 86_400_000
    job = one.mutation(plan_at, ms=past_ms)
    assert stored(one, job).get("_due", 0) == 0, "due at once, unless it has already run"
    one.run_due()
    assert the_job(one)["state"] == {"kind": "success"}
    assert the_job(one)["scheduledTime"] == past_ms


def test_due_now_is_due_whatever_the_clock_does(one: LocalBackend) -> None:
    async def back() -> None:
        one.clock.set_ns(one.clock.now_ns() - 3600 * SECOND_NS)

    async def plan_and_step_back() -> None:
        one._scheduling.cancel()
        await asyncio.gather(one._scheduling, return_exceptions=True)

    one._wait(plan_and_step_back())
    one.mutation(plan, target="touch")
    one._wait(back())
    one.scheduler = restarted(one)
    one._wait(one.scheduler.wait_idle())
    assert the_job(one)["state"] == {"kind": "success"}


def test_a_clock_that_is_set_back_only_puts_off_what_is_due_later(one: LocalBackend) -> None:
    one.mutation(plan, target="touch", delay=10_000)

    async def step(seconds: int) -> None:
        one.clock.set_ns(one.clock.now_ns() + seconds * SECOND_NS)

    one._wait(step(-3600))
    one.run_due()
    assert the_job(one)["state"] == {"kind": "pending"}
    one._wait(step(3605))
    one.run_due()
    assert the_job(one)["state"] == {"kind": "pending"}
    one._wait(step(86_400))
    one.run_due()
    assert the_job(one)["state"] == {"kind": "success"}


def test_overdue_work_runs_in_order_after_downtime(one: LocalBackend) -> None:
    async def stop() -> None:
        one._scheduling.cancel()
        await asyncio.gather(one._scheduling, return_exceptions=True)

    one._wait(stop())
    for number in (3, 1, 2):
        one.mutation(plan, target="once", args={"fault": str(number), "failures": 0}, delay=1000 * number)

    async def later() -> None:
        one.clock.set_ns(one.clock.now_ns() + 3600 * SECOND_NS)

    one._wait(later())
    one.scheduler = restarted(one)
    one._wait(one.scheduler.wait_idle())
    assert runs == ["1", "2", "3"]


def restarted(one: LocalBackend) -> Scheduler:
    async def start() -> Scheduler:
        scheduler = Scheduler(one.executor, one.database.subscriptions, one.clock, one.limits)
        one._scheduling = asyncio.get_running_loop().create_task(scheduler.run())
        return scheduler

    return one._wait(start())


# --- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deaths", [2, 3])
def test_deaths_that_a_crash_of_the_server_came_after_count(one: LocalBackend, deaths: int) -> None:
    """It has its last chance without its completion function, and after that none."""
    job = one.mutation(plan, target="touch", delay=5, options={"on_complete": "test_scheduler_runs:told"})
    system(one, lambda transaction: transaction.patch(job, {"_deaths": deaths}))
    one.advance(seconds=1)
    row = the_job(one)
    counters, tellings = one.query(rows, table="counters"), one.query(rows, table="told")
    if deaths == 2:
        assert (row["state"]["kind"], [counter["n"] for counter in counters], tellings) == ("success", [1], [])
        assert "the worker process died while it and test_scheduler_runs:told ran" in row["completionError"]
    else:
        assert (row["state"]["kind"], counters) == ("failed", [])
        assert "the worker process died 3 times while this job ran" in row["state"]["error"]
        assert [telling["error"] for telling in tellings] == [row["state"]["error"]]


def test_an_interrupted_attempt_is_on_record_though_the_server_ended_first(one: LocalBackend) -> None:
    job = one.mutation(plan, target="flaky", delay=5, args={"fault": "value", "failures": 0})

    def leave_interrupted(transaction: Transaction) -> None:
        job_table.mark_in_progress(transaction, job)
        job_table.cancel(transaction, job)
        assert "completedTime" not in (transaction.get(job) or {})

    system(one, leave_interrupted)
    one.run_due()
    row = the_job(one)
    assert (row["state"], len(row["attempts"])) == ({"kind": "canceled"}, 1)
    assert (
        row["attempts"][0]["error"] == "The action was cancelled, and the server ended before it had been interrupted."
    )
    assert "completedTime" in row
    assert not {"_due", "_pool", "_started"} & set(stored(one, job))


# --- faults that are not the function's -------------------------------------------------------------------------------


def test_s18_a_job_that_could_not_be_run_stays_pending_and_is_run_again(one: LocalBackend) -> None:
    run, refusals = one._runners.run, 3

    async def refusing(
        kind: Any, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> FunctionOutcome:
        nonlocal refusals
        if calls[0].job is not None and refusals:
            refusals -= 1
            raise Overloaded("no room") if refusals else StorageFailed("no disk")
        return await run(kind, calls, urgent=urgent, fresh=fresh, deaths=deaths)

    one._runners.run = refusing  # type: ignore[method-assign]
    one.mutation(plan, target="touch")

    async def let_it_back_off() -> None:
        while refusals:
            await asyncio.sleep(0)
            if refusals < 3:
                row = (await one.executor.run_system(lambda t: t.query("_scheduled_functions").first())).value
                assert row is not None
                assert row["state"] == {"kind": "pending"}
            one.clock.set_ns(one.clock.now_ns() + SECOND_NS)
        for _ in range(50):
            await asyncio.sleep(0)
        one.clock.set_ns(one.clock.now_ns() + SECOND_NS)

    one._wait(let_it_back_off())
    one.run_due()
    assert the_job(one)["state"] == {"kind": "success"}
    assert [row["n"] for row in one.query(rows, table="counters")] == [1]


def test_s17_a_job_under_contention_goes_on_until_it_is_done(one: LocalBackend) -> None:
    for _ in range(40):
        one.mutation(plan, target="touch", delay=1000)
    one.advance(seconds=2)
    assert [row["n"] for row in one.query(rows, table="counters")] == [40]
    assert {row["state"]["kind"] for row in one.query(jobs)} == {"success"}


# --- dead letters -----------------------------------------------------------------------------------------------------


def test_a_failed_job_is_run_again_by_hand_and_tells_again(one: LocalBackend) -> None:
    job = one.mutation(plan, target="once", args={"fault": "value", "failures": 99}, options={**TOLD, "key": "k"})
    one.run_due()
    assert stored(one, job)["state"]["kind"] == "failed"
    one.advance(seconds=3600)
    runs.extend(["enough"] * 99)
    assert system(one, job_table.retry, job)
    one.run_due()
    assert stored(one, job)["state"]["kind"] == "success"
    assert not system(one, job_table.retry, job)
    assert [row["kind"] for row in one.query(rows, table="told")] == ["failed", "success"]


def test_no_more_than_the_latest_attempts_are_kept(one: LocalBackend) -> None:
    """A job can be run again by hand without end, and must still end."""
    options = {"retry": "many"}
    job = one.mutation(plan, target="once", args={"fault": "value", "failures": 999}, options=options)
    for _ in range(3):
        one.advance(seconds=60)
        assert stored(one, job)["state"]["kind"] == "failed"
        assert system(one, job_table.retry, job)
    one.advance(seconds=60)
    assert len(runs) == 200
    attempts = stored(one, job)["attempts"]
    assert len(attempts) == 100
    assert [attempts[number]["error"].splitlines()[0] for number in (0, -1)] == [
        "Uncaught ValueError: failure 101",
        "Uncaught ValueError: failure 200",
    ]


# --- retention --------------------------------------------------------------------------------------------------------


def test_s19_completed_rows_are_kept_seven_days(one: LocalBackend) -> None:
    housekeeping = Housekeeping(one.executor, one.clock, one.limits)
    one.mutation(plan, target="touch")
    one.mutation(plan, target="touch", delay=20 * 86_400_000)
    one.advance(seconds=7 * 86_400 - 1)
    one._wait(housekeeping.sweep())
    assert len(one.query(jobs)) == 2
    one.advance(seconds=2)
    one._wait(housekeeping.sweep())
    assert [row["state"]["kind"] for row in one.query(jobs)] == ["pending"]


def test_no_more_completed_rows_are_kept_than_completed_jobs_max() -> None:
    limits = Limits(completed_jobs_max=5, system_rows_per_run_max=2)
    with LocalBackend(*FUNCTIONS, limits=limits) as one:
        housekeeping = Housekeeping(one.executor, one.clock, limits)
        kept = [one.mutation(plan, target="touch", delay=10 * number) for number in range(12)]
        one.mutation(plan, target="touch", delay=3_600_000)
        one.advance(seconds=1)
        sweeps = 1
        while one._wait(housekeeping.sweep()):
            sweeps += 1
        assert [row["_id"] for row in one.query(jobs)][:-1] == kept[-5:]
        assert sweeps >= 4, "in batches"
        assert not one._wait(housekeeping.sweep())
        assert len(one.query(jobs)) == 6


def test_the_deaths_of_a_job_are_counted_in_its_row(one: LocalBackend) -> None:
    job = one.mutation(plan, target="touch", delay=1000)
    assert [system(one, job_endings.count_death, job) for _ in range(2)] == [1, 2]
    assert stored(one, job)["_deaths"] == 2
    one.mutation(cancel, job=job)
    assert system(one, job_endings.count_death, job) is None
