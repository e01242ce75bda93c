"""The committer, on a real store whose disk can be told to wait or to refuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from evolute.clock import NS_PER_MS, ManualClock
from evolute.database.committer import Committer
from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscriptions, Token
from evolute.database.write_log import LogReader, new_write_log
from evolute.database.write_set import WriteSet
from evolute.errors import (
    Conflict,
    EvoluteError,
    FateUnknown,
    OutOfRetention,
    Overloaded,
    ShuttingDown,
    StorageFailed,
    StorageFull,
    StoreCorrupt,
    TooManyWrites,
)
from evolute.limits import Limits
from evolute.storage.keyspace import LAST_TS, decode_number
from evolute.storage.lmdb_engine import LmdbEngine
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, int64_json

MIB = 1024 * 1024


class SlowDisk(LmdbEngine):
    """A store whose writes wait at a gate, and of which each refusal stops one. `batches` are the writes that began."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path, limits)
        self.gate = threading.Event()
        self.gate.set()
        self.refusals: list[EvoluteError] = []
        self.writes_before_refusing = False
        self.batches: list[list[bytes]] = []
        self._begun = threading.Semaphore(0)

    def write(self, puts: Mapping[bytes, bytes | None], *, on_puts: Callable[[], None] | None = None) -> None:
        self.batches.append([key for key in puts if key != LAST_TS])
        self._begun.release()
        self.gate.wait(timeout=10)
        refusal = self.refusals.pop() if self.refusals else None
        if refusal is None or self.writes_before_refusing:
            super().write(puts, on_puts=on_puts)
        if refusal is not None:
            raise refusal

    async def wait_write(self) -> None:
        """Until one more write has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=10)

    def get(self, key: bytes) -> bytes | None:
        reader = self.reader()
        try:
            return reader.get(key)
        finally:
            reader.close()


@dataclass
class Database:
    """What `Database` puts together, with a store that can be told to wait."""

    disk: SlowDisk
    log: LogReader
    committer: Committer
    subscriptions: Subscriptions
    clock: ManualClock
    stopped: list[BaseException] = field(default_factory=list)

    async def put(
        self,
        *keys: bytes,
        read: Iterable[bytes] = (),
        begin_ts: int | None = None,
        serial: bool = False,
        on_published: Callable[[int], None] | None = None,
    ) -> int:
        """Commits a transaction that read `read` and put each of `keys`, with its own name as value."""
        read_set = ReadSet()
        for key in read:
            read_set.add_point(key)
        begin_ts = self.log.published_ts if begin_ts is None else begin_ts
        write_set = WriteSet(dict(zip(keys, keys, strict=True)), frozenset(keys))
        return await self.committer.commit(begin_ts, read_set, write_set, on_published=on_published, serial=serial)


@asynccontextmanager
async def opened(path: Path, limits: Limits | None = None) -> AsyncIterator[Database]:
    limits = limits or Limits(map_bytes_max=64 * MIB)
    disk = SlowDisk(path / "store", limits)
    clock = ManualClock(start_ns=1000)
    log, log_writer = new_write_log(0, limits)
    subscriptions = Subscriptions(log, limits)
    stopped: list[BaseException] = []
    committer = Committer(
        disk, log, log_writer, subscriptions, clock=clock, limits=limits, on_fate_unknown=stopped.append
    )
    try:
        yield Database(disk, log, committer, subscriptions, clock, stopped)
    finally:
        disk.gate.set()
        await committer.close()
        disk.close()


async def all_of(*calls: Awaitable[int]) -> list[int | BaseException]:
    """Results and errors, in order."""
    return await asyncio.gather(*calls, return_exceptions=True)


async def begun(*calls: Coroutine[None, None, int]) -> list[asyncio.Task[int]]:
    """Tasks that have arrived at the committer, in order."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


# --- Commit ----------------------------------------------------------------------------------------------------------


def test_a_commit_is_durable_before_it_is_told_and_told_in_order(tmp_path: Path) -> None:
    """Given somebody who commits, somebody who has read the key and somebody who waits, I expect all three to be told
    in one turn of the loop: no task runs in between, and the caller's own task is the first to go on."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            events: list[str] = []

            def note(event: str) -> None:
                stored = db.disk.get(LAST_TS)
                assert stored is not None
                assert decode_number(stored) == db.log.published_ts
                events.append(event)

            async def call() -> None:
                commit_ts = await db.put(b"a", on_published=lambda ts: note(f"committed {ts}"))
                note(f"returned {commit_ts}")

            read_set = ReadSet()
            read_set.add_point(b"a")
            db.subscriptions.subscribe(Token(read_set, 0), lambda ts: note(f"broken {ts}"))
            db.log.when_published(1000, lambda: note("waiter"))
            await call()
            assert events == ["committed 1000", "broken 1000", "waiter", "returned 1000"]
            assert db.disk.get(b"a") == b"a"

    asyncio.run(main())


def test_timestamps_only_grow(tmp_path: Path) -> None:
    """Given a clock that stands still, goes on and goes back, I expect every commit to be later than the one before."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            stamps = [await db.put(b"a"), await db.put(b"a")]
            db.clock.set_ns(5000)
            stamps.append(await db.put(b"a"))
            db.clock.set_ns(10)
            stamps.append(await db.put(b"a"))
            assert stamps == [1000, 1001, 5000, 5001]

    asyncio.run(main())


def test_a_reader_is_over_at_its_own_timestamp_when_that_is_published(tmp_path: Path) -> None:
    """Given a snapshot newer than what the log has published, I expect its answer to wait for the log."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            told: list[int] = []
            assert await db.put(begin_ts=0, read=[b"a"], on_published=told.append) == 0
            db.disk.gate.clear()
            writer, reader = await begun(db.put(b"a"), db.put(read=[b"a"], begin_ts=1000, on_published=told.append))
            await db.disk.wait_write()
            assert not reader.done()
            db.disk.gate.set()
            assert await all_of(writer, reader) == [1000, 1000]
            assert told == [0, 1000]
            assert db.committer.statistics().commits == 1

    asyncio.run(main())


def test_stamped_values_get_the_timestamp_of_their_own_commit(tmp_path: Path) -> None:
    """Given two commits in one batch that put the same key, I expect the later value, and each its own stamp."""

    async def main() -> None:
        async with opened(tmp_path) as db:

            async def stamp(*keys: bytes) -> int:
                puts = dict.fromkeys(keys, b'{"at":' + COMMIT_TS_PLACEHOLDER + b"}")
                return await db.committer.commit(0, ReadSet(), WriteSet(puts, frozenset(puts), dict.fromkeys(keys, 1)))

            assert await all_of(stamp(b"a", b"b"), stamp(b"b", b"c")) == [1000, 1001]
            assert db.disk.batches == [[b"a", b"b", b"c"]]
            assert db.disk.get(b"a") == b'{"at":' + int64_json(1000) + b"}"
            assert db.disk.get(b"b") == b'{"at":' + int64_json(1001) + b"}"

    asyncio.run(main())


def test_as_many_stamps_are_made_as_the_write_set_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            puts: dict[bytes, bytes | None] = dict.fromkeys((b"a", b"b", b"c"), COMMIT_TS_PLACEHOLDER * 3)
            await db.committer.commit(0, ReadSet(), WriteSet(puts, frozenset(puts), {b"b": 1, b"c": 3}))
            assert db.disk.get(b"a") == COMMIT_TS_PLACEHOLDER * 3
            assert db.disk.get(b"b") == int64_json(1000) + COMMIT_TS_PLACEHOLDER * 2
            assert db.disk.get(b"c") == int64_json(1000) * 3

    asyncio.run(main())


def test_a_cancelled_caller_does_not_undo_its_commit(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            (task,) = await begun(db.put(b"a"))
            task.cancel()
            await db.put(b"b")
            assert task.cancelled()
            assert db.disk.get(b"a") == b"a"

    asyncio.run(main())


# --- Conflict --------------------------------------------------------------------------------------------------------


def test_a_published_touch_of_what_was_read_is_a_conflict(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            await db.put(b"a")
            with pytest.raises(Conflict) as caught:
                await db.put(b"b", read=[b"x", b"a"], begin_ts=999)
            assert (caught.value.key, caught.value.commit_ts) == (b"a", 1000)
            await db.put(b"b", read=[b"x", b"a"], begin_ts=1000)
            await db.put(b"b", begin_ts=999)

    asyncio.run(main())


def test_a_pending_touch_is_a_conflict_at_once(tmp_path: Path) -> None:
    """Given a winner whose write the disk has not done yet, I expect the loser to hear of it without waiting."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.gate.clear()
            winner, loser = await begun(db.put(b"a"), db.put(b"b", read=[b"a"]))
            with pytest.raises(Conflict) as caught:
                await loser
            assert not winner.done()
            assert (caught.value.key, caught.value.commit_ts) == (b"a", 1000)
            db.disk.gate.set()
            await db.log.wait_published(caught.value.commit_ts)
            assert await db.put(b"b", read=[b"a"]) == 1001
            assert db.committer.statistics().conflicts == 1
            await winner

    asyncio.run(main())


def test_a_transaction_older_than_the_log_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, log_keys_max=1, log_run_keys_max=1)) as db:
            for key in (b"a", b"b", b"c"):
                await db.put(key)
            with pytest.raises(OutOfRetention, match="log_keys_max=1"):
                await db.put(b"d", read=[b"x"], begin_ts=1000)

    asyncio.run(main())


# --- Batches ---------------------------------------------------------------------------------------------------------


def test_what_arrives_while_the_disk_works_is_one_batch(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.gate.clear()
            tasks = await begun(db.put(b"a"), db.put(b"b"))
            await db.disk.wait_write()
            tasks += await begun(db.put(b"c"), db.put(b"d"), db.put(b"e"))
            assert db.committer.statistics().queue_length == 5
            db.disk.gate.set()
            assert await all_of(*tasks) == [1000, 1001, 1002, 1003, 1004]
            assert db.disk.batches == [[b"a", b"b"], [b"c", b"d", b"e"]]
            assert db.committer.statistics().queue_length == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    "limits",
    [
        Limits(map_bytes_max=64 * MIB, commit_batch_length_max=2),
        Limits(map_bytes_max=64 * MIB, commit_batch_bytes_max=4),
    ],
    ids=["length", "bytes"],
)
def test_a_batch_is_bounded(tmp_path: Path, limits: Limits) -> None:
    async def main() -> None:
        async with opened(tmp_path, limits) as db:
            await all_of(*(db.put(key) for key in (b"a", b"b", b"c", b"d", b"e")))
            assert db.disk.batches == [[b"a", b"b"], [b"c", b"d"], [b"e"]]

    asyncio.run(main())


@pytest.mark.parametrize("name", ["commit_queue_length_max", "commit_queue_bytes_max"])
def test_the_queue_is_bounded(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, **{name: 4})) as db:
            keys = [b"a", b"b", b"c", b"d", b"e"] if name == "commit_queue_length_max" else [b"a", b"b", b"e"]
            *accepted, refused = await all_of(*(db.put(key) for key in keys))
            assert accepted == list(range(1000, 1000 + len(accepted)))
            assert isinstance(refused, Overloaded)
            assert name in str(refused)
            await db.put(b"much too long")  # but alone it may pass

    asyncio.run(main())


def test_a_second_takes_so_many_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, write_bytes_per_s_max=8)) as db:
            assert await all_of(*(db.put(key) for key in (b"a", b"b", b"c"))) == [1000, 1001, 1002]
            with pytest.raises(TooManyWrites, match=r"no more than 8 bytes .*`write_bytes_per_s_max`"):
                await db.put(b"more")
            db.clock.set_ns(db.clock.now_ns() + 750 * NS_PER_MS)
            await db.put(b"more")
            with pytest.raises(TooManyWrites):
                await db.put(b"d")
            assert db.committer.statistics().queue_length == 0

    asyncio.run(main())


def test_a_commit_larger_than_a_second_takes_passes_after_a_second_without_any(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, write_bytes_per_s_max=8)) as db:
            await db.put(b"longer than eight")
            db.clock.set_ns(db.clock.now_ns() + 1000 * NS_PER_MS)
            with pytest.raises(TooManyWrites):
                await db.put(b"a")
            db.clock.set_ns(db.clock.now_ns() + 3000 * NS_PER_MS)
            await db.put(b"a")

    asyncio.run(main())


# --- Failure ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_the_disk_refuses_never_happened(tmp_path: Path) -> None:
    """Given a full disk, I expect the batch to fail, the later pending commit to stand, and who lost against the batch
    to be free to run again."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            await db.put(b"z")
            db.disk.gate.clear()
            doomed = await begun(db.put(b"a"), db.put(b"b"))
            await db.disk.wait_write()
            await db.disk.wait_write()
            later, loser = await begun(db.put(b"c"), db.put(b"d", read=[b"a"]))
            with pytest.raises(Conflict) as lost:
                await loser
            waiting = asyncio.create_task(db.log.wait_published(lost.value.commit_ts))
            db.disk.refusals = [StorageFull("no room")]
            db.disk.gate.set()
            outcomes = await all_of(*doomed)
            assert [str(outcome) for outcome in outcomes] == ["no room", "no room"]
            assert all(type(outcome) is StorageFull for outcome in outcomes)

            await waiting
            assert db.log.published_ts in (1000, 1003), "before the later one, or after it if the disk was fast"
            assert await db.put(b"d", read=[b"a"], begin_ts=1000) == 1004
            assert await later == 1003
            assert db.disk.get(b"a") is None
            assert db.committer.statistics().failed_batches == 1
            assert db.stopped == []

    asyncio.run(main())


def test_a_full_map_is_no_disaster(tmp_path: Path) -> None:
    """Given a store with room for one large value, I expect the second to be refused and smaller ones to go on."""

    async def main() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=1 * MIB)) as db:
            large = WriteSet({b"large": bytes(600 * 1024)}, frozenset({b"large"}))
            await db.committer.commit(0, ReadSet(), large)
            with pytest.raises(StorageFull):
                await db.committer.commit(0, ReadSet(), WriteSet({b"l2": bytes(600 * 1024)}, frozenset({b"l2"})))
            await db.put(b"small")
            assert db.disk.get(b"small") == b"small"
            assert db.stopped == []

    asyncio.run(main())


def test_a_failure_that_the_store_contradicts_stops_everything(tmp_path: Path) -> None:
    """Given an engine that says it failed but has written, I expect nobody to be told that nothing happened."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.refusals, db.disk.writes_before_refusing = [StorageFailed("so it says")], True
            (outcome,) = await all_of(db.put(b"a"))
            assert isinstance(outcome, FateUnknown)
            assert "the store holds it" in str(outcome)
            assert len(db.stopped) == 1

    asyncio.run(main())


@pytest.mark.parametrize("error", [FateUnknown("who knows"), StoreCorrupt("a page is gone")], ids=["fate", "other"])
def test_an_unknown_fate_stops_everything(tmp_path: Path, error: EvoluteError) -> None:
    """Given a batch with the disk, one that forms, a held arrival and a serial turn that waits, I expect all of them to
    hear that nothing is known, the process to be told once, and nothing to be written any more."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.gate.clear()
            tasks = await begun(db.put(b"a"))
            await db.disk.wait_write()
            tasks += await begun(db.put(b"b"))

            async def take_turn() -> int:
                async with db.committer.serially():
                    raise AssertionError("the turn must not begin")

            tasks += await begun(take_turn())
            tasks += await begun(db.put(b"c"))
            assert db.committer.statistics().held == 1
            db.disk.refusals = [error]
            db.disk.gate.set()
            outcomes = await all_of(*tasks)
            assert [type(outcome) for outcome in outcomes] == [FateUnknown] * 4
            assert len(db.stopped) == 1
            assert isinstance(db.stopped[0], FateUnknown)
            with pytest.raises(FateUnknown):
                await db.put(b"d")
            assert db.disk.batches == [[b"a"]]

    asyncio.run(main())


def test_a_listener_that_raises_stops_everything(tmp_path: Path) -> None:
    """Given a bug in a listener, somebody may not have been told of a commit: the process must not go on."""

    async def main() -> None:
        async with opened(tmp_path) as db:

            def broken_listener(commit_ts: int) -> None:
                raise KeyError("bug")

            outcomes = await all_of(db.put(b"a", on_published=broken_listener), db.put(b"b"))
            assert [type(outcome) for outcome in outcomes] == [FateUnknown, FateUnknown]
            assert len(db.stopped) == 1
            assert isinstance(db.stopped[0].__cause__, KeyError)

    asyncio.run(main())


# --- Serial turns ----------------------------------------------------------------------------------------------------


def test_in_a_serial_turn_nobody_can_overtake(tmp_path: Path) -> None:
    """Given a call that always loses, I expect it to win inside a serial turn; those who came meanwhile are validated
    after it, in order, and lose against it where they read what it wrote."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.gate.clear()
            (before,) = await begun(db.put(b"hot"))
            entered = asyncio.Event()
            held: list[asyncio.Task[int]] = []

            async def stubborn() -> int:
                async with db.committer.serially():
                    assert before.done()
                    entered.set()
                    held.extend(await begun(db.put(b"hot", read=[b"hot"]), db.put(b"cold"), db.put(b"hot")))
                    assert db.committer.statistics().held == 3
                    commit_ts = await db.put(b"hot", read=[b"hot"], serial=True)
                    assert not any(task.done() for task in held)
                    return commit_ts

            (task,) = await begun(stubborn())
            assert not entered.is_set()
            db.disk.gate.set()
            assert await task == 1001
            outcomes = await all_of(*held)
            assert isinstance(outcomes[0], Conflict)
            assert (outcomes[0].key, outcomes[0].commit_ts) == (b"hot", 1001)
            assert outcomes[1:] == [1002, 1003]
            await before

    asyncio.run(main())


def test_serial_turns_are_taken_in_order_and_always_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            turns: list[str] = []

            async def turn(name: str, *, fails: bool = False) -> int:
                async with db.committer.serially():
                    turns.append(name)
                    await asyncio.sleep(0)
                    if fails:
                        raise ValueError(name)
                    return await db.put(name.encode(), serial=True)

            tasks = await begun(turn("a"), turn("b", fails=True), turn("c"))
            arrival = asyncio.create_task(db.put(b"x"))
            outcomes = await all_of(*tasks, arrival)
            assert turns == ["a", "b", "c"]
            assert [type(outcome) for outcome in outcomes] == [int, ValueError, int, int]
            assert outcomes[3] == 1001  # not behind all three: it was held by the first turn alone

    asyncio.run(main())


def test_a_held_arrival_whose_caller_has_gone_is_dropped(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            async with db.committer.serially():
                gone, stays = await begun(db.put(b"gone"), db.put(b"stays"))
                gone.cancel()
                await asyncio.sleep(0)
            assert await stays == 1000
            assert db.disk.get(b"gone") is None
            assert db.committer.statistics().queue_length == 0

    asyncio.run(main())


# --- Close -----------------------------------------------------------------------------------------------------------


def test_close_finishes_what_is_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.gate.clear()
            tasks = await begun(db.put(b"a"))
            await db.disk.wait_write()
            tasks += await begun(db.put(b"b"))
            closing = asyncio.create_task(db.committer.close())
            await asyncio.sleep(0)
            with pytest.raises(ShuttingDown):
                await db.put(b"c")
            with pytest.raises(ShuttingDown):
                async with db.committer.serially():
                    pass
            assert not closing.done()
            db.disk.gate.set()
            await closing
            assert await all_of(*tasks) == [1000, 1001]
            await db.committer.close()

    asyncio.run(main())


def test_close_waits_for_a_serial_turn_and_for_those_it_holds(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            async with db.committer.serially():
                (held,) = await begun(db.put(b"a"))
                closing = asyncio.create_task(db.committer.close())
                await asyncio.sleep(0)
                assert not closing.done()
            await closing
            assert await held == 1000

    asyncio.run(main())
