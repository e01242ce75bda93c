"""Publishing code is a commit: the pool switches in its turn, and a folder that does not load changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Token
from evolute.errors import DefinitionError
from evolute.registry.loader import read_folder
from evolute.storage.keyspace import DEPLOYMENT
from evolute.system import deployments
from tests.end_to_end.backend_under_test import QUICK, BackendUnderTest
from tests.end_to_end.server_process import alive
from tests.unit.function_store import call, write_folder


def version(number: int) -> dict[str, str]:
    """Code that says which version it is, and writes it down."""
    return {
        "m.py": f"""
VERSION = {number}

@query
def version(ctx: QueryCtx) -> int:
    ctx.db.query("notes").first()
    return VERSION

@query
def versions(ctx: QueryCtx) -> list[int]:
    return [note["version"] for note in ctx.db.query("notes").collect()]

@mutation
def note(ctx: MutationCtx) -> int:
    ctx.db.insert("notes", {{"version": VERSION}})
    return VERSION
"""
    }


SLOW = {"slow.py": "import time\ntime.sleep(30)"}
BROKEN = {"m.py": "def nothing(:"}
INDEXED = {
    "schema.py": """
from evolute import Document, define_schema, define_table

class Note(Document):
    version: str

schema = define_schema(notes=define_table(Note).index("by_version", ["version"]))
"""
}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_the_pool_switches_in_the_turn_that_publishes_the_record(tmp_path: Path) -> None:
    """Whoever is told that the code is new finds the new code."""

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(1)) as served:
            backend, told = served.backend, list[tuple[str | None, int]]()
            read_set = ReadSet()
            read_set.add_point(DEPLOYMENT)

            def on_broken(commit_ts: int) -> None:
                told.append((backend.pool.deployment, backend.database.log.published_ts - commit_ts))

            backend.database.subscriptions.subscribe(Token(read_set, backend.database.log.published_ts), on_broken)
            write_folder(served.functions, version(2))
            new = read_folder(served.functions, QUICK).hash
            report = await backend.deployer.deploy(served.functions)
            assert told == [(new, 0)]
            assert (backend.report.deployment, report.deployment) == (new, new)
            assert await served.query("m:version") == 2

    run(scenario)


def test_calls_never_fail_and_never_meet_old_code_again_while_it_is_switched(tmp_path: Path) -> None:
    """Workers of either generation refuse snapshots that belong to the other one's code; the calls run again."""

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(1)) as served:
            seen: list[list[int]] = []
            finished = asyncio.Event()

            async def keep_calling() -> None:
                mine: list[int] = []
                seen.append(mine)
                while not finished.is_set():
                    mine.append(await served.mutate("m:note"))
                    mine.append(await served.query("m:version"))

            calling = [asyncio.create_task(keep_calling()) for _ in range(4)]
            for number in (2, 3, 4):
                write_folder(served.functions, version(number))
                await served.backend.deployer.deploy(served.functions)
                assert await served.query("m:version") == number
            finished.set()
            await asyncio.gather(*calling)
            for mine in seen:
                assert mine == sorted(mine)
            written = await served.query("m:versions")
            assert written == sorted(written)
            assert len(written) == sum(len(mine) for mine in seen) // 2

    run(scenario)


@pytest.mark.parametrize("fault", ["it does not load", "a row does not match its schema"])
def test_a_deployment_that_fails_leaves_the_old_one_serving(tmp_path: Path, fault: str) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(1)) as served:
            assert await served.mutate("m:note") == 1
            before = served.pids
            write_folder(served.functions, BROKEN if fault == "it does not load" else {**version(2), **INDEXED})
            with pytest.raises(DefinitionError, match=r"SyntaxError|Document with ID"):
                await served.backend.deployer.deploy(served.functions)
            assert served.pids == before
            assert await served.query("m:versions") == [1]
            assert await served.query("m:version") == 1

    run(scenario)


def test_a_newer_deployment_replaces_one_that_is_being_prepared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(1)) as served:
            deployer, pool = served.backend.deployer, served.backend.pool
            write_folder(served.functions, SLOW)
            first = asyncio.create_task(deployer.deploy(served.functions))
            async with asyncio.timeout(20):
                while len(served.pids) < 5:  # noqa: ASYNC110 - a process has no event
                    await asyncio.sleep(0.01)
            pids = set(served.pids)
            (served.functions / "slow.py").unlink()
            write_folder(served.functions, version(2))
            await deployer.deploy(served.functions)
            assert await served.query("m:version") == 2
            with pytest.raises(asyncio.CancelledError):
                await first
            assert pool.deployment == read_folder(served.functions, QUICK).hash
            async with asyncio.timeout(20):
                while any(map(alive, pids)):  # noqa: ASYNC110 - nor has its end
                    await asyncio.sleep(0.01)
            assert pool.statistics().deaths == 0

    run(scenario)


def test_of_many_saves_the_last_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(0)) as served:
            deploys = []
            for number in range(1, 6):
                write_folder(served.functions, version(number))
                deploys.append(asyncio.create_task(served.backend.deployer.deploy(served.functions)))
                await asyncio.sleep(0.05)
            reports = await asyncio.gather(*deploys, return_exceptions=True)
            assert not isinstance(reports[-1], BaseException)
            assert await served.query("m:version") == 5
            assert served.backend.pool.deployment == read_folder(served.functions, QUICK).hash

    run(scenario)


def test_the_code_that_was_served_last_is_kept_in_the_data_folder(tmp_path: Path) -> None:
    """A server that starts on a broken folder says so, and serves what it served before."""

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(1)) as served:
            await served.mutate("m:note")
            backend = served.backend
        write_folder(served.functions, BROKEN)
        again = BackendUnderTest(tmp_path, {})
        fault = await again.backend.start()
        try:
            assert fault is not None
            assert "SyntaxError" in str(fault)
            assert await again.query("m:versions") == [1]
            assert again.backend.pool.deployment == backend.pool.deployment
        finally:
            await again.backend.stop()

    run(scenario)


def test_without_any_code_there_are_no_functions(tmp_path: Path) -> None:
    async def scenario() -> None:
        served = BackendUnderTest(tmp_path, BROKEN)
        assert await served.backend.start() is not None
        try:
            error = await served.error("m:version", "query")
            assert error.message == "Could not find public function for 'm:version'."
            write_folder(served.functions, version(1))
            await served.backend.deployer.deploy(served.functions)
            assert await served.query("m:version") == 1
        finally:
            await served.backend.stop()

    run(scenario)


def test_a_deployment_that_is_active_already_is_no_commit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, version(1)) as served:
            before_ts = served.backend.database.log.published_ts
            await served.backend.deployer.deploy(served.functions)
            assert served.backend.database.log.published_ts == before_ts
            run = await served.backend.executor.run_system(deployments.active)
            assert run.value == served.backend.pool.deployment
            _, results = await served.backend.executor.queries_at([call("m:version", "query")], [], at_least_ts=0)
            assert [result.value for result in results.values()] == [b"1"]

    run(scenario)
