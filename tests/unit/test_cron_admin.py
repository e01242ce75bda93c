"""Crons by hand: pages, and a run now that neither overlaps nor shifts the times of the schedule."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    Crons,
    MutationCtx,
    QueryCtx,
    daily,
    internal_action,
    internal_mutation,
    interval,
    mutation,
    query,
)
from evolute.errors import BadRequest
from evolute.limits import Limits
from evolute.scheduler.cron_admin import CronAdmin
from evolute.system import pauses
from evolute.system.cron_list import CronPosition
from evolute.testing import LocalBackend

begun = threading.Event()
gate = threading.Event()


@internal_mutation
def tick(ctx: MutationCtx, fails: bool = False) -> None:
    ctx.db.insert("ticks", {"at": ctx.now_ms})
    if fails:
        raise ValueError("no tick")


@internal_action
async def slow(ctx: ActionCtx) -> None:
    await ctx.run_mutation(tick)
    begun.set()
    await asyncio.to_thread(gate.wait)


@mutation
def change(ctx: MutationCtx, name: str, seconds: int) -> None:
    ctx.crons.set(name, interval(seconds=seconds), tick)


@query
def seconds(ctx: QueryCtx) -> list[int]:
    """Since the first."""
    times = [row["at"] for row in ctx.db.query("ticks")]
    return [round((time - times[0]) / 1000) for time in times]


@query
def runs(ctx: QueryCtx) -> list[dict[str, Any]]:
    return [row["status"] for row in ctx.db.system.query("_cron_runs")]


FUNCTIONS = (tick, slow, change, seconds, runs)


@pytest.fixture
def one() -> Iterator[LocalBackend]:
    begun.clear()
    gate.clear()
    crons = Crons()
    crons.add("minutely", interval(minutes=1), tick)
    with LocalBackend(*FUNCTIONS, crons=crons) as backend:
        backend.run_due()
        yield backend
        gate.set()


def admin(backend: LocalBackend, limits: Limits | None = None) -> CronAdmin:
    return CronAdmin(backend.executor, limits or backend.limits)


def run_now(backend: LocalBackend, name: str = "minutely") -> None:
    backend._wait(admin(backend).run_now(name))


def listed(backend: LocalBackend, **given: Any) -> Any:
    return backend._wait(admin(backend, given.pop("limits", None)).find(limit=100, **given))


def test_a_run_by_hand_leaves_the_cadence_alone(one: LocalBackend) -> None:
    one.advance(seconds=70)
    run_now(one)
    one.advance(seconds=60)
    assert one.query(seconds) == [0, 60, 70, 120]
    assert [run["kind"] for run in one.query(runs)] == ["success"] * 4
    assert one.crons.statistics().skipped == 0


def test_that_of_a_clock_too() -> None:
    crons = Crons()
    crons.add("daily", daily(hour=0), tick)
    with LocalBackend(*FUNCTIONS, crons=crons) as backend:
        before = listed(backend).crons[0]["nextTime"]
        run_now(backend, "daily")
        backend.run_due()
        (cron,) = listed(backend).crons
        assert (cron["nextTime"], cron["previousTime"]) == (before, None)
        assert cron["lastRun"]["state"] == "success"
        backend.advance(seconds=86_400)
        assert len(backend.query(seconds)) == 2


def test_a_time_that_comes_while_it_runs_is_skipped_and_counted() -> None:
    crons = Crons()
    crons.add("slow", interval(minutes=1), slow)
    with LocalBackend(*FUNCTIONS, crons=crons) as backend:
        begun.wait()
        gate.set()
        backend.run_due()
        begun.clear()
        gate.clear()
        run_now(backend, "slow")
        begun.wait()
        with pytest.raises(BadRequest, match="The cron 'slow' is running, or about to"):
            run_now(backend, "slow")
        backend._loop.call_soon_threadsafe(lambda: backend.clock.set_ns(backend.clock.now_ns() + 130 * 10**9))
        gate.set()
        backend.run_due()
        assert backend.query(runs)[-1] == {"kind": "canceled", "skipped": 2}
        assert backend.crons.statistics().skipped == 2
        backend.advance(seconds=50)
        assert backend.query(seconds) == [0, 0, 180]


def test_a_schedule_that_is_changed_meanwhile_goes_before(one: LocalBackend) -> None:
    one.mutation(change, name="mine", seconds=60)
    one.run_due()
    one._wait(one.executor.run_system(pauses.pause))
    run_now(one, "mine")
    one.mutation(change, name="mine", seconds=3600)
    one._wait(one.executor.run_system(pauses.resume))
    one.run_due()
    one.advance(seconds=3599)
    (mine,) = [cron for cron in listed(one).crons if cron["name"] == "mine"]
    due_s = mine["nextTime"] / 1000 - one.clock.now_ns() / 1e9
    assert due_s == pytest.approx(1, abs=0.1), "an hour after its latest run, as if nobody had asked for one"


def test_what_cannot_be_run(one: LocalBackend) -> None:
    with pytest.raises(BadRequest, match=r"There is no cron 'hourly'."):
        run_now(one, "hourly")


def test_crons_are_listed_in_pages_with_their_latest_runs(one: LocalBackend) -> None:
    for number in range(5):
        one.mutation(change, name=f"c{number}", seconds=600 - number)
    one.run_due()
    found, after = [], None
    while True:
        page = listed(one, after=after, limits=Limits(admin_page_rows_max=2))
        found += page.crons
        after = page.next
        if after is None:
            break
        assert len(page.crons) == 2
    assert [cron["name"] for cron in found] == ["minutely", "c4", "c3", "c2", "c1", "c0"]
    assert found[0]["schedule"] == {"type": "interval", "seconds": 60}
    assert (found[0]["static"], found[1]["static"]) == (True, False)
    assert {cron["lastRun"]["state"] for cron in found} == {"success"}


@pytest.mark.parametrize("text", ["", "x", "1", "1~", "~1.0", "-1~1.0", "9999999999999999999999~1.0"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="is no position"):
        CronPosition.of(text)
