"""A database opens in order, closes in reverse, and goes on where it was when it is opened again."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from evolute.clock import ManualClock
from evolute.database.database import Database
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.database.write_set import WriteSet
from evolute.errors import DiskFault, Overloaded, ShuttingDown, StoreCorrupt
from evolute.limits import Limits
from evolute.storage.keyspace import DEPLOYMENT, LAST_TS
from evolute.storage.lmdb_engine import LmdbEngine
from tests.contracts.model_engine import ModelEngine

LIMITS = Limits(map_bytes_max=64 * 1024 * 1024)

READ_UNTIL_KILLED = """
import sys
from pathlib import Path
from evolute.limits import Limits
from evolute.storage.lmdb_engine import LmdbEngine
engine = LmdbEngine(Path(sys.argv[1]), Limits(map_bytes_max=64 * 1024 * 1024), read_only=True)
reader = engine.reader()
print("reading", flush=True)
sys.stdin.read()
"""


def open_database(path: Path, clock: ManualClock, limits: Limits = LIMITS) -> Database:
    return Database(path / "store", clock, limits, sync=False)


async def commit(database: Database, key: bytes, value: bytes) -> int:
    write_set = WriteSet({key: value}, frozenset({key}))
    with database.snapshot() as snapshot:
        return await database.committer.commit(snapshot.begin_ts, ReadSet(), write_set)


def test_the_first_opening_makes_a_timestamp_and_the_next_goes_on_from_the_last(tmp_path: Path) -> None:
    clock = ManualClock(1_000)

    async def first() -> int:
        database = open_database(tmp_path, clock)
        assert database.log.published_ts == 1_000
        with database.snapshot() as snapshot:
            assert (snapshot.begin_ts, snapshot.get(DEPLOYMENT)) == (1_000, None)
        commit_ts = await commit(database, DEPLOYMENT, b"d")
        with database.snapshot() as snapshot:
            assert (snapshot.begin_ts, snapshot.get(DEPLOYMENT)) == (commit_ts, b"d")
            assert [key for key, _ in snapshot.scan(b"", b"\xff")] == sorted([DEPLOYMENT, LAST_TS])
        assert database.check() == []
        await database.close()
        await database.close()
        return commit_ts

    async def second() -> tuple[int, int]:
        database = open_database(tmp_path, clock)
        published_ts = database.log.published_ts
        later_ts = await commit(database, DEPLOYMENT, b"e")
        await database.close()
        return published_ts, later_ts

    commit_ts = asyncio.run(first())
    clock.set_ns(5)  # the machine's clock went back
    published_ts, later_ts = asyncio.run(second())
    assert published_ts == commit_ts
    assert later_ts == commit_ts + 1


def test_statistics_tell_of_every_part(tmp_path: Path) -> None:
    async def run() -> None:
        database = open_database(tmp_path, ManualClock())
        await commit(database, DEPLOYMENT, b"d")
        statistics = database.statistics()
        assert statistics.engine.entries == 2
        assert statistics.committer.commits == 1
        assert statistics.log.published_ts == database.log.published_ts
        assert statistics.subscriptions.live == 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            statistics.engine = statistics.engine  # type: ignore[misc]
        await database.close()

    asyncio.run(run())


def test_a_closed_database_refuses_what_comes(tmp_path: Path) -> None:
    async def run() -> None:
        database = open_database(tmp_path, ManualClock())
        pending = asyncio.create_task(commit(database, DEPLOYMENT, b"d"))
        await asyncio.sleep(0)
        await database.close()
        assert await pending == database.log.published_ts, "what was under way was finished"
        with pytest.raises(DiskFault):
            database.snapshot()
        with pytest.raises(ShuttingDown):
            await database.committer.commit(0, ReadSet(), WriteSet())

    asyncio.run(run())


def test_a_database_that_fails_to_open_can_be_opened_again(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "store", LIMITS)
    engine.write({b"\x04": b"a row, and no timestamp"})
    engine.close()

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="no last timestamp"):
                open_database(tmp_path, ManualClock())

    asyncio.run(run())


def test_a_snapshot_of_a_store_without_a_timestamp_closes_its_reader() -> None:
    reader = ModelEngine().reader()
    with pytest.raises(StoreCorrupt, match="no last timestamp"):
        Snapshot(reader)
    with pytest.raises(AssertionError):
        reader.get(b"a")


def test_snapshots_are_bounded(tmp_path: Path) -> None:
    async def run() -> None:
        database = open_database(tmp_path, ManualClock(), dataclasses.replace(LIMITS, readers_max=2))
        with database.snapshot(), database.snapshot(), pytest.raises(Overloaded, match="readers_max"):
            database.snapshot()
        database.snapshot().close()
        await database.close()

    asyncio.run(run())


def leave_a_killed_reader(store: Path) -> None:
    command = [sys.executable, "-c", READ_UNTIL_KILLED, str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        process.kill()


def test_readers_are_checked_again_and_again(tmp_path: Path) -> None:
    async def run() -> None:
        database = open_database(tmp_path, ManualClock(), dataclasses.replace(LIMITS, reader_check_ms=1))
        leave_a_killed_reader(tmp_path / "store")
        assert database.statistics().engine.readers == 1
        async with asyncio.timeout(20):
            while database.statistics().engine.readers:  # noqa: ASYNC110 - another process died
                await asyncio.sleep(0.001)
        assert database.check_readers() == 0
        await database.close()

    asyncio.run(run())
