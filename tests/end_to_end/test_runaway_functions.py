"""Functions that run away, crash or eat all memory cost their call, at worst their worker, and never a neighbour."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolute.errors import FunctionCrashed, FunctionTimedOut, WorkerDied
from evolute.limits import MIB, Limits
from evolute_client.async_client import Client
from evolute_client.errors import FunctionError
from tests.end_to_end.backend_under_test import DIES, QUICK, BackendUnderTest, Deaths
from tests.end_to_end.server_process import ServerProcess
from tests.unit.function_store import call

NEIGHBOURS = """
import asyncio
import os
import time

@query
def notes(ctx: QueryCtx) -> int:
    return len(ctx.db.query("notes").collect())

@query
def ping(ctx: QueryCtx, n: int) -> int:
    return n

@query
def wait_for(ctx: QueryCtx, gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.02)

@mutation
def note(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})

@action
async def nap(ctx: ActionCtx, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"

@query
def jobs(ctx: QueryCtx) -> list[Any]:
    return [row["state"] for row in ctx.db.system.query("_scheduled_functions").collect()]
"""
ENDLESS = """
@query
def in_query(ctx: QueryCtx) -> None:
    while True:
        pass

@mutation
def in_mutation(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})
    while True:
        pass

@action
async def in_action(ctx: ActionCtx) -> None:
    while True:
        pass
"""
C_CODE = """
import itertools

@query
def in_query(ctx: QueryCtx) -> None:
    sum(itertools.repeat(0))

@mutation
def in_mutation(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})
    max(itertools.count())

@action
async def in_action(ctx: ActionCtx) -> None:
    sum(itertools.repeat(0))
"""
CRASHES = (
    DIES
    + """
import signal

@query
def in_query(ctx: QueryCtx, pipe: str) -> str:
    dies(pipe)
    return "alive"

@mutation
def in_mutation(ctx: MutationCtx, pipe: str) -> str:
    ctx.db.insert("notes", {})
    dies(pipe)
    return "alive"

@action
async def in_action(ctx: ActionCtx, pipe: str, trace: str) -> None:
    with open(trace, "a") as file:
        file.write("ran\\n")
    os.kill(os.getpid(), signal.SIGKILL)

@internal_mutation
def poison(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})
    os._exit(4)

@mutation
def schedule_poison(ctx: MutationCtx) -> None:
    ctx.scheduler.run_after(0, poison)
    ctx.scheduler.run_after(0, "endless:in_mutation")
"""
)
MEMORY = """
@query
def in_query(ctx: QueryCtx) -> int:
    return len([bytearray(10_000_000) for _ in range(100)])

@mutation
def in_mutation(ctx: MutationCtx) -> int:
    ctx.db.insert("notes", {})
    return len([bytearray(10_000_000) for _ in range(100)])

@action
async def in_action(ctx: ActionCtx) -> int:
    return len([bytearray(10_000_000) for _ in range(100)])
"""
SOURCES = {
    "n.py": NEIGHBOURS,
    "endless.py": ENDLESS,
    "c.py": C_CODE,
    "crashes.py": CRASHES,
    "memory.py": MEMORY,
}
SETTINGS = {"query": "query_user_ms_max", "mutation": "mutation_user_ms_max", "action": "action_block_ms_max"}
KINDS = ("query", "mutation", "action")


@pytest.fixture
def deaths(tmp_path: Path) -> Iterator[Deaths]:
    """One life to take."""
    deaths = Deaths(tmp_path / "deaths", 1)
    yield deaths
    deaths.close()


async def neighbours(served: BackendUnderTest, count: int) -> None:
    """Queries and mutations side by side; none of them fails."""
    before = await served.query("n:notes")
    calls: list[Any] = [served.mutate("n:note") for _ in range(count)]
    calls += [served.query("n:ping", n=n) for n in range(count)]
    answers = await asyncio.gather(*calls)
    assert answers == [None] * count + list(range(count))
    assert await served.query("n:notes") == before + count


@pytest.mark.parametrize("kind", KINDS)
def test_an_endless_loop_costs_its_call_and_nothing_else(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            napping = asyncio.create_task(served.act("n:nap", seconds=0.1))
            endless = asyncio.create_task(served.error(f"endless:in_{kind}", kind))
            while not endless.done():
                await neighbours(served, 5)
            error = await endless
            assert f"the setting is {SETTINGS[kind]}" in error.message
            assert 'File "functions/endless.py", line ' in error.message
            assert error.message.splitlines()[1].endswith(f", in in_{kind}")
            assert await napping == "rested"
            await neighbours(served, 5)
            assert served.backend.pool.statistics().deaths == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["query", "mutation"])
def test_c_code_that_never_returns_costs_its_worker_and_no_other_transaction(tmp_path: Path, kind: str) -> None:
    """What was sent to the same worker does not even wait for its end."""

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, SOURCES, replace(QUICK, system_ms_max=3000)) as served:
            stuck = asyncio.create_task(served.error(f"c:in_{kind}", kind))
            await asyncio.sleep(0)
            await neighbours(served, 30)
            assert not stuck.done()
            error = await stuck
            assert error.code == FunctionTimedOut.code
            assert f"the setting is {SETTINGS[kind]}" in error.message
            await served.wait_deaths(1)
            await neighbours(served, 10)
            assert served.backend.pool.statistics().deaths == 1

    asyncio.run(scenario())


def test_every_worker_may_be_stuck_and_the_calls_behind_them_are_run_by_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = replace(QUICK, query_user_ms_max=300, system_ms_max=300)
        async with BackendUnderTest(tmp_path, SOURCES, limits, workers=1) as served:
            stuck = asyncio.create_task(served.error("c:in_query", "query"))
            await asyncio.sleep(0)
            await neighbours(served, 10)
            assert (await stuck).code == FunctionTimedOut.code

    asyncio.run(scenario())


def test_c_code_in_an_action_costs_the_actions_of_its_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            napping = asyncio.create_task(served.error("n:nap", "action", seconds=60))
            stuck = asyncio.create_task(served.error("c:in_action", "action"))
            await neighbours(served, 10)
            for error in (await stuck, await napping):
                assert error.code == FunctionTimedOut.code
                assert "action_block_ms_max" in error.message
            assert await served.act("n:nap", seconds=0) == "rested"
            assert served.backend.pool.statistics().deaths == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["query", "mutation"])
def test_a_call_whose_worker_dies_is_run_once_more(tmp_path: Path, deaths: Deaths, kind: str) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            enter = served.query if kind == "query" else served.mutate
            call = asyncio.create_task(enter(f"crashes:in_{kind}", pipe=deaths.path))
            await asyncio.sleep(0)
            await asyncio.gather(*(served.query("n:ping", n=n) for n in range(10)))
            assert await call == "alive"
            assert served.backend.pool.statistics().deaths == 1
            assert await served.query("n:notes") == (0 if kind == "query" else 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["query", "mutation"])
def test_the_second_death_is_its_error(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        deaths = Deaths(tmp_path / "deaths", 3)
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            call = asyncio.create_task(served.error(f"crashes:in_{kind}", kind, pipe=deaths.path))
            await asyncio.sleep(0)
            await neighbours(served, 10)
            error = await call
            assert error.code == FunctionCrashed.code
            assert error.message == f"crashes:in_{kind}: the worker process died while this function ran, twice"
            await served.wait_deaths(2)
            assert await served.query("n:notes") == 10
            assert served.backend.pool.statistics().deaths == 2
        deaths.close()

    asyncio.run(scenario())


def test_who_was_sent_behind_a_long_request_costs_no_third_worker(tmp_path: Path) -> None:
    """It is run elsewhere first, and the worker that holds it still runs it afterwards."""

    async def scenario() -> None:
        deaths, gate = Deaths(tmp_path / "deaths", 3), tmp_path / "gate"
        limits = replace(QUICK, query_user_ms_max=12_000)  # late after 3 s
        async with BackendUnderTest(tmp_path, SOURCES, limits) as served:
            pool = served.backend.pool
            long = asyncio.create_task(served.query("n:wait_for", gate=str(gate)))
            short = asyncio.create_task(served.query("n:ping", n=1))  # to the other worker
            killer = asyncio.create_task(served.error("crashes:in_query", "query", pipe=deaths.path))
            await short
            await served.wait_deaths(1)
            await asyncio.wait({killer}, timeout=4)  # for as long as it takes to be late once more
            gate.touch()
            assert (await long, (await killer).code) == (None, FunctionCrashed.code)
            while pool.statistics().running:  # noqa: ASYNC110 - the pool has no event for it
                await asyncio.sleep(0.01)
            assert pool.statistics().deaths == 2
        deaths.close()

    asyncio.run(scenario())


def test_a_batch_behind_a_long_request_is_run_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = tmp_path / "gate"
        limits = replace(QUICK, query_user_ms_max=12_000)  # late after 3 s
        async with BackendUnderTest(tmp_path, SOURCES, limits) as served:
            long = asyncio.create_task(served.query("n:wait_for", gate=str(gate)))
            short = asyncio.create_task(served.query("n:ping", n=1))  # to the other worker
            calls = [call("n:ping", "query", n=n) for n in (2, 3)]
            await asyncio.sleep(0)
            _, results = await served.backend.executor.queries_at(calls, [], at_least_ts=0)
            assert [results[one].value for one in calls] == [b"2", b"3"]
            assert not long.done()
            gate.touch()
            assert (await short, await long) == (1, None)

    asyncio.run(scenario())


@pytest.mark.parametrize("first", [0, 1])
def test_of_a_batch_too_the_second_death_is_the_error_of_the_killer_alone(tmp_path: Path, first: int) -> None:
    async def scenario() -> None:
        deaths = Deaths(tmp_path / "deaths", 3)
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            killer, ping = call("crashes:in_query", "query", pipe=deaths.path), call("n:ping", "query", n=5)
            calls = [killer, ping] if first == 0 else [ping, killer]
            _, results = await served.backend.executor.queries_at(calls, [], at_least_ts=0)
            error = results[killer].error
            assert error is not None
            assert error.message == "crashes:in_query: the worker process died while this function ran, twice"
            assert results[ping].value == b"5"
            assert served.backend.pool.statistics().deaths == 2
        deaths.close()

    asyncio.run(scenario())


def test_an_action_whose_worker_dies_is_not_run_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        trace = tmp_path / "trace"
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            error = await served.error("crashes:in_action", "action", pipe="", trace=str(trace))
            assert error.code == WorkerDied.code
            assert await served.act("n:nap", seconds=0) == "rested"
            assert trace.read_text() == "ran\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_limited_and_the_error_names_the_setting(tmp_path: Path, kind: str) -> None:
    async def scenario() -> None:
        limits = Limits(  # to take so much memory takes its time, when the machine is busy
            worker_memory_bytes_max=300 * MIB, query_user_ms_max=10_000, mutation_user_ms_max=10_000
        )
        async with BackendUnderTest(tmp_path, SOURCES, limits) as served:
            error = await served.error(f"memory:in_{kind}", kind)
            assert "the setting is worker_memory_bytes_max" in error.message
            assert f", in in_{kind}\n" in error.message
            await neighbours(served, 5)
            assert await served.act("n:nap", seconds=0) == "rested"

    asyncio.run(scenario())


def test_poison_jobs_end_failed_and_do_not_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, SOURCES) as served:
            await served.mutate("crashes:schedule_poison")
            crashed, timed_out = await served.query("n:jobs")
            async with asyncio.timeout(20):
                while "pending" in (crashed["kind"], timed_out["kind"]):  # it rests between its deaths
                    await asyncio.sleep(0.05)
                    crashed, timed_out = await served.query("n:jobs")
            assert (crashed["kind"], timed_out["kind"]) == ("failed", "failed")
            assert crashed["error"] == (
                "crashes:poison: the worker process died 3 times while this job ran, and it is not run again "
                "(the setting is job_worker_deaths_max)"
            )
            assert "the setting is mutation_user_ms_max" in timed_out["error"]
            assert await served.query("n:notes") == 0
            assert served.backend.pool.statistics().deaths == 3
            assert served.backend.scheduler.running == 0

    asyncio.run(scenario())


KILLER = """
from __future__ import annotations
import os
from evolute import MutationCtx, QueryCtx, mutation, query

@query
def killer(ctx: QueryCtx) -> str:
    os._exit(5)

@query
def notes(ctx: QueryCtx) -> int:
    return len(ctx.db.query("notes").collect())

@mutation
def note(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})
"""


def test_a_query_that_kills_its_worker_is_retried_beside_neighbours_and_recovers_with_new_code(tmp_path: Path) -> None:
    """One session asks for it in the same batch as another query, which goes on as if nothing were wrong."""
    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "m.py").write_text(KILLER)

    async def scenario(server: ServerProcess) -> None:
        async with Client(server.url) as client:
            killer, notes = client.subscribe("m:killer"), client.subscribe("m:notes")
            with pytest.raises(FunctionError, match="the worker process died while this function ran, twice"):
                await anext(killer)
            assert await anext(notes) == 0
            await asyncio.to_thread(server.wait_for, r"(worker \d+ \(transaction\) died[\s\S]*){5}")
            for count in range(1, 4):
                await client.mutation("m:note")
                assert await anext(notes) == count
            (functions / "m.py").write_text(KILLER.replace("os._exit(5)", 'return "well"'))
            assert await anext(killer) == "well"
            await client.mutation("m:note")
            assert await anext(notes) == 4

    environment = {"EVOLUTE_QUERY_RETRY_MS_MIN": "100", "EVOLUTE_QUERY_RETRY_MS_MAX": "400"}
    with ServerProcess(functions, tmp_path / "data", environment=environment) as server:
        asyncio.run(asyncio.wait_for(scenario(server), 60))
        assert server.stop() == 0
