"""When a batch leaves for the disk: with what arrives in the same turn, or with those who are about to join it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolute.database import departure
from evolute.database.departure import LENGTH_MAX, RUNNING_MIN, Departure
from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from tests.unit.test_committer import begun, opened


class Batch:
    """One that is away once it has left."""

    def __init__(self) -> None:
        self.length = 0
        self.left: list[int] = []
        self.gone = asyncio.Event()
        self.departure = Departure(lambda: self.length, self._leave)

    def _leave(self) -> None:
        if self.length:
            self.left.append(self.length)
            self.gone.set()
        self.length = 0

    async def grow(self, count: int, *, running: int) -> None:
        """So many join in one turn, while so many others run."""
        for _ in range(count):
            self.departure.running = running
            self.length += 1
            self.departure.joined()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departure, "WAIT_S", 3600.0)


@pytest.mark.usefixtures("_patience")
def test_where_few_are_run_it_leaves_with_what_arrives_in_the_same_turn() -> None:
    async def main() -> None:
        batch = Batch()
        await batch.grow(1, running=0)
        await batch.grow(3, running=RUNNING_MIN - 1)
        assert batch.left == [1, 3]

    asyncio.run(main())


@pytest.mark.usefixtures("_patience")
def test_where_many_are_run_it_leaves_when_as_many_are_in_it_as_run_or_very_many() -> None:
    async def main() -> None:
        batch = Batch()
        await batch.grow(3, running=10)
        await batch.grow(6, running=10)
        assert batch.left == []
        await batch.grow(1, running=10)
        assert batch.left == [10]
        await batch.grow(LENGTH_MAX - 1, running=1000)
        assert batch.left == [10]
        await batch.grow(1, running=1000)
        assert batch.left == [10, LENGTH_MAX]
        await batch.grow(2, running=10)
        await batch.grow(1, running=RUNNING_MIN - 1)
        assert batch.left == [10, LENGTH_MAX, 3], "fewer run than it took to wait for them"

    asyncio.run(main())


@pytest.mark.usefixtures("_patience")
def test_a_disk_that_becomes_free_finds_what_has_gathered_meanwhile() -> None:
    async def main() -> None:
        batch = Batch()
        batch.departure.leave_or_wait()
        batch.length, batch.departure.running = 4, RUNNING_MIN
        batch.departure.leave_or_wait()
        assert batch.left == []
        await batch.grow(4, running=RUNNING_MIN)
        batch.length = 30
        batch.departure.leave_or_wait()
        assert batch.left == [8, 30]

    asyncio.run(main())


def test_it_waits_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        batch = Batch()
        await batch.grow(1, running=1000)
        async with asyncio.timeout(10):
            await batch.gone.wait()
        assert batch.left == [1]

    monkeypatch.setattr(departure, "WAIT_S", 0.002)
    asyncio.run(main())


@pytest.mark.usefixtures("_patience")
def test_whoever_needs_an_idle_committer_does_not_wait_for_those_who_might_join(tmp_path: Path) -> None:
    """A serial turn, and the end."""

    async def main() -> None:
        async with opened(tmp_path) as db:

            def put(key: bytes) -> asyncio.Task[int]:
                write_set = WriteSet({key: key}, frozenset({key}))
                commit = db.committer.commit(db.log.published_ts, ReadSet(), write_set, others_running=1000)
                return asyncio.create_task(commit)

            first = put(b"a")
            await begun()
            async with asyncio.timeout(10), db.committer.serially():
                assert first.done()
            last = put(b"b")
            await begun()
            assert db.disk.batches == [[b"a"]]
            async with asyncio.timeout(10):
                await db.committer.close()
                await last

    asyncio.run(main())
