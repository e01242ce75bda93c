"""Jobs in real worker processes: poison, interrupting, crashes of workers and of the server, completion."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evolute.backend import Backend
from evolute.clock import SystemClock
from evolute.config import Config
from evolute.database.database import Database
from evolute.database.transaction import Transaction
from evolute.execution.request import Call
from evolute.limits import Limits
from evolute.system import jobs as job_table
from evolute.system import pauses
from evolute.system.check import faults
from evolute.values import wire_codec
from tests.end_to_end.backend_under_test import DIES, Deaths
from tests.end_to_end.server_process import ServerProcess

T = TypeVar("T")
PATIENCE_S = 30

JOBS = """
import asyncio, os
from typing import Any
from evolute import ActionCtx, JobOutcome, MutationCtx, QueryCtx, Retry, action, mutation, query

class Odd(Exception):
    pass

def line(folder: str, text: str) -> None:
    with open(os.path.join(folder, "lines"), "a") as file:
        file.write(text + "\\n")

@mutation
def poison(ctx: MutationCtx) -> None:
    os._exit(3)

@mutation
def well(ctx: MutationCtx) -> int:
    return len(ctx.db.query("told").collect())

@action(retry=Retry(attempts=10, initial_ms=10))
async def poison_action(ctx: ActionCtx, folder: str) -> None:
    line(folder, "poison")
    os._exit(3)

@action
async def dies_at_once(ctx: ActionCtx, folder: str) -> None:
    line(folder, "dies")
    os._exit(3)

@action(retry=Retry(attempts=3, initial_ms=10, on=(Odd,)))
async def odd(ctx: ActionCtx, folder: str, fault: str) -> str:
    line(folder, fault)
    if fault == "odd":
        raise type("Odder", (Odd,), {})("again")
    raise ValueError(fault)

@action
async def inner(ctx: ActionCtx, folder: str) -> None:
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        line(folder, "inner cancelled")
        raise

@action
async def outer(ctx: ActionCtx, folder: str, nested: bool) -> None:
    line(folder, "started")
    try:
        await (ctx.run_action(inner, folder=folder) if nested else asyncio.sleep(600))
    except asyncio.CancelledError:
        line(folder, "cancelled")
        raise

@mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", {"kind": job.kind, "error": job.error, "attempts": len(job.attempts)})

@mutation
def told_fatally(ctx: MutationCtx, job: JobOutcome) -> None:
    os._exit(4)

@action
async def lends(ctx: ActionCtx, pipe: str) -> str:
    return pipe

@mutation
def told_at_last(ctx: MutationCtx, job: JobOutcome) -> None:
    dies(job.value)
    ctx.db.insert("told", {"kind": job.kind, "error": job.error, "attempts": len(job.attempts)})

@mutation
def plan(ctx: MutationCtx, target: str, args: dict[str, Any], on_complete: str | None = "jobs:told") -> str:
    return ctx.scheduler.options(on_complete=on_complete).run_after(0, target, **args)

@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(job)

@query
def tellings(ctx: QueryCtx) -> list[Any]:
    return [[row["kind"], row["error"], row["attempts"]] for row in ctx.db.query("told")]
"""
JOBS += DIES


class Jobs:
    """A backend on a temporary folder, without sockets."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.folder = folder
        functions = folder / "functions"
        functions.mkdir(exist_ok=True)
        (functions / "jobs.py").write_text(JOBS)
        self.backend = Backend(
            Config(
                functions_folder=functions,
                data_folder=folder / "data",
                workers=1,
                action_workers=1,
                limits=Limits(**limits),
            )
        )

    async def call(self, path: str, **arguments: Any) -> Any:
        outcome = await self.backend.executor.run_any(Call(path, wire_codec.encode(arguments), public_only=False))
        assert outcome.error is None, outcome.error.message
        assert outcome.value is not None
        return wire_codec.decode_canonical(outcome.value)

    async def plan(self, target: str, **options: Any) -> str:
        on_complete = options.pop("on_complete", "jobs:told")
        job: str = await self.call("jobs:plan", target=f"jobs:{target}", args=options, on_complete=on_complete)
        return job

    async def row(self, job: str) -> dict[str, Any]:
        def read(transaction: Transaction) -> Any:
            return job_table.read(transaction, job)

        return dict((await self.backend.executor.run_system(read)).value)

    async def ended(self, job: str) -> dict[str, Any]:
        return await self.until(job, lambda row: "completedTime" in row and "_due" not in row and "_started" not in row)

    async def until(self, job: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while not reached(row := await self.row(job)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return row

    def lines(self) -> list[str]:
        path = self.folder / "lines"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    async def wait_line(self, line: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while line not in self.lines():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def run(folder: Path, body: Callable[[Jobs], Awaitable[None]], **limits: int) -> None:
    async def main() -> None:
        jobs = Jobs(folder, **limits)
        await jobs.backend.start()
        try:
            await body(jobs)
        finally:
            await jobs.backend.stop()

    asyncio.run(main())


def test_a_poison_mutation_ends_after_three_deaths_and_blocks_nobody(tmp_path: Path) -> None:
    async def body(jobs: Jobs) -> None:
        poison = await jobs.plan("poison")
        others = [await jobs.plan("well", on_complete=None) for _ in range(20)]
        row = await jobs.ended(poison)
        assert row["state"]["kind"] == "failed"
        assert "the worker process died 3 times while this job ran" in row["state"]["error"]
        assert row["_deaths"] == 3
        for other in others:
            assert (await jobs.ended(other))["state"] == {"kind": "success"}
        assert [kind for kind, _, _ in await jobs.call("jobs:tellings")] == ["failed"]
        assert jobs.backend.pool.statistics().deaths == 3

    run(tmp_path, body)


def test_a_poison_action_ends_after_three_deaths_and_one_without_a_policy_after_one(tmp_path: Path) -> None:
    async def body(jobs: Jobs) -> None:
        row = await jobs.ended(await jobs.plan("poison_action", folder=str(tmp_path)))
        assert row["state"]["kind"] == "failed"
        assert "It has killed its worker process 3 times" in row["state"]["error"]
        assert jobs.lines() == ["poison"] * 3
        assert len(row["attempts"]) == 3
        row = await jobs.ended(await jobs.plan("dies_at_once", folder=str(tmp_path)))
        assert row["state"]["kind"] == "failed"
        assert jobs.lines()[3:] == ["dies"]

    run(tmp_path, body)


def test_exceptions_are_known_by_their_classes_across_the_processes(tmp_path: Path) -> None:
    async def body(jobs: Jobs) -> None:
        row = await jobs.ended(await jobs.plan("odd", folder=str(tmp_path), fault="odd"))
        assert [len(row["attempts"]), row["state"]["kind"]] == [3, "failed"]
        row = await jobs.ended(await jobs.plan("odd", folder=str(tmp_path), fault="value"))
        assert [len(row["attempts"]), row["state"]["kind"]] == [1, "failed"]
        assert jobs.lines() == ["odd"] * 3 + ["value"]

    run(tmp_path, body)


def test_cancelling_interrupts_the_running_action_and_those_it_called(tmp_path: Path) -> None:
    async def body(jobs: Jobs) -> None:
        for nested in (False, True):
            job = await jobs.plan("outer", folder=str(tmp_path), nested=nested)
            await jobs.wait_line("started")
            if nested:
                async with asyncio.timeout(PATIENCE_S):
                    while jobs.backend.pool.statistics().running < 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
            await jobs.call("jobs:cancel", job=job)
            await jobs.wait_line("cancelled")
            if nested:
                await jobs.wait_line("inner cancelled")
            row = await jobs.ended(job)
            assert row["state"] == {"kind": "canceled"}
            assert [attempt["error"] for attempt in row["attempts"]] == ["The action was cancelled by the server."]
            (tmp_path / "lines").unlink()
        text = "The action was cancelled by the server."
        assert await jobs.call("jobs:tellings") == [["canceled", text, 1]] * 2
        async with asyncio.timeout(PATIENCE_S):
            while jobs.backend.pool.statistics().running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(tmp_path, body)


def test_a_job_that_is_cancelled_while_it_waits_for_a_worker_tells_at_once(tmp_path: Path) -> None:
    async def body(jobs: Jobs) -> None:
        running = await jobs.plan("outer", folder=str(tmp_path), nested=False)
        await jobs.wait_line("started")
        waiting = await jobs.plan("dies_at_once", folder=str(tmp_path))
        async with asyncio.timeout(PATIENCE_S):
            while waiting not in jobs.backend.scheduler.taken:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await jobs.call("jobs:cancel", job=waiting)
        row = await jobs.ended(waiting)
        assert (row["state"], row.get("attempts")) == ({"kind": "canceled"}, None)
        assert await jobs.call("jobs:tellings") == [["canceled", None, 0]]
        assert (await jobs.row(running))["state"]["kind"] == "inProgress"
        following = await jobs.plan("odd", folder=str(tmp_path), fault="value")
        await jobs.call("jobs:cancel", job=running)
        assert (await jobs.ended(following))["state"]["kind"] == "failed", "it has the room that was given back"
        assert jobs.lines() == ["started", "cancelled", "value"]

    run(tmp_path, body, actions_per_worker_max=1)


def test_a_completion_that_kills_its_worker_does_not_hold_the_job(tmp_path: Path) -> None:
    async def body(jobs: Jobs) -> None:
        for target in ("odd", "well"):
            arguments = {"folder": str(tmp_path), "fault": "value"} if target == "odd" else {}
            row = await jobs.ended(await jobs.plan(target, on_complete="jobs:told_fatally", **arguments))
            assert row["state"]["kind"] == ("failed" if target == "odd" else "success")
            assert "the worker process died" in row["completionError"]

    run(tmp_path, body)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_completion_is_told_though_its_worker_dies_once(tmp_path: Path, deaths: int) -> None:
    """The worker may have been killed for what others did; a second death is the completion's own error."""

    async def body(jobs: Jobs) -> None:
        lives = Deaths(tmp_path / "deaths", deaths)
        row = await jobs.ended(await jobs.plan("lends", on_complete="jobs:told_at_last", pipe=lives.path))
        lives.close()
        assert row["state"] == {"kind": "success"}
        if deaths == 1:
            assert (await jobs.call("jobs:tellings"), "completionError" in row) == ([["success", None, 0]], False)
        else:
            assert await jobs.call("jobs:tellings") == []
            assert row["completionError"].endswith("the worker process died while this function ran, twice")

    run(tmp_path, body)


def test_a_backlog_of_many_costs_no_time_at_the_start(tmp_path: Path) -> None:
    """20,000 jobs that are due and paused, with the full million in the benchmark: a look reads what it takes."""

    async def body(jobs: Jobs) -> None:
        def many(transaction: Transaction) -> None:
            for number in range(1000):
                job_table.schedule(transaction, path="jobs:well", arguments={}, due_ns=number + 1, scheduled_ms=0.0)

        await jobs.backend.executor.run_system(pauses.pause)
        for _ in range(20):
            await jobs.backend.executor.run_system(many)
        looks = jobs.backend.scheduler.statistics().looks
        await asyncio.sleep(0.05)
        assert jobs.backend.scheduler.statistics().looks == looks
        assert jobs.backend.scheduler.running == 0

    run(tmp_path, body)
    assert os.path.getsize(tmp_path / "data") > 0


# --- SIGKILL of the server --------------------------------------------------------------------------------------------

PATIENT = {"EVOLUTE_MUTATION_USER_MS_MAX": str(PATIENCE_S * 1000)}

COUNTED = """
import asyncio, os
from typing import Any
from evolute import ActionCtx, JobOutcome, MutationCtx, QueryCtx, Retry, action, mutation, query

@mutation
def count(ctx: MutationCtx) -> None:
    ctx.db.insert("effects", {})

@mutation
def count_behind(ctx: MutationCtx, gate: str) -> None:
    ctx.db.insert("effects", {})
    os.write(1, b"m:count_behind runs\\n")  # the only sign of life that a mutation can give
    while not os.path.exists(gate):
        pass

async def effect(folder: str) -> None:
    with open(os.path.join(folder, "lines"), "a") as file:
        file.write("effect\\n")

@action
async def act(ctx: ActionCtx, folder: str) -> None:
    await effect(folder)

@action
async def act_for_ever(ctx: ActionCtx, folder: str) -> None:
    await effect(folder)
    os.write(1, b"m:act_for_ever runs\\n")
    await asyncio.sleep(600)

@action(retry=Retry(attempts=3, initial_ms=10))
async def act_again(ctx: ActionCtx, folder: str) -> None:
    await effect(folder)

@mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", {"kind": job.kind})

@mutation
def plan(ctx: MutationCtx, target: str, args: dict[str, Any]) -> None:
    ctx.scheduler.options(on_complete=told).run_after(0, target, **args)

@query
def state(ctx: QueryCtx) -> Any:
    jobs = ctx.db.system.query("_scheduled_functions").collect()
    effects, tellings = ctx.db.query("effects").collect(), ctx.db.query("told").collect()
    return [[job["state"] for job in jobs], len(effects), [row["kind"] for row in tellings]]
"""


def crash_and_look(folder: Path, failpoint: str, target: str, args: dict[str, Any]) -> Any:
    """Schedules one job on a server that dies at the failpoint, starts another, and waits until nothing is pending."""
    functions = folder / "functions"
    functions.mkdir()
    (functions / "m.py").write_text(COUNTED)
    with ServerProcess(functions, folder / "data", environment={"EVOLUTE_FAILPOINT": failpoint}) as server:
        server.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            call_http(server, "mutation", "m:plan", {"target": target, "args": args})
        server.process.wait(timeout=PATIENCE_S)
        assert server.process.returncode == -signal.SIGKILL
    with ServerProcess(functions, folder / "data") as server:
        return wait_ended(server)


def wait_ended(server: ServerProcess) -> list[Any]:
    """Until nothing is left to do: the states of the jobs, how often `count` took effect, and what was told."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found: list[Any] = call_http(server, "query", "m:state", {})
        if all(job["kind"] not in ("pending", "inProgress") for job in found[0]):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def call_http(server: ServerProcess, kind: str, path: str, arguments: dict[str, Any]) -> Any:
    body = json.dumps({"path": path, "args": arguments, "format": "json"}).encode()
    request = urllib.request.Request(f"{server.url}/api/{kind}", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        answer = json.load(response)
    assert answer["status"] == "success", answer
    return answer["value"]


def plan_for_the_next_start(folder: Path, target: str, args: dict[str, Any]) -> None:
    """A job that is due, and that the server which scheduled it could not begin."""

    async def main() -> None:
        functions, data = folder / "functions", folder / "data"
        functions.mkdir()
        (functions / "m.py").write_text(COUNTED)
        backend = Backend(Config(functions_folder=functions, data_folder=data, workers=1, action_workers=1))
        await backend.start()
        try:
            await backend.executor.run_system(pauses.pause)
            arguments = wire_codec.encode({"target": target, "args": args})
            assert (await backend.executor.run_any(Call("m:plan", arguments, public_only=False))).error is None
            await backend.executor.drain(0)
            await backend.executor.run_system(pauses.resume)
        finally:
            await backend.stop()

    asyncio.run(main())


def stored(folder: Path) -> tuple[list[str], int]:
    """What a dead server has left: the jobs' states, and how often `count` took effect."""

    async def main() -> tuple[list[str], int]:
        database = Database(folder / "data" / "store", SystemClock(), Limits())
        try:
            assert database.check(faults) == []
            with database.snapshot() as snapshot:
                transaction = Transaction(snapshot, limits=Limits(), now_ns=0, seed=b"", writable=False)
                jobs = transaction.query("_scheduled_functions").collect()
                return [job["state"]["kind"] for job in jobs], len(transaction.query("effects").collect())
        finally:
            await database.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("failpoint", "state"),
    [
        ("after_validation", "pending"),
        ("after_puts", "pending"),
        ("after_commit", "success"),
        ("after_publication", "success"),
    ],
)
def test_s9_a_mutation_is_run_exactly_once_in_effect(tmp_path: Path, failpoint: str, state: str) -> None:
    """The server is killed after the mutation has run, before its commit or after it."""
    plan_for_the_next_start(tmp_path, "m:count", {})
    assert stored(tmp_path) == (["pending"], 0)
    environment = {"EVOLUTE_FAILPOINT": failpoint}
    with contextlib.closing(
        ServerProcess(tmp_path / "functions", tmp_path / "data", environment=environment)
    ) as server:
        assert server.wait() == -signal.SIGKILL
    assert stored(tmp_path) == ([state], int(state == "success")), "it was killed at another commit than the job's"
    with ServerProcess(tmp_path / "functions", tmp_path / "data") as server:
        assert wait_ended(server) == [[{"kind": "success"}], 1, ["success"]]


def test_s9_a_mutation_that_runs_when_the_server_is_killed_is_run_again(tmp_path: Path) -> None:
    """It is killed in the middle of the function, which the data folder has never heard of."""
    gate = tmp_path / "gate"
    plan_for_the_next_start(tmp_path, "m:count_behind", {"gate": str(gate)})
    for _ in range(2):
        with ServerProcess(tmp_path / "functions", tmp_path / "data", environment=PATIENT) as server:
            server.wait_for("m:count_behind runs")
            server.kill()
        assert stored(tmp_path) == (["pending"], 0)
    gate.touch()
    with ServerProcess(tmp_path / "functions", tmp_path / "data", environment=PATIENT) as server:
        assert wait_ended(server) == [[{"kind": "success"}], 1, ["success"]]


def test_s9_an_action_that_runs_when_the_server_is_killed_is_not_run_again(tmp_path: Path) -> None:
    plan_for_the_next_start(tmp_path, "m:act_for_ever", {"folder": str(tmp_path)})
    with ServerProcess(tmp_path / "functions", tmp_path / "data") as server:
        server.wait_for("m:act_for_ever runs")
        server.kill()
    assert stored(tmp_path) == (["inProgress"], 0)
    with ServerProcess(tmp_path / "functions", tmp_path / "data") as server:
        states, _, tellings = wait_ended(server)
    assert states == [{"kind": "failed", "error": "Transient error while executing action"}]
    assert tellings == ["failed"]
    assert (tmp_path / "lines").read_text() == "effect\n"


@pytest.mark.parametrize("failpoint", ["after_in_progress", "after_action_effect"])
@pytest.mark.parametrize("retried", [False, True])
def test_s10_an_action_is_run_at_most_once_without_a_policy(tmp_path: Path, failpoint: str, retried: bool) -> None:
    target = "m:act_again" if retried else "m:act"
    jobs, _, tellings = crash_and_look(tmp_path, failpoint, target, {"folder": str(tmp_path)})
    lines = (tmp_path / "lines").read_text().split() if (tmp_path / "lines").exists() else []
    ran_before = failpoint == "after_action_effect"
    assert len(lines) == ran_before + retried
    if retried:
        assert [job["kind"] for job in jobs] == tellings == ["success"]
    else:
        assert jobs == [{"kind": "failed", "error": "Transient error while executing action"}]
        assert tellings == ["failed"]
