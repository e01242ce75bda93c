"""The pool with real worker processes: births, deaths, generations, limits, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evolute.clock import monotonic_ns
from evolute.database.snapshot import Snapshot
from evolute.errors import DefinitionError, LimitReached, Overloaded, ShuttingDown, WorkerDied
from evolute.execution.pool import Pool
from evolute.execution.request import CallError, FunctionOutcome
from evolute.limits import KIB, Limits
from evolute.registry.loader import read_folder
from tests.end_to_end.backend_under_test import DIES, QUICK, WAIT_S_MAX, BackendUnderTest, Deaths
from tests.end_to_end.server_process import alive
from tests.unit.function_store import call, write_folder

BASICS = """
import asyncio
import os
import time

@query
def ping(ctx: QueryCtx, n: int = 0) -> int:
    return n

@query
def sleep(ctx: QueryCtx, seconds: float) -> None:
    time.sleep(seconds)

@query
def size(ctx: QueryCtx, text: str) -> int:
    return len(text)

@mutation
def size_in_mutation(ctx: MutationCtx, text: str) -> int:
    return len(text)

@mutation
def note(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})

@query
def notes(ctx: QueryCtx) -> int:
    return len(ctx.db.query("notes").collect())

@query
def pid(ctx: QueryCtx) -> int:
    return os.getpid()

@action
async def nap(ctx: ActionCtx, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"

@action
async def wait_for(ctx: ActionCtx, gate: str) -> str:
    while not os.path.exists(gate):
        await asyncio.sleep(0.02)
    return "it is there"

@action
async def size_in_action(ctx: ActionCtx, text: str) -> int:
    return len(text)

@action
async def nested(ctx: ActionCtx, depth: int) -> int:
    return depth if depth == 0 else 1 + await ctx.run_action("m:nested", depth=depth - 1)

@action
async def fork_and_die(ctx: ActionCtx, trace: str) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    with open(trace, "w") as file:
        file.write(str(child))
    os._exit(6)
"""
PATIENT = replace(QUICK, query_user_ms_max=60_000, system_ms_max=60_000)


def starts_that(log: Path, flag: Path, statement: str) -> str:
    """A module that counts the processes that import it, and does something else while `flag` exists."""
    return f"""
import os, time
with open({str(log)!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
if os.path.exists({str(flag)!r}):
    {statement}
"""


async def wait_until(condition: Callable[[], bool]) -> None:
    """For what happens in other processes, of which no event tells."""
    until_ns = monotonic_ns() + round(WAIT_S_MAX * 1e9)
    while not condition():
        assert monotonic_ns() < until_ns, "it did not come to be"
        await asyncio.sleep(0.01)


def run(scenario: Callable[[], object]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]


# --- The end ---------------------------------------------------------------------------------------------------------


def test_closing_ends_every_call_and_every_process_at_once(tmp_path: Path) -> None:
    """Running, sent ahead and waiting: all are told that the server is shutting down."""

    async def scenario() -> None:
        limits = replace(PATIENT, requests_per_worker_max=16)
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, limits) as served:
            pool = served.backend.pool
            sleeping = [pool.run("queries", (call("m:sleep", "query", seconds=60),)) for _ in range(50)]
            napping = asyncio.create_task(pool.run_action(call("m:nap", "action", seconds=60), no_callbacks))
            await served.act("m:nap", seconds=0)  # by now the others have been sent
            statistics = pool.statistics()
            assert (statistics.running, statistics.queued) == (33, 18)
            pids = statistics.pids
            started_ns = monotonic_ns()
            await pool.close()
            assert monotonic_ns() - started_ns < 2e9
            assert not [pid for pid in pids if alive(pid)]
            for outcome in await asyncio.gather(*sleeping, napping, return_exceptions=True):
                assert isinstance(outcome, ShuttingDown), outcome
            with pytest.raises(ShuttingDown):
                await pool.run("queries", (call("m:ping", "query"),))
            with pytest.raises(ShuttingDown):
                await pool.prepare(read_folder(served.functions, QUICK))

    run(scenario)


async def no_callbacks(parent: object, operation: str, payload: object) -> tuple[bool, object]:
    raise AssertionError("not called")


def test_closing_while_workers_start_leaves_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, flag = tmp_path / "log", tmp_path / "flag"
        slow = starts_that(log, flag, "time.sleep(60)")
        async with BackendUnderTest(tmp_path, {"m.py": BASICS, "slow.py": slow}) as served:
            await wait_until(lambda: log.read_text().count("\n") == 3)
            flag.touch()
            deploying = asyncio.create_task(served.backend.deployer.deploy(served.functions))
            await wait_until(lambda: log.read_text().count("\n") == 5)
        with pytest.raises((DefinitionError, ShuttingDown)):
            await deploying
        assert not [pid for pid in map(int, log.read_text().split()) if alive(pid)]

    run(scenario)


# --- Births and deaths -----------------------------------------------------------------------------------------------


def test_an_idle_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}) as served:
            for count, pid in enumerate(served.pids, start=1):
                os.kill(pid, signal.SIGKILL)
                await served.wait_deaths(count)
                assert await served.query("m:ping", n=count) == count
                assert await served.act("m:nap", seconds=0) == "rested"

    run(scenario)


def test_a_worker_that_cannot_be_replaced_is_tried_ever_more_slowly(tmp_path: Path) -> None:
    """One at a time, not twice as many after each failure; when the cause is gone all is well again."""

    async def scenario() -> None:
        log, flag = tmp_path / "log", tmp_path / "flag"
        dying = starts_that(log, flag, "os._exit(7)")
        async with BackendUnderTest(tmp_path, {"m.py": BASICS, "dying.py": dying}, actions=1) as served:
            await wait_until(lambda: log.read_text().count("\n") == 3)
            before = log.read_text().count("\n")
            flag.touch()
            os.kill(await served.query("m:pid"), signal.SIGKILL)
            await wait_until(lambda: log.read_text().count("\n") >= before + 3)
            await asyncio.sleep(0.5)
            assert log.read_text().count("\n") <= before + 5
            assert len(served.pids) <= 3
            assert await served.query("m:ping", n=1) == 1
            flag.unlink()
            await wait_until(lambda: served.backend.pool.statistics().transaction_workers == 2)
            assert await served.query("m:ping", n=2) == 2

    run(scenario)


def test_a_worker_killed_from_outside_costs_no_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}) as served:
            calls = [asyncio.create_task(served.mutate("m:note")) for _ in range(100)]
            await served.query("m:ping")
            os.kill(served.pids[0], signal.SIGKILL)
            assert await asyncio.gather(*calls) == [None] * 100
            assert await served.query("m:notes") == 100

    run(scenario)


def test_a_process_that_an_action_forked_does_not_hide_the_death_of_its_worker(tmp_path: Path) -> None:
    """It holds the worker's end of the channel open."""

    async def scenario() -> None:
        trace = tmp_path / "trace"
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}) as served:
            error = await served.error("m:fork_and_die", "action", trace=str(trace))
            assert error.code == WorkerDied.code
            assert await served.act("m:nap", seconds=0) == "rested"
            os.kill(int(trace.read_text()), signal.SIGKILL)

    run(scenario)


def test_what_is_behind_a_long_query_is_run_elsewhere(tmp_path: Path) -> None:
    """Each worker has requests sent ahead; those behind the one that sleeps are run by the other, once each."""

    async def scenario() -> None:
        limits = replace(PATIENT, query_user_ms_max=6000)  # late after 1.5 s; nothing interrupts the sleeper
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, limits) as served:
            asleep = asyncio.create_task(served.backend.executor.query(call("m:sleep", "query", seconds=5)))
            await asyncio.sleep(0)
            assert await asyncio.gather(*(served.mutate("m:note") for _ in range(20))) == [None] * 20
            assert not asleep.done()
            assert await served.query("m:notes") == 20
            await asleep
            assert await asyncio.gather(*(served.query("m:ping", n=n) for n in range(20))) == list(range(20))

    run(scenario)


# --- Generations -----------------------------------------------------------------------------------------------------


def test_an_old_generation_finishes_what_it_holds_and_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, replace(QUICK, action_ms_max=60_000)) as served:
            old_pids, gate = served.pids, tmp_path / "gate"
            waiting = asyncio.create_task(served.act("m:wait_for", gate=str(gate)))
            await served.act("m:nap", seconds=0)
            write_folder(served.functions, {"new.py": BASICS})
            await served.backend.deployer.deploy(served.functions)
            assert await served.query("new:ping", n=1) == 1
            gate.touch()
            assert await waiting == "it is there"
            await wait_until(lambda: not any(map(alive, old_pids)))
            await wait_until(lambda: len(served.pids) == 3)
            assert served.backend.pool.statistics().deaths == 0

    run(scenario)


def test_a_replacement_that_is_late_for_its_generation_ends(tmp_path: Path) -> None:
    """It is still importing the old code when the new code is activated."""

    async def scenario() -> None:
        log, flag = tmp_path / "log", tmp_path / "flag"
        slow = starts_that(log, flag, "time.sleep(1)")
        async with BackendUnderTest(tmp_path, {"m.py": BASICS, "slow.py": slow}) as served:
            await wait_until(lambda: log.read_text().count("\n") == 3)
            flag.touch()
            os.kill(await served.query("m:pid"), signal.SIGKILL)
            await wait_until(lambda: log.read_text().count("\n") == 4)
            (served.functions / "slow.py").unlink()
            await served.backend.deployer.deploy(served.functions)
            late = int(log.read_text().split()[-1])
            await wait_until(lambda: not alive(late))
            await wait_until(lambda: len(served.pids) == 3)
            assert await served.query("m:ping", n=1) == 1

    run(scenario)


def test_workers_that_die_before_their_activation_are_replaced_at_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}) as served:
            pool = served.backend.pool
            generation = await pool.prepare(read_folder(served.functions, QUICK))
            for worker in generation.all_workers():
                assert worker.pid is not None
                os.kill(worker.pid, signal.SIGKILL)
            await wait_until(lambda: generation.all_workers() == [])
            pool.activate(generation)
            assert await served.query("m:ping", n=1) == 1
            assert await served.act("m:nap", seconds=0) == "rested"

    run(scenario)


def test_a_worker_that_dies_while_it_loads_fails_the_preparation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}) as served:
            before = served.pids
            write_folder(served.functions, {"fatal.py": "import os\nos._exit(8)"})
            with pytest.raises(DefinitionError, match="ended while it loaded the functions"):
                await served.backend.deployer.deploy(served.functions)
            assert served.pids == before
            assert await served.query("m:ping", n=1) == 1

    run(scenario)


def test_a_worker_that_loads_for_too_long_fails_the_preparation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}) as served:
            pool = Pool(
                str(served.backend.data_folder.store_path),
                served.backend.clock,
                replace(QUICK, worker_start_ms_max=300),
                workers=2,
                action_workers=1,
                on_worker_death=served.backend.database.check_readers,
            )
            write_folder(served.functions, {"slow.py": "import time\ntime.sleep(60)"})
            with pytest.raises(DefinitionError, match="the setting is worker_start_ms_max"):
                await pool.prepare(read_folder(served.functions, QUICK))
            assert pool.statistics().pids == ()
            await pool.close()

    run(scenario)


# --- Actions and limits ----------------------------------------------------------------------------------------------


def test_a_nested_action_uses_its_callers_slot(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = replace(QUICK, actions_per_worker_max=1)
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, limits) as served:
            assert await asyncio.gather(*(served.act("m:nested", depth=3) for _ in range(4))) == [3] * 4

    run(scenario)


def test_an_action_that_nobody_waits_for_is_interrupted(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = replace(QUICK, actions_per_worker_max=1, action_ms_max=60_000)
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, limits) as served:
            napping = asyncio.create_task(served.act("m:nap", seconds=60))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(served.act("m:nap", seconds=0))
            await served.query("m:ping")
            assert not waiting.done()
            napping.cancel()
            assert await waiting == "rested"
            assert napping.cancelled()

    run(scenario)


def test_a_full_queue_is_an_error_with_the_name_of_its_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = replace(
            PATIENT,
            query_user_ms_max=1000,
            requests_per_worker_max=1,
            call_queue_length_max=2,
            actions_per_worker_max=1,
            action_queue_length_max=1,
        )
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, limits, workers=1) as served:
            pool = served.backend.pool
            assert await served.act("m:nap", seconds=0) == "rested"
            asleep = [pool.run("queries", (call("m:sleep", "query", seconds=0.3),)) for _ in range(3)]
            napping = [
                asyncio.create_task(pool.run_action(call("m:nap", "action", seconds=0.3), no_callbacks))
                for _ in range(2)
            ]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="call_queue_length_max"):
                await pool.run("queries", (call("m:ping", "query"),))
            with pytest.raises(Overloaded, match="action_queue_length_max"):
                await pool.run_action(call("m:nap", "action", seconds=0), no_callbacks)
            for outcome in await asyncio.gather(*asleep, *napping):
                assert isinstance(outcome, FunctionOutcome)

    run(scenario)


SMALL_FRAMES = Limits(
    arguments_bytes_max=400 * KIB, result_bytes_max=100 * KIB, frame_bytes_max=500 * KIB, pending_view_bytes_max=KIB
)


def test_what_does_not_fit_into_a_frame_is_the_error_of_its_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, SMALL_FRAMES) as served:
            for path, kind in (("size", "query"), ("size_in_mutation", "mutation"), ("size_in_action", "action")):
                error = await served.error(f"m:{path}", kind, text="x" * 600_000)
                assert error.code == LimitReached.code
                assert "frame_bytes_max" in error.message
                assert await served.query("m:ping", n=1) == 1

    run(scenario)


def test_queries_whose_worker_is_killed_once_are_answered(tmp_path: Path) -> None:
    """Alone each of them does well, so neither was to blame, and they are run together once more."""

    async def scenario() -> None:
        deaths = Deaths(tmp_path / "deaths", 1)
        frail = DIES + "\n@query\ndef frail(ctx: QueryCtx, n: int, pipe: str) -> int:\n    dies(pipe)\n    return n\n"
        async with BackendUnderTest(tmp_path, {"m.py": frail}) as served:
            calls = [call("m:frail", "query", n=n, pipe=deaths.path) for n in (1, 2)]
            _, results = await served.backend.executor.queries_at(calls, [], at_least_ts=0)
            assert [(results[one].value, results[one].error) for one in calls] == [(b"1", None), (b"2", None)]
            assert served.backend.pool.statistics().deaths == 1
        deaths.close()

    run(scenario)


def test_queries_that_fit_alone_but_not_together_fail_together_and_do_not_go_round(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, SMALL_FRAMES) as served:
            calls = [call("m:size", "query", text=letter * 300_000) for letter in "ab"]
            _, results = await served.backend.executor.queries_at(calls, [], at_least_ts=0)
            errors = [result.error for result in results.values()]
            assert len(errors) == 2
            for error in errors:
                assert isinstance(error, CallError)
                assert "frame_bytes_max" in error.message
            for one in calls:
                _, results = await served.backend.executor.queries_at([one], [], at_least_ts=0)
                assert results[one].error is not None  # what is cached is good until the code changes
            assert await served.query("m:size", text="a" * 300_000) == 300_000

    run(scenario)


def test_workers_that_can_open_no_snapshot_answer_with_an_error(tmp_path: Path) -> None:
    """Every place in the readers' table is taken; a session that asks is answered and does not go round."""

    async def scenario() -> None:
        limits = replace(QUICK, readers_max=20)
        async with BackendUnderTest(tmp_path, {"m.py": BASICS}, limits) as served:
            snapshots: list[Snapshot] = []
            with contextlib.suppress(Overloaded):
                while len(snapshots) <= limits.readers_max:
                    snapshots.append(served.backend.database.snapshot())
            assert 0 < len(snapshots) <= limits.readers_max
            one = call("m:ping", "query")
            _, results = await served.backend.executor.queries_at([one], [], at_least_ts=0)
            error = results[one].error
            assert error is not None
            assert "readers_max" in error.message
            for snapshot in snapshots:
                snapshot.close()
            assert await served.query("m:ping", n=1) == 1

    run(scenario)
