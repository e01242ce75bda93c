"""Blocking actions: a plain `def` in a process of its own, beside everything else that a real backend does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolute.errors import Overloaded, ShuttingDown
from evolute.execution.executor import SystemRun
from evolute.limits import Limits
from evolute.system import jobs
from tests.end_to_end.backend_under_test import QUICK, WAIT_S_MAX, BackendUnderTest
from tests.end_to_end.server_process import alive
from tests.end_to_end.test_pool import wait_until
from tests.unit.function_store import call

PATIENT = replace(QUICK, action_ms_max=60_000, blocking_workers_max=2)

FUNCTIONS = """
import asyncio, logging, os, subprocess, threading, time
from datetime import timedelta
from evolute import JobOutcome, Retry

def started(log: str) -> None:
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n")

@query
def notes(ctx: QueryCtx) -> list[str]:
    return [row["text"] for row in ctx.db.query("notes")]

@mutation
def add(ctx: MutationCtx, text: str) -> str:
    if not text:
        raise ConvexError({"code": "Empty"})
    return ctx.db.insert("notes", {"text": text})

@action
async def hello(ctx: ActionCtx, name: str) -> str:
    await asyncio.sleep(0)
    return f"hello {name}"

@action
async def nap(ctx: ActionCtx) -> None:
    await asyncio.sleep(600)

@action
def spin(ctx: BlockingActionCtx, log: str, gate: str) -> int:
    started(log)
    turns = 0
    while not os.path.exists(gate):
        turns += 1
    return turns

@action
def hold(ctx: BlockingActionCtx, log: str, gate: str) -> int:
    with open(gate, "rb", buffering=0) as pipe:
        started(log)
        pipe.read(1)
    return os.getpid()

@action
def with_child(ctx: BlockingActionCtx, log: str) -> None:
    child = subprocess.Popen(["sleep", "600"])
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\\n{child.pid}\\n")
    child.wait()

@action
def pid(ctx: BlockingActionCtx) -> int:
    return os.getpid()
"""


class Gate:
    """A pipe that lets so many of those through who read from it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)

    def let(self, count: int) -> None:
        os.write(self._fd, b"x" * count)


class Log:
    """A file to which actions add their process ids."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.path = str(path)

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    async def wait_pids(self, count: int) -> list[int]:
        await wait_until(lambda: len(self.pids) >= count)
        return self.pids


class Scene:
    """What the tests below act with."""

    def __init__(self, folder: Path, served: BackendUnderTest) -> None:
        self.served = served
        self.log = Log(folder / "log")
        self.gate = Gate(folder / "gate")
        self.pool = served.backend.pool

    def holding(self) -> asyncio.Task[Any]:
        return asyncio.create_task(self.served.act("m:hold", log=self.log.path, gate=self.gate.path))


def play(folder: Path, scenario: Callable[[Scene], Awaitable[None]], more: str = "", limits: Limits = PATIENT) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            BackendUnderTest(folder, {"m.py": FUNCTIONS + more}, limits, workers=1) as served,
        ):
            await scenario(Scene(folder, served))

    asyncio.run(main())


# --- Side by side ----------------------------------------------------------------------------------------------------


def test_work_that_never_waits_holds_up_nobody(tmp_path: Path) -> None:
    """It runs for longer than an async action may keep its loop from turning, and all others are served meanwhile."""

    async def scenario(scene: Scene) -> None:
        gate = tmp_path / "open"
        spinning = asyncio.create_task(scene.served.act("m:spin", log=scene.log.path, gate=str(gate)))
        await scene.log.wait_pids(1)
        for number in range(20):
            await scene.served.mutate("m:add", text=str(number))
            assert len(await scene.served.query("m:notes")) == number + 1
            assert await scene.served.act("m:hello", name="you") == "hello you"
        await asyncio.sleep(2 * QUICK.action_block_ms_max / 1000)
        assert not spinning.done()
        gate.touch()
        assert await spinning > 0
        assert scene.pool.statistics().deaths == 0

    play(tmp_path, scenario)


def test_as_many_run_as_there_are_places_and_the_next_waits(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        assert scene.pool.statistics().blocking_workers == 0  # none is started before it is needed
        held = [scene.holding() for _ in range(3)]
        first = await scene.log.wait_pids(2)
        assert len(set(first)) == 2
        seen = scene.pool.statistics()
        assert (seen.blocking_workers, seen.queued, seen.running) == (2, 1, 2)
        scene.gate.let(1)
        pids = await scene.log.wait_pids(3)
        assert pids[2] in first  # a process that has become idle is used again
        scene.gate.let(2)
        assert sorted(await asyncio.gather(*held)) == sorted(pids)

    play(tmp_path, scenario)


def test_a_few_idle_processes_are_kept(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        held = [scene.holding() for _ in range(4)]
        await scene.log.wait_pids(4)
        scene.gate.let(4)
        pids = set(await asyncio.gather(*held))
        await wait_until(lambda: scene.pool.statistics().blocking_workers == 1)
        assert len([pid for pid in pids if alive(pid)]) == 1
        assert await scene.served.act("m:pid") in pids
        assert scene.pool.statistics().deaths == 0

    play(tmp_path, scenario, limits=replace(PATIENT, blocking_workers_max=4, blocking_workers_idle_max=1))


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        held = [scene.holding() for _ in range(3)]
        await scene.log.wait_pids(2)
        with pytest.raises(Overloaded, match=r"1 blocking actions wait .* the setting is blocking_queue_length_max"):
            await scene.served.act("m:pid")
        scene.gate.let(3)
        await asyncio.gather(*held)

    play(tmp_path, scenario, limits=replace(PATIENT, blocking_queue_length_max=1))


def test_who_waits_and_gives_up_is_not_run(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        held = [scene.holding() for _ in range(4)]
        await scene.log.wait_pids(2)
        await wait_until(lambda: scene.pool.statistics().queued == 2)
        held[2].cancel()
        scene.gate.let(3)
        outcomes = await asyncio.gather(*held, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, int, asyncio.CancelledError, int]
        assert len(scene.log.pids) == 3

    play(tmp_path, scenario)


# --- Nested ----------------------------------------------------------------------------------------------------------

NESTED = """
@action
def tower(ctx: BlockingActionCtx, height: int) -> list[int]:
    if height == 0:
        return [os.getpid()]
    return [os.getpid(), *ctx.run_action(tower, height=height - 1)]

@action
def over_async(ctx: BlockingActionCtx) -> list[list[int]]:
    return ctx.run_action(many, count=5)

@action
async def many(ctx: ActionCtx, count: int) -> list[list[int]]:
    return await asyncio.gather(*(ctx.run_action(tower, height=1) for _ in range(count)))
"""


def test_nested_calls_end_however_few_places_there_are(tmp_path: Path) -> None:
    """With one place: what a blocking action calls runs in that place, one call at each depth."""

    async def scenario(scene: Scene) -> None:
        towers = await asyncio.gather(*(scene.served.act("m:tower", height=4) for _ in range(3)))
        assert [len(set(pids)) for pids in towers] == [5, 5, 5]
        assert len(await scene.served.act("m:over_async")) == 5
        assert len(await scene.served.act("m:many", count=5)) == 5
        error = await scene.served.error("m:tower", "action", height=20)
        assert "call_depth_max" in error.message
        assert scene.pool.statistics().queued == 0

    play(tmp_path, scenario, NESTED, replace(PATIENT, blocking_workers_max=1, blocking_workers_idle_max=5))


def test_a_place_holds_one_process_at_each_depth(tmp_path: Path) -> None:
    calls = """
@action
def outer(ctx: BlockingActionCtx, log: str, gate: str) -> list[int]:
    return ctx.run_action(between, log=log, gate=gate)

@action
async def between(ctx: ActionCtx, log: str, gate: str) -> list[int]:
    return await asyncio.gather(*(ctx.run_action(hold, log=log, gate=gate) for _ in range(3)))
"""

    async def scenario(scene: Scene) -> None:
        outer = asyncio.create_task(scene.served.act("m:outer", log=scene.log.path, gate=scene.gate.path))
        await scene.log.wait_pids(1)
        await wait_until(lambda: scene.pool.statistics().queued == 2)
        assert scene.pool.statistics().blocking_workers == 2
        scene.gate.let(3)
        assert await outer == scene.log.pids

    play(tmp_path, scenario, calls, replace(PATIENT, blocking_workers_max=3))


# --- The end of one that runs ----------------------------------------------------------------------------------------

JOBS = """
@mutation
def plan(ctx: MutationCtx, target: str, args: dict[str, Any]) -> str:
    return ctx.scheduler.options(on_complete=told).run_after(0, target, **args)

@mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", {"kind": job.kind, "error": job.error})

@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(job)

@query
def tellings(ctx: QueryCtx) -> list[Any]:
    return [[row["kind"], row["error"]] for row in ctx.db.query("told")]

@action
def over(ctx: BlockingActionCtx, log: str) -> None:
    started(log)
    ctx.run_action(with_child, log=log)

@action(retry=Retry(attempts=3, initial_ms=10))
def unlucky(ctx: BlockingActionCtx, log: str) -> None:
    started(log)
    if len(open(log).readlines()) == 1:
        os._exit(3)
    if len(open(log).readlines()) == 2:
        raise ValueError("again")
"""


async def row_of(served: BackendUnderTest, job: str) -> dict[str, Any]:
    found: SystemRun[Any] = await served.backend.executor.run_system(lambda transaction: jobs.read(transaction, job))
    return dict(found.value)


async def ended(served: BackendUnderTest, job: str) -> dict[str, Any]:
    async with asyncio.timeout(WAIT_S_MAX):
        while "completedTime" not in (row := await row_of(served, job)) or "_started" in row:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return row


def test_a_job_that_is_cancelled_ends_with_its_process(tmp_path: Path) -> None:
    """And with the processes that it has started, and with the actions that it waits for."""

    async def scenario(scene: Scene) -> None:
        served = scene.served
        other = scene.holding()
        (bystander,) = await scene.log.wait_pids(1)
        job = await served.mutate("m:plan", target="m:over", args={"log": scene.log.path})
        pids = (await scene.log.wait_pids(4))[1:]
        assert (await row_of(served, job))["state"] == {"kind": "inProgress"}
        await served.mutate("m:cancel", job=job)
        row = await ended(served, job)
        assert not alive(pids[0])
        assert row["state"] == {"kind": "canceled"}
        text = "The action was cancelled by the server, and its process was ended."
        assert [attempt["error"] for attempt in row["attempts"]] == [text]
        assert await served.query("m:tellings") == [["canceled", text]]
        await wait_until(lambda: not any(map(alive, pids)))
        scene.gate.let(1)
        assert await other == bystander
        assert scene.pool.statistics().deaths == 0  # it was meant

    play(tmp_path, scenario, JOBS)


def test_a_job_is_tried_again_as_its_policy_says(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        job = await scene.served.mutate("m:plan", target="m:unlucky", args={"log": scene.log.path})
        row = await ended(scene.served, job)
        assert row["state"] == {"kind": "success"}
        assert len(scene.log.pids) == len(row["attempts"]) == 3

    play(tmp_path, scenario, JOBS)


def test_jobs_are_in_progress_only_when_they_have_a_process(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        served = scene.served
        arguments = {"log": scene.log.path, "gate": scene.gate.path}
        job_ids = [await served.mutate("m:plan", target="m:hold", args=arguments) for _ in range(3)]
        await scene.log.wait_pids(2)
        states = [(await row_of(served, job))["state"]["kind"] for job in job_ids]
        assert states == ["inProgress", "inProgress", "pending"]
        scene.gate.let(3)
        assert [(await ended(served, job))["state"]["kind"] for job in job_ids] == ["success"] * 3

    play(tmp_path, scenario, JOBS)


def test_a_process_that_is_killed_fails_its_action_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        other = scene.holding()
        (bystander,) = await scene.log.wait_pids(1)
        dying = asyncio.create_task(scene.served.error("m:hold", "action", log=scene.log.path, gate=scene.gate.path))
        (_, pid) = await scene.log.wait_pids(2)
        os.kill(pid, signal.SIGKILL)
        assert (await dying).code == "WorkerDied"
        scene.gate.let(1)
        assert await other == bystander
        assert len(scene.log.pids) == 2  # it was not run again
        assert scene.pool.statistics().deaths == 1
        assert alive(await scene.served.act("m:pid"))

    play(tmp_path, scenario)


RUNAWAYS = """
@action
def sleep(ctx: BlockingActionCtx) -> None:
    time.sleep(600)

@action
def swallow(ctx: BlockingActionCtx) -> str:
    try:
        time.sleep(600)
    except BaseException:
        return "nothing happened"

@action
def wait_for_another(ctx: BlockingActionCtx) -> None:
    ctx.run_action(nap)

@action
def count_in_c(ctx: BlockingActionCtx) -> None:
    sum(range(10**15))

@action
def eat(ctx: BlockingActionCtx) -> int:
    return len(bytearray(1 << 30))
"""


def test_an_action_ends_when_its_time_is_up(tmp_path: Path) -> None:
    """Interrupted where it stands, in a library or while it waits for another function; C code with its process."""

    async def scenario(scene: Scene) -> None:
        served = scene.served
        text = "Function execution timed out (maximum duration: 0.3s); the setting is action_ms_max"
        for name, line in (("sleep", "time.sleep(600)"), ("wait_for_another", "ctx.run_action(nap)")):
            error = await served.error(f"m:{name}", "action")
            assert error.message.startswith(text)
            assert line in error.message
        assert (await served.error("m:swallow", "action")).message.startswith(text)
        assert scene.pool.statistics().deaths == 0
        error = await served.error("m:count_in_c", "action")
        assert (error.code, error.message) == (
            "FunctionTimedOut",
            "The action's worker process was ended: time limit (the setting is action_ms_max)",
        )
        assert scene.pool.statistics().deaths == 1
        assert alive(await served.act("m:pid"))

    limits = replace(PATIENT, action_ms_max=300, system_ms_max=100)
    play(tmp_path, scenario, RUNAWAYS, limits)


def test_an_action_that_uses_up_its_memory_fails_alone(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        before = await scene.served.act("m:pid")
        error = await scene.served.error("m:eat", "action")
        assert "ran out of memory" in error.message
        assert await scene.served.act("m:pid") != before
        assert scene.pool.statistics().deaths == 0

    play(tmp_path, scenario, RUNAWAYS, replace(PATIENT, worker_memory_bytes_max=300 << 20))


# --- Deployments and the end of the server ---------------------------------------------------------------------------


def test_one_that_runs_ends_in_the_code_that_it_began_in(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        served = scene.served
        held = scene.holding()
        (old,) = await scene.log.wait_pids(1)
        module = served.functions / "m.py"
        module.write_text(module.read_text().replace("    return os.getpid()", "    return -os.getpid()"))
        await served.backend.deployer.deploy(served.functions)
        assert await served.act("m:pid") < 0
        scene.gate.let(1)
        assert await held == old
        await wait_until(lambda: not alive(old))
        assert scene.pool.statistics().deaths == 0

    play(tmp_path, scenario)


def test_one_that_waits_while_it_is_rewritten_runs_in_its_new_lane(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        served = scene.served
        held = [scene.holding() for _ in range(2)]
        await scene.log.wait_pids(2)
        waiting = asyncio.create_task(served.act("m:pid"))
        await wait_until(lambda: scene.pool.statistics().queued == 1)
        module = served.functions / "m.py"
        text = module.read_text().replace("def pid(ctx: BlockingActionCtx)", "async def pid(ctx: ActionCtx)")
        module.write_text(text)
        await served.backend.deployer.deploy(served.functions)
        scene.gate.let(2)
        await asyncio.gather(*held)
        assert await waiting not in scene.log.pids
        assert await waiting == await served.act("m:pid")  # there is one worker for async actions

    play(tmp_path, scenario)


def test_the_end_of_the_server_leaves_no_process(tmp_path: Path) -> None:
    """Neither the running, the idle nor what they have started; who waits is told."""

    async def main() -> None:
        limits = replace(PATIENT, shutdown_ms_max=100, blocking_workers_max=3)
        async with asyncio.timeout(60):
            async with BackendUnderTest(tmp_path, {"m.py": FUNCTIONS}, limits) as served:
                scene = Scene(tmp_path, served)
                await served.act("m:pid")
                with_child = asyncio.create_task(served.act("m:with_child", log=scene.log.path))
                await scene.log.wait_pids(2)
                held = [scene.holding() for _ in range(4)]
                pids = await scene.log.wait_pids(4)
                await wait_until(lambda: scene.pool.statistics().queued == 2)
            outcomes = await asyncio.gather(with_child, *held, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [ShuttingDown] * 5
            await wait_until(lambda: not any(map(alive, pids)))

    asyncio.run(main())


# --- ctx -------------------------------------------------------------------------------------------------------------

CONTEXT = """
@action
def tour(ctx: BlockingActionCtx) -> Any:
    note = ctx.run_mutation(add, text="a")
    told = [ctx.run_query("m:notes"), ctx.run_action(hello, name="b"), ctx.auth.get_user_identity()]
    job = ctx.scheduler.run_after(timedelta(hours=1), add, text="later")
    kept = ctx.scheduler.options(key="k", key_policy="keep")
    again = [kept.run_at(ctx.now + timedelta(hours=1), add, text="k") for _ in range(2)]
    ctx.scheduler.cancel(job)
    assert again[0] == again[1] != job
    assert ctx.now.timestamp() * 1000 <= ctx.now_ms
    print("two")
    logging.warning("three")
    return [*told, ctx.random.random() == ctx.random.random()]

@query
def states(ctx: QueryCtx) -> list[str]:
    return [row["state"]["kind"] for row in ctx.db.system.query("_scheduled_functions")]

@action
def fails(ctx: BlockingActionCtx) -> str:
    try:
        ctx.run_mutation(add, text="")
    except ConvexError as error:
        return error.data["code"]

@action
def raises(ctx: BlockingActionCtx) -> None:
    raise ConvexError({"code": "Mine"})

kept: list[Any] = []

@action
def misuse(ctx: BlockingActionCtx) -> list[str]:
    texts: list[str] = []
    def use(context: Any) -> None:
        try:
            context.run_query(notes)
        except Exception as error:
            texts.append(str(error))
    thread = threading.Thread(target=use, args=(ctx,))
    thread.start()
    thread.join()
    for context in kept:
        use(context)
    kept.append(ctx)
    try:
        ctx.db
    except AttributeError as error:
        texts.append(str(error))
    return texts
"""


def test_the_context_of_a_blocking_action(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        served = scene.served
        outcome = await served.backend.executor.act(call("m:tour", "action"))
        assert outcome.error is None, outcome.error
        assert outcome.value == b'[["a"],"hello b",null,false]'
        assert outcome.log_lines == ("[LOG] two", "[WARN] three")
        assert await served.query("m:states") == ["canceled", "pending"]
        assert await served.act("m:fails") == "Empty"
        assert (await served.error("m:raises", "action")).data == b'{"code":"Mine"}'
        other_thread = "`ctx` was used by another thread than the one that runs its function."
        no_db = "`ctx` of an action has no 'db': an action reads and writes through ctx.run_query and ctx.run_mutation"
        assert await served.act("m:misuse") == [other_thread, no_db]
        (_, late, _) = await served.act("m:misuse")  # in the same process
        assert late.startswith("`ctx` was used after its function returned")

    play(tmp_path, scenario, CONTEXT, replace(PATIENT, blocking_workers_max=1))
