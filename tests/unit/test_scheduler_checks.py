"""The acceptance checks of the specification for the scheduler, under their names (semantics M).

S5, S12, S13 and S17 to S19 are in test_scheduler_runs, S16 and S20 in test_scheduler_pools, S9 and S10 in
end_to_end/test_scheduler_processes. R1 to R3 are in test_crons, R4 in test_cron_expression.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest

from evolute import ActionCtx, Id, InvalidSchedule, LimitReached, MutationCtx, QueryCtx, action, mutation, query
from evolute.database.transaction import Transaction
from evolute.system import jobs as job_table
from evolute.testing import FunctionFailed, LocalBackend

YEARS_5 = timedelta(days=5 * 366)


@mutation
def work(ctx: MutationCtx, n: int = 0) -> Any:
    ctx.db.insert("work", {"n": n, "identity": ctx.auth.get_user_identity()})
    return n


@query
def look(ctx: QueryCtx) -> None: ...


@query
def jobs(ctx: QueryCtx) -> list[dict[str, Any]]:
    return ctx.db.system.query("_scheduled_functions").collect()


@query
def done(ctx: QueryCtx) -> list[dict[str, Any]]:
    return ctx.db.query("work").collect()


@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(Id(job))


@mutation
def plan(ctx: MutationCtx, delay: float = 0) -> str:
    return ctx.scheduler.run_after(delay, work)


def backend(*functions: Any) -> LocalBackend:
    return LocalBackend(work, look, jobs, done, cancel, plan, *functions)


def test_s1_a_mutation_that_throws_has_scheduled_nothing() -> None:
    @mutation
    def fail(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, work)
        raise ValueError("no")

    with backend(fail) as one:
        with pytest.raises(FunctionFailed):
            one.mutation(fail)
        one.run_due()
        assert one.query(jobs) == one.query(done) == []


def test_s2_of_a_child_that_throws_only_its_own_rows_are_gone() -> None:
    @mutation
    def child(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, work, n=2)
        raise ValueError("no")

    @mutation
    def parent(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, work, n=1)
        with pytest.raises(ValueError, match="no"):
            ctx.run_mutation(child)

    with backend(child, parent) as one:
        one.mutation(parent)
        one.run_due()
        assert [row["n"] for row in one.query(done)] == [1]


def test_s3_the_row_is_seen_inside_the_mutation() -> None:
    @mutation
    def see(ctx: MutationCtx) -> None:
        job = ctx.scheduler.run_after(timedelta(seconds=1.5), work)
        row: Any = ctx.db.system.get(job)
        assert row["state"] == {"kind": "pending"}
        assert row["scheduledTime"] == ctx.now_ms + 1500

    with backend(see) as one:
        one.mutation(see)


@pytest.mark.parametrize(
    ("delay", "text"),
    [
        (-1, "`delay` must be non-negative"),
        (math.nan, "must be a finite number"),
        (math.inf, "must be a finite number"),
    ],
)
def test_s4_delays_that_cannot_be(delay: float, text: str) -> None:
    @mutation
    def try_it(ctx: MutationCtx) -> None:
        with pytest.raises(InvalidSchedule, match=text):
            ctx.scheduler.run_after(delay, work)

    with backend(try_it) as one:
        one.mutation(try_it)


def test_s6_five_years_each_way() -> None:
    @mutation
    def try_it(ctx: MutationCtx) -> None:
        for sign, direction in ((1, "future"), (-1, "past")):
            with pytest.raises(InvalidSchedule, match=f"more than 5 years in the {direction}"):
                ctx.scheduler.run_at(ctx.now + sign * (YEARS_5 + timedelta(seconds=1)), work)
            ctx.scheduler.run_at(ctx.now + sign * (YEARS_5 - timedelta(seconds=1)), work)
        with pytest.raises(InvalidSchedule, match="before 1970"):
            ctx.scheduler.run_at(-1, work)

    with backend(try_it) as one:
        one.mutation(try_it)
        one.run_due()
        assert sorted(row["state"]["kind"] for row in one.query(jobs)) == ["pending", "success"]


def test_s7_a_query_is_refused_where_it_is_scheduled() -> None:
    @mutation
    def try_it(ctx: MutationCtx) -> None:
        with pytest.raises(InvalidSchedule, match=r"Unsupported function type\. look in module test_scheduler_checks"):
            ctx.scheduler.run_after(0, look)  # type: ignore[call-overload]

    with backend(try_it) as one:
        one.mutation(try_it)


def test_s8_arguments_that_do_not_fit_are_refused_where_they_are_given() -> None:
    @mutation
    def try_it(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, "test_scheduler_checks:work", n="one")

    with backend(try_it) as one:
        with pytest.raises(FunctionFailed, match="ArgumentValidationError"):
            one.mutation(try_it)
        assert one.query(jobs) == []


@pytest.mark.parametrize(
    ("target", "arguments", "text"),
    [
        ("look", {}, "look is defined as a query. Only mutations and actions can be scheduled."),
        ("gone", {}, "It was removed after the job was scheduled."),
        ("work", {"n": "one"}, "ArgumentValidationError"),
    ],
)
def test_s7_s8_a_job_that_does_not_fit_the_code_any_more_fails(target: str, arguments: Any, text: str) -> None:
    """It was scheduled by other code, with which it was right."""

    def schedule(transaction: Transaction) -> str:
        path = f"test_scheduler_checks:{target}"
        return job_table.schedule(transaction, path=path, arguments=arguments, due_ns=None, scheduled_ms=0)

    with backend() as one:
        one._wait(one.executor.run_system(schedule))
        one.run_due()
        (row,) = one.query(jobs)
        assert row["state"]["kind"] == "failed"
        assert text in row["state"]["error"]
        assert one.query(done) == []


def test_s11_a_canceled_job_never_runs() -> None:
    with backend() as one:
        for delay in (0, 1000):
            job = one.mutation(plan, delay=1000 + delay)
            one.mutation(cancel, job=job)
        one.advance(seconds=10)
        assert one.query(done) == []
        assert {row["state"]["kind"] for row in one.query(jobs)} == {"canceled"}


def test_s12_what_a_canceled_action_schedules_is_canceled_from_the_start() -> None:
    @action
    async def stubborn(ctx: ActionCtx) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            children.append(await ctx.scheduler.run_after(0, work))

    @mutation
    def plan_it(ctx: MutationCtx) -> str:
        return ctx.scheduler.run_after(0, stubborn)

    started, children = asyncio.Event(), list[str]()
    with backend(stubborn, plan_it) as one:
        job = one.mutation(plan_it)
        one._wait(started.wait())
        one.mutation(cancel, job=job)
        one.run_due()
        assert len(children) == 1
        assert [row["state"]["kind"] for row in one.query(jobs)] == ["canceled", "canceled"]
        assert one.query(done) == []


def test_s14_a_job_cannot_cancel_itself() -> None:
    @mutation
    def suicidal(ctx: MutationCtx) -> None:
        (row,) = ctx.db.system.query("_scheduled_functions").collect()
        assert row["state"] == {"kind": "inProgress"}
        ctx.scheduler.cancel(row["_id"])

    @mutation
    def plan_it(ctx: MutationCtx) -> None:
        ctx.scheduler.run_after(0, suicidal)

    with backend(suicidal, plan_it) as one:
        one.mutation(plan_it)
        one.run_due()
        (row,) = one.query(jobs)
        assert row["state"]["kind"] == "failed"
        assert "A mutation cannot cancel itself" in row["state"]["error"]


def test_s15_the_1001st_is_refused_and_the_others_stay() -> None:
    @mutation
    def many(ctx: MutationCtx) -> None:
        for number in range(1000):
            ctx.scheduler.run_after(86_400_000, work, n=number)
        with pytest.raises(LimitReached, match=r"Too many functions scheduled by this mutation \(limit: 1000\)"):
            ctx.scheduler.run_after(0, work)

    with backend(many) as one:
        one.mutation(many)
        assert len(one.query(jobs)) == 1000


def test_s21_a_job_has_no_identity() -> None:
    with backend() as one:
        one.mutation(plan)
        one.run_due()
        assert [row["identity"] for row in one.query(done)] == [None]
