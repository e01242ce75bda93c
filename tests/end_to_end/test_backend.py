"""A backend from its start to its stop: what it serves when nothing loads, and how long its end may take."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolute.backend import Backend
from evolute.clock import SystemClock
from evolute.errors import Contended, DefinitionError, Overloaded
from evolute.execution.pool import Pool
from evolute.execution.process_starter import ProcessStarter
from evolute.execution.worker_process import WorkerProcess
from evolute.limits import Limits
from evolute.registry.loader import Deployment
from evolute.system import jobs
from tests.end_to_end.backend_under_test import QUICK, BackendUnderTest
from tests.unit.function_store import call, write_folder

JOBS = """
import asyncio

@internal_action
async def nap(ctx: ActionCtx, seconds: float) -> None:
    await asyncio.sleep(seconds)

@mutation
def nap_later(ctx: MutationCtx, seconds: float) -> str:
    return ctx.scheduler.run_after(0, nap, seconds=seconds)

@internal_mutation
def note(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})

@mutation
def note_later(ctx: MutationCtx) -> str:
    return ctx.scheduler.run_after(0, note)

@query
def state(ctx: QueryCtx, job: str) -> str:
    return ctx.db.system.get(job)["state"]["kind"]
"""


def only_while(flag: Path) -> str:
    """A module that can be imported only while `flag` exists."""
    return f"""
import os

assert os.path.exists({str(flag)!r})

@mutation
def note(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {{}})
"""


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def within_a_minute() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(within_a_minute())


async def until(served: BackendUnderTest, job: str, state: str) -> None:
    while True:
        if await served.query("m:state", job=job) == state:
            return
        await asyncio.sleep(0.01)


def test_when_what_was_served_last_does_not_load_either_nothing_is_served(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": only_while(flag)}, workers=1) as served:
            assert set(served.backend.report.functions) == {"m:note"}
        flag.unlink()
        write_folder(served.functions, {"m.py": "def nothing(:"})
        backend = Backend(replace(served.backend.config, limits=QUICK))
        fault = await backend.start()
        try:
            assert isinstance(fault, DefinitionError)
            assert "m.py" in str(fault)
            assert backend.report.functions == {}
        finally:
            await backend.stop()

    run(scenario)


def test_what_was_served_last_and_its_jobs_outlive_a_start_at_which_nothing_loads(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    guarded = only_while(flag) + JOBS.replace("def note(", "def note_it(").replace("0, note)", "0, note_it)")

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": guarded}, workers=1, actions=0) as served:
            functions = set(served.backend.report.functions)
            job = await served.mutate("m:nap_later", seconds=0)
        write_folder(served.functions, {"m.py": "def nothing(:"})
        flag.unlink()
        backend = Backend(served.backend.config)
        assert await backend.start() is not None
        try:
            for _ in range(20):
                await asyncio.sleep(0.01)
                row = (await backend.executor.run_system(lambda transaction: transaction.get(job))).value
                assert row is not None
                assert row["state"] == {"kind": jobs.PENDING}
        finally:
            await backend.stop()
        flag.touch()
        backend = Backend(replace(served.backend.config, action_workers=1))
        assert await backend.start() is not None
        try:
            assert set(backend.report.functions) == functions
            served.backend = backend
            await until(served, job, jobs.SUCCESS)
        finally:
            await backend.stop()

    run(scenario)


def test_an_action_is_in_progress_only_once_a_worker_can_take_it(tmp_path: Path) -> None:
    """What still waits for a worker loses nothing in a crash; and it keeps no mutation waiting."""
    limits = replace(QUICK, actions_per_worker_max=1)

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": JOBS}, limits, actions=0) as served:
            naps = [await served.mutate("m:nap_later", seconds=0.2) for _ in range(3)]
            note = await served.mutate("m:note_later")
            await until(served, note, jobs.SUCCESS)
            assert [await served.query("m:state", job=nap) for nap in naps] == [jobs.PENDING] * 3
        async with BackendUnderTest(tmp_path, {"m.py": JOBS}, limits, actions=1) as served:
            note = await served.mutate("m:note_later")
            await until(served, note, jobs.SUCCESS)
            states = {jobs.PENDING, jobs.IN_PROGRESS, jobs.SUCCESS}
            while states & {jobs.PENDING, jobs.IN_PROGRESS}:
                await asyncio.sleep(0.01)
                found = [await served.query("m:state", job=nap) for nap in naps]
                assert found.count(jobs.IN_PROGRESS) <= 1, found
                states = set(found)
            assert states == {jobs.SUCCESS}

    run(scenario)


def test_stopping_lets_jobs_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": JOBS}) as served:
            job = await served.mutate("m:nap_later", seconds=0.5)
            await until(served, job, jobs.IN_PROGRESS)
        async with BackendUnderTest(tmp_path, {"m.py": JOBS}) as served:
            assert await served.query("m:state", job=job) == jobs.SUCCESS

    run(scenario)


def test_a_job_that_does_not_end_delays_the_end_by_no_more_than_the_limit(tmp_path: Path) -> None:
    """Also if the command line has waited for it before."""
    limits = replace(QUICK, action_ms_max=60_000, shutdown_ms_max=1000)

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": JOBS}, limits) as served:
            job = await served.mutate("m:nap_later", seconds=50)
            await until(served, job, jobs.IN_PROGRESS)
            started = time.monotonic()
            await served.backend.executor.drain(limits.shutdown_ms_max)
        assert 1 <= time.monotonic() - started < 1.9

    run(scenario)


def test_a_serial_turn_that_gets_no_worker_does_not_keep_out_the_deployment_that_brings_some(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    limits = replace(QUICK, attempts_before_serial=0, serial_ms_max=1000)

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": only_while(flag)}, limits, workers=1) as served:
            await served.mutate("m:note")
            flag.unlink()
            for pid in served.pids:
                os.kill(pid, signal.SIGKILL)
            stuck = asyncio.create_task(served.mutate("m:note"))
            await asyncio.sleep(0.2)
            assert not stuck.done()
            write_folder(served.functions, {"m.py": only_while(tmp_path)})
            await served.backend.deployer.deploy(served.functions)
            with pytest.raises(Contended, match="serial_ms_max"):
                await stuck
            await served.mutate("m:note")

    run(scenario)


def test_what_others_wait_for_finds_room_in_a_full_queue(tmp_path: Path) -> None:
    """A serial turn, or an action that another one has called."""

    async def scenario() -> None:
        limits = Limits(call_queue_length_max=1)
        pool = Pool(str(tmp_path), SystemClock(), limits, workers=0, action_workers=0, on_worker_death=lambda: None)
        waiting = [pool.run("mutation", (call("m:a", "mutation"),))]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="call_queue_length_max"):
            await pool.run("mutation", (call("m:a", "mutation"),))
        waiting.append(pool.run("mutation", (call("m:a", "mutation"),), urgent=True))
        await asyncio.sleep(0)
        assert pool.statistics().queued == 2
        await pool.close()
        await asyncio.wait(waiting)

    run(scenario)


def test_a_worker_whose_start_is_called_off_is_gone_once() -> None:
    async def scenario() -> None:
        processes = ProcessStarter()
        for turns in range(6):
            gone: list[WorkerProcess] = []
            worker = WorkerProcess(
                "transaction",
                Limits(),
                processes=processes,
                on_outcome=lambda worker: None,
                on_late=lambda worker: None,
                on_gone=gone.append,
            )
            start = asyncio.create_task(worker.start(Deployment("", "functions", "", {}), "nowhere"))
            for _ in range(turns):
                await asyncio.sleep(0)
            start.cancel()
            await asyncio.wait([start])
            await worker.wait_gone()
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(gone) == (turns > 0)
        processes.close()

    run(scenario)
