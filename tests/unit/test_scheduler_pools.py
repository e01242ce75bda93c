"""Pools: how many run at once and per second, who is next, what is read, and pausing. The clock is manual."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from evolute import ActionCtx, MutationCtx, Pool, QueryCtx, action, internal_mutation, mutation, query
from evolute.database.transaction import Transaction
from evolute.limits import Limits
from evolute.system import job_queue, jobs, pauses
from evolute.system.jobs import JobOptions
from evolute.testing import LocalBackend
from tests.open_store import OpenStore

gate: asyncio.Event
ran: list[str] = []
most: dict[str, int] = {}
now: dict[str, int] = {}


async def hold(kind: str, name: str) -> None:
    ran.append(name)
    now[kind] = now.get(kind, 0) + 1
    most[kind] = max(most.get(kind, 0), now[kind])
    try:
        await gate.wait()
    finally:
        now[kind] -= 1


@action(pool="email")
async def mail(ctx: ActionCtx, name: str) -> None:
    await hold("mail", name)


@action
async def work(ctx: ActionCtx, name: str) -> None:
    await hold("work", name)


@action
async def other(ctx: ActionCtx, name: str) -> None:
    await hold("work", name)


@internal_mutation(pool="slow")
def tick(ctx: MutationCtx, name: str) -> None:
    ran.append(name)


@mutation
def plan(ctx: MutationCtx, target: str, names: list[str], delay: float = 0, pool: str | None = None) -> list[str]:
    scheduler = ctx.scheduler.options(pool=pool)
    return [scheduler.run_after(delay, f"test_scheduler_pools:{target}", name=name) for name in names]


@mutation
def plan_all(ctx: MutationCtx, jobs: list[list[str]], delay: float = 0) -> None:
    for target, name in jobs:
        ctx.scheduler.run_after(delay, f"test_scheduler_pools:{target}", name=name)


@query
def kinds(ctx: QueryCtx) -> list[str]:
    return [row["state"]["kind"] for row in ctx.db.system.query("_scheduled_functions").collect()]


FUNCTIONS = (mail, work, other, tick, plan, plan_all, kinds)
POOLS = {"email": Pool(concurrency=3), "slow": Pool(concurrency=64, per_second=2)}


@pytest.fixture
def one() -> Iterator[LocalBackend]:
    global gate
    gate = asyncio.Event()
    for kept in (ran, most, now):
        kept.clear()
    with LocalBackend(*FUNCTIONS, pools=POOLS, limits=Limits(jobs_running_max=8)) as backend:
        yield backend


def open_gate(backend: LocalBackend) -> None:
    backend._loop.call_soon_threadsafe(gate.set)


def wait_running(backend: LocalBackend, count: int) -> None:
    async def wait() -> None:
        for _ in range(2000):
            if len(ran) >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{len(ran)} of {count} run")

    backend._wait(wait())


def settle(backend: LocalBackend) -> None:
    """Gives the scheduler's loop many turns, so that what must not happen would have happened."""

    async def turns() -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    backend._wait(turns())


# --- how many run -----------------------------------------------------------------------------------------------------


def test_s16_100_jobs_due_together_run_8_at_a_time(one: LocalBackend) -> None:
    one.mutation(plan, target="work", names=[str(number) for number in range(100)], delay=1000)
    one._wait(asyncio.to_thread(lambda: None))
    one._loop.call_soon_threadsafe(lambda: one.clock.set_ns(one.clock.now_ns() + 2_000_000_000))
    wait_running(one, 8)
    settle(one)
    assert most["work"] == 8
    open_gate(one)
    one.run_due()
    assert most["work"] == 8
    assert sorted(map(int, ran)) == list(range(100))
    assert set(one.query(kinds)) == {"success"}


def test_s16_long_jobs_do_not_keep_the_others_waiting(one: LocalBackend) -> None:
    """Seven of eight places are held; the last serves all the rest, one after the other."""
    one.mutation(plan, target="work", names=["long"] * 7)
    wait_running(one, 7)
    one.mutation(plan, target="tick", names=[str(number) for number in range(20)], pool="default")
    wait_running(one, 27)
    assert ran[7:] == [str(number) for number in range(20)]
    open_gate(one)
    one.run_due()


def test_a_pool_has_its_own_room_and_leaves_the_others_theirs(one: LocalBackend) -> None:
    one.mutation(plan, target="mail", names=["m"] * 10)
    wait_running(one, 3)
    one.mutation(plan, target="work", names=["w"] * 8)
    wait_running(one, 11)
    settle(one)
    assert (most["mail"], most["work"]) == (3, 8)
    assert one.scheduler.statistics().running_by_pool == {"email": 3, "default": 8}
    open_gate(one)
    one.run_due()
    assert (most["mail"], most["work"]) == (3, 8)
    assert one.scheduler.statistics().outcomes == {
        ("test_scheduler_pools:mail", "success"): 10,
        ("test_scheduler_pools:work", "success"): 8,
    }


def test_a_flood_of_one_function_does_not_starve_the_others(one: LocalBackend) -> None:
    one.mutation(plan, target="work", names=[f"flood {number}" for number in range(50)])
    wait_running(one, 8)
    one.mutation(plan, target="other", names=["late 1", "late 2"])
    open_gate(one)
    one.run_due()
    assert {"late 1", "late 2"} <= set(ran[8:16]), "the next that run are of the function of which none runs"
    assert [name for name in ran if "flood" in name] == [f"flood {number}" for number in range(50)]


def test_jobs_due_together_start_in_the_order_of_scheduling(one: LocalBackend) -> None:
    order = [("work", "a1"), ("other", "b1"), ("work", "a2"), ("work", "a3"), ("other", "b2")]
    one.mutation(plan_all, jobs=[list(pair) for pair in order], delay=1000)
    open_gate(one)
    one.advance(seconds=1)
    assert ran == [name for _, name in order]


# --- how many start ---------------------------------------------------------------------------------------------------


def test_per_second_is_kept_on_the_clock(one: LocalBackend) -> None:
    one.mutation(plan, target="tick", names=[str(number) for number in range(6)])
    one.run_due()
    assert ran == ["0"]
    for count in (2, 3, 4):
        one.advance(milliseconds=490)
        assert len(ran) == count - 1
        one.advance(milliseconds=10)
        assert len(ran) == count
    one.advance(seconds=60)
    assert ran == [str(number) for number in range(6)]


def test_the_clock_may_step_while_a_pool_waits_for_its_next_start(one: LocalBackend) -> None:
    one.mutation(plan, target="tick", names=["a", "b", "c"])
    one.run_due()
    one._loop.call_soon_threadsafe(lambda: one.clock.set_ns(one.clock.now_ns() + 86_400 * 10**9))
    one.run_due()
    assert len(ran) == 2, "a step forwards brings no more than can be saved"
    one.advance(seconds=1)
    assert ran == ["a", "b", "c"]


# --- what is read -----------------------------------------------------------------------------------------------------


def test_own_completions_are_no_reason_to_look(one: LocalBackend) -> None:
    one.mutation(plan, target="work", names=["a", "b", "c"])
    wait_running(one, 3)
    settle(one)
    looks = one.scheduler.statistics().looks
    open_gate(one)
    one.run_due()
    assert one.query(kinds) == ["success"] * 3
    assert one.scheduler.statistics().looks == looks


def test_later_jobs_are_no_reason_to_look_and_earlier_ones_are(one: LocalBackend) -> None:
    one.mutation(plan, target="work", names=["a"], delay=5000)
    settle(one)
    looks = one.scheduler.statistics().looks
    one.mutation(plan, target="work", names=["b"], delay=9000)
    settle(one)
    assert one.scheduler.statistics().looks == looks
    one.mutation(plan, target="work", names=["c"], delay=1000)
    settle(one)
    assert one.scheduler.statistics().looks > looks
    open_gate(one)
    one.advance(seconds=10)
    assert ran == ["c", "a", "b"]


def test_a_full_pool_is_not_walked_and_a_look_reads_no_more_than_it_takes(store: OpenStore) -> None:
    for number in range(3):
        store.run(lambda transaction, number=number: fill(transaction, f"pool{number}", 500))  # type: ignore[misc]
    look = store.begin()
    read = 0
    scan = look.scan

    def counting(*arguments: Any, **options: Any) -> Generator[Any, None, None]:
        nonlocal read
        for row in scan(*arguments, **options):
            read += 1
            yield row

    look.scan = counting  # type: ignore[method-assign]
    assert job_queue.pools(look) == ["pool0", "pool1", "pool2"]
    assert read == 3
    found = job_queue.due(look, "pool1", now_ns=10**18, limit=10)
    assert len(found.jobs) == 10
    assert found.left_over is not None
    assert read <= 3 + 10 + 2 * 5, "one row for each function, twice, and those that are taken"


def fill(transaction: Transaction, pool: str, count: int) -> None:
    for number in range(count):
        jobs.schedule(
            transaction,
            path=f"m:f{number % 5}",
            arguments={},
            due_ns=1 + number,
            scheduled_ms=0.0,
            options=JobOptions(pool=pool),
        )


def test_the_functions_of_a_pool_take_turns(store: OpenStore) -> None:
    def some(transaction: Transaction) -> None:
        for name, dues in {"a": (1, 2, 3, 4, 5), "b": (6, 7), "c": (8,)}.items():
            for due_ns in dues:
                jobs.schedule(transaction, path=f"m:{name}", arguments={}, due_ns=due_ns, scheduled_ms=0.0)

    store.run(some)

    def names(limit: int, running: dict[str, int]) -> list[str]:
        look = job_queue.due(store.begin(), "default", now_ns=100, limit=limit, running=running)
        return [f"{job.path[2:]}{job.turn_ns}" for job in look.jobs]

    assert names(3, {}) == ["a1", "b6", "c8"]
    assert names(5, {}) == ["a1", "a2", "b6", "b7", "c8"]
    assert names(3, {"m.py:a": 2}) == ["b6", "b7", "c8"]
    assert names(100, {"m.py:a": 2}) == ["a1", "a2", "a3", "a4", "a5", "b6", "b7", "c8"]


# --- pausing ----------------------------------------------------------------------------------------------------------


def system(backend: LocalBackend, function: Any, *arguments: Any) -> Any:
    return backend._wait(backend.executor.run_system(lambda transaction: function(transaction, *arguments))).value


def test_s20_paused_nothing_runs_and_resumed_what_is_overdue_runs_in_order(one: LocalBackend) -> None:
    open_gate(one)
    system(one, pauses.pause)
    for number in (3, 1, 2):
        one.mutation(plan, target="work", names=[f"w{number}"], delay=1000 * number)
    one.mutation(plan, target="mail", names=["m"], delay=4000)
    one.advance(seconds=60)
    assert ran == []
    assert set(one.query(kinds)) == {"pending"}
    system(one, pauses.resume)
    one.run_due()
    assert ran == ["w1", "w2", "w3", "m"]
    assert set(one.query(kinds)) == {"success"}


def test_one_pool_is_paused_and_the_others_run(one: LocalBackend) -> None:
    open_gate(one)
    system(one, pauses.pause, "email")
    system(one, pauses.pause, "email")
    assert system(one, pauses.paused) == {"email"}
    one.mutation(plan, target="mail", names=["m"])
    one.mutation(plan, target="work", names=["w"])
    one.run_due()
    assert ran == ["w"]
    system(one, pauses.resume)
    one.run_due()
    assert ran == ["w"], "it was paused by itself"
    system(one, pauses.resume, "email")
    one.run_due()
    assert ran == ["w", "m"]


def test_lag_and_what_runs(one: LocalBackend) -> None:
    one.mutation(plan, target="mail", names=["m"] * 5)
    wait_running(one, 3)
    settle(one)
    assert one.scheduler.statistics().running == 3
    one._loop.call_soon_threadsafe(lambda: one.clock.set_ns(one.clock.now_ns() + 3 * 10**9))
    settle(one)
    assert one.scheduler.statistics().lag_ms == pytest.approx(3000, abs=1)
    open_gate(one)
    one.run_due()
    assert one.scheduler.statistics().running == 0
    assert one.scheduler.statistics().lag_ms == 0
