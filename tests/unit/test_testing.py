"""`evolute.testing`: the real engine in a test, a clock that stands still, the scheduler driven by it."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    BlockingActionCtx,
    ConvexError,
    Document,
    Id,
    MutationCtx,
    QueryCtx,
    action,
    define_schema,
    define_table,
    internal_mutation,
    mutation,
    query,
)
from evolute.testing import FunctionFailed, LocalBackend


class Doctor(Document):
    name: str
    on_call: bool


class Tick(Document):
    label: str
    at_ms: float


schema = define_schema(doctors=define_table(Doctor).index("by_name", ["name"]), ticks=define_table(Tick))

meet: threading.Barrier | None = None
began = threading.Event()


@mutation
def employ(ctx: MutationCtx, name: str) -> Id[Doctor]:
    return ctx.db.insert(Doctor, {"name": name, "on_call": True})


@query
def on_call(ctx: QueryCtx) -> list[str]:
    return [doctor["name"] for doctor in ctx.db.query(Doctor).filter(lambda doctor: doctor["on_call"]).collect()]


@mutation
def go_home(ctx: MutationCtx, name: str) -> bool:
    """Two doctors who both see two on call must not both go."""
    present = ctx.db.query(Doctor).filter(lambda doctor: doctor["on_call"]).collect()
    if meet is not None:
        wait_once(meet)
    if len(present) < 2:
        return False
    for doctor in present:
        if doctor["name"] == name:
            ctx.db.patch(doctor["_id"], {"on_call": False})
    return True


def wait_once(barrier: threading.Barrier) -> None:
    """Only the first runs meet; those that are run again after a conflict pass."""
    global meet
    barrier.wait(timeout=10)
    meet = None


@internal_mutation
def tick(ctx: MutationCtx, label: str) -> None:
    ctx.db.insert(Tick, {"label": label, "at_ms": ctx.now_ms})


@mutation
def tick_later(ctx: MutationCtx, label: str, seconds: float) -> str:
    return ctx.scheduler.run_after(timedelta(seconds=seconds), tick, label=label)


@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(Id(job))


@query
def ticks(ctx: QueryCtx) -> list[str]:
    return [row["label"] for row in ctx.db.query(Tick).collect()]


@query
def states(ctx: QueryCtx) -> list[str]:
    return [row["state"]["kind"] for row in ctx.db.system.query("_scheduled_functions").collect()]


@mutation
def complain(ctx: MutationCtx) -> None:
    ctx.db.insert(Tick, {"label": "never", "at_ms": 0})
    raise ConvexError({"reason": "tired"})


@mutation
def stumble(ctx: MutationCtx) -> None:
    print("about to fall")
    raise ValueError("fell")


@action
async def employ_all(ctx: ActionCtx, names: list[str]) -> list[str]:
    for name in names:
        await ctx.run_mutation(employ, name=name)
    return await ctx.run_query(on_call)


@action
def employ_blocking(ctx: BlockingActionCtx, names: list[str], depth: int = 0) -> list[str]:
    if depth:
        return ctx.run_action(employ_blocking, names=names, depth=depth - 1)
    print("employing", len(names))
    for name in names:
        ctx.run_mutation(employ, name=name.upper())
    ctx.scheduler.run_after(timedelta(seconds=5), employ_all, names=["Later"])
    return ctx.run_query(on_call)


@action
def endless(ctx: BlockingActionCtx) -> None:
    while True:
        ctx.run_action(endless_calls)


@action
async def endless_calls(ctx: ActionCtx) -> None:
    began.set()
    await asyncio.sleep(0)


@mutation
def start_endless(ctx: MutationCtx) -> Id[Any]:
    return ctx.scheduler.run_after(0, endless)


FUNCTIONS = (employ, on_call, go_home, tick, tick_later, cancel, ticks, states, complain, stumble, employ_all)


def test_three_lines_are_enough() -> None:
    with LocalBackend(employ, on_call, schema=schema) as backend:
        backend.mutation(employ, name="Ada")
        assert backend.query("test_testing:on_call") == ["Ada"]


def test_a_folder_is_loaded_as_the_server_would() -> None:
    with LocalBackend("functions") as backend:
        backend.mutation("channels:create", name="general")
        assert [channel["name"] for channel in backend.query("channels:list_all")] == ["general"]


def test_write_skew_is_refused() -> None:
    """Both read the two doctors on call before either commits; the one that loses runs again and stays."""
    global meet
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        backend.mutation(employ, name="Ada")
        backend.mutation(employ, name="Bo")
        meet = threading.Barrier(2)
        went: list[bool] = []
        threads = [
            threading.Thread(target=lambda name=name: went.append(backend.mutation(go_home, name=name)))
            for name in ("Ada", "Bo")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(went) == [False, True]
        assert len(backend.query(on_call)) == 1
        assert backend.executor.statistics().conflicts == 1


def test_the_clock_drives_the_scheduler() -> None:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        backend.mutation(tick_later, label="b", seconds=10)
        backend.mutation(tick_later, label="a", seconds=5)
        assert backend.query(ticks) == []
        backend.advance(seconds=4.999)
        assert backend.query(ticks) == []
        backend.advance(milliseconds=1)
        assert backend.query(ticks) == ["a"]
        assert backend.query(states) == ["pending", "success"]
        backend.advance(seconds=60)
        assert backend.query(ticks) == ["a", "b"]


def test_each_job_runs_at_its_own_time() -> None:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        start_ms = backend.clock.now_ns() / 1e6
        for seconds in (3, 1, 2):
            backend.mutation(tick_later, label=str(seconds), seconds=seconds)
        backend.advance(seconds=10)
        assert backend.query(ticks) == ["1", "2", "3"]
        started_ms = [entry.started_ns / 1e6 - start_ms for entry in backend.log.entries() if entry.job]
        assert started_ms == pytest.approx([1000, 2000, 3000], abs=1)


def test_a_cancelled_job_never_runs() -> None:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        job = backend.mutation(tick_later, label="never", seconds=5)
        backend.mutation(cancel, job=job)
        backend.advance(seconds=10)
        assert backend.query(ticks) == []
        assert backend.query(states) == ["canceled"]


@query
def caller(ctx: QueryCtx) -> Any:
    return ctx.auth.get_user_identity()


@mutation
def caller_of_a_job(ctx: MutationCtx) -> Any:
    ctx.scheduler.run_after(0, tick, label=str(ctx.auth.get_user_identity() is not None))
    return ctx.run_query(caller)


def test_calls_are_made_by_a_user() -> None:
    with LocalBackend(*FUNCTIONS, caller, caller_of_a_job, schema=schema) as backend:
        with backend.acting_as("ada", name="Ada"):
            ada = {"issuer": "https://evolute.test", "subject": "ada", "tokenIdentifier": "https://evolute.test|ada"}
            assert backend.query(caller) == backend.mutation(caller_of_a_job) == {**ada, "name": "Ada"}
            with backend.acting_as("eve", issuer="https://i", tokenIdentifier="eve"):
                assert backend.query(caller) == {"issuer": "https://i", "subject": "eve", "tokenIdentifier": "eve"}
            assert backend.query(caller)["subject"] == "ada"
        assert backend.query(caller) is None


def test_errors_reach_the_test() -> None:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        with pytest.raises(ConvexError) as convex_error:
            backend.mutation(complain)
        assert convex_error.value.data == {"reason": "tired"}
        with pytest.raises(FunctionFailed, match="ValueError: fell") as failed:
            backend.mutation(stumble)
        assert failed.value.log_lines == ("[LOG] 'about to fall'",) or "about to fall" in failed.value.log_lines[0]
        assert backend.query(ticks) == []


def test_an_action_calls_back() -> None:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        assert backend.action(employ_all, names=["Ada", "Bo"]) == ["Ada", "Bo"]


def test_a_blocking_action_runs_to_its_end() -> None:
    with LocalBackend(*FUNCTIONS, employ_blocking, schema=schema) as backend:
        assert backend.action(employ_blocking, names=["Ada", "Bo"], depth=3) == ["ADA", "BO"]
        assert backend.log.entries()[-1].path == "test_testing:employ_blocking"
        backend.advance(seconds=5)
        assert backend.query(on_call) == ["ADA", "BO", "Later"]
        with pytest.raises(FunctionFailed, match="call_depth_max"):
            backend.action(employ_blocking, names=[], depth=20)


def test_a_blocking_action_that_is_cancelled_ends_at_its_next_call() -> None:
    """Its job is looked for by the loop itself: nobody has to wait for it."""
    with LocalBackend(*FUNCTIONS, endless, endless_calls, start_endless, schema=schema) as backend:
        began.clear()
        job = backend.mutation(start_endless)
        assert began.wait(20)
        backend.mutation(cancel, job=job)
        backend.run_due()
        assert backend.query(states) == ["canceled"]
