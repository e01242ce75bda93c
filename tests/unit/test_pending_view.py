"""What is pending, laid over the store: how it reads, who may see it, and what becomes of those who did if it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.database.commit_batch import Arrival
from evolute.database.pending_view import NOTHING_SHOWN, PendingView, new_part
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, StorageFull, Withdrawn
from evolute.limits import KIB, MIB, Limits
from evolute.storage.keyspace import LAST_TS, encode_number
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, int64_json
from tests.contracts.model_engine import ModelEngine
from tests.unit.test_committer import Database, begun, opened

KEYS = st.binary(max_size=2).map(lambda end: b"k" + end)
PUTS = st.dictionaries(KEYS, st.none() | st.binary(max_size=3), max_size=6)

# --- Reading ---------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(KEYS, st.binary(max_size=3), max_size=8), st.lists(PUTS, max_size=4), st.integers(0, 4), KEYS, KEYS
)
def test_a_snapshot_with_a_view_is_the_store_as_it_will_be(
    stored: dict[bytes, bytes],
    commits: list[dict[bytes, bytes | None]],
    durable: int,
    start: bytes,
    end: bytes,
) -> None:
    """Some of the commits are durable by the time that the snapshot is taken."""
    engine, durable = ModelEngine(), min(durable, len(commits))
    engine.write({**stored, LAST_TS: encode_number(100)})
    for number, puts in enumerate(commits[:durable], 101):
        engine.write({**puts, LAST_TS: encode_number(number)})
    expected = dict(stored)
    for puts in commits:
        expected |= {key: value for key, value in puts.items() if value is not None}
        expected = {key: value for key, value in expected.items() if puts.get(key, value) is not None}
    view = PendingView(7, 100 + durable, tuple(enumerate(commits, 101)))
    with Snapshot(engine.reader(), PendingView(*view.to_wire())) as snapshot:
        assert snapshot.begin_ts == 100 + len(commits)
        for key in {*stored, *(key for puts in commits for key in puts), start, end}:
            assert snapshot.get(key) == expected.get(key)
        rows = sorted((key, value) for key, value in expected.items() if start <= key < end)
        assert list(snapshot.scan(start, end)) == rows
        assert list(snapshot.scan(start, end, reverse=True)) == rows[::-1]


@given(st.lists(st.tuples(st.lists(PUTS, max_size=3), st.integers(0, 3), st.booleans()), max_size=6))
def test_what_is_shown_in_parts_is_what_is_pending(
    steps: list[tuple[list[dict[bytes, bytes | None]], int, bool]],
) -> None:
    """Between two looks commits are begun, others become durable, a batch may be withdrawn. Whoever is shown what is
    new to him knows all that is pending, and no more than that."""
    shown, mark, withdrawals, durable_ts = NOTHING_SHOWN, NOTHING_SHOWN.mark, 0, 0
    commits: list[tuple[int, dict[bytes, bytes | None]]] = []
    last_ts = 0
    for new, durable, withdrawn in steps:
        for puts in new:
            last_ts += 1
            commits.append((last_ts, puts))
        done, commits = commits[:durable], commits[durable:]
        durable_ts = done[-1][0] if done else durable_ts
        if withdrawn:
            withdrawals, commits = withdrawals + 1, commits[1:]
        view = PendingView(withdrawals, durable_ts, tuple(commits))
        newest_first = [SimpleNamespace(commit_ts=ts, puts=lambda puts=puts: puts) for ts, puts in reversed(commits)]
        part = new_part(mark, withdrawals, durable_ts, newest_first)
        assert withdrawn or all(ts > mark.ts for ts, _ in part.commits), "nothing is shown twice"
        mark = part.mark_after(mark)
        shown = shown.joined(PendingView(*part.to_wire()))
        assert shown == view


def test_a_snapshot_says_whether_it_has_something_of_the_view() -> None:
    engine = ModelEngine()
    engine.write({b"a": b"1", LAST_TS: encode_number(100)})
    for view, seen, begin_ts in (
        (None, None, 100),
        (PendingView(3, 100), None, 100),
        (PendingView(3, 99, ((100, {b"a": b"0"}),)), None, 100),
        (PendingView(3, 99, ((100, {b"a": b"0"}), (101, {b"a": b"2"}))), 3, 101),
    ):
        with Snapshot(engine.reader(), view) as snapshot:
            assert (snapshot.seen, snapshot.begin_ts) == (seen, begin_ts)
            assert snapshot.get(b"a") == (b"1" if seen is None else b"2")


def test_what_an_arrival_changes_has_its_timestamp() -> None:
    async def main() -> None:
        write_set = WriteSet({b"a": COMMIT_TS_PLACEHOLDER, b"b": b"2"}, frozenset({b"a", b"b"}), {b"a": 1})
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        arrival = Arrival(1, ReadSet(), write_set, None, done)
        arrival.commit_ts = 17
        assert arrival.puts() == {b"a": int64_json(17), b"b": b"2"}

    asyncio.run(main())


# --- The committer's view --------------------------------------------------------------------------------------------


async def founded(db: Database, key: bytes, *, read: bytes, seen: int, validated: list[bytes] | None = None) -> int:
    """Commits a put of a transaction that has seen all that was pending when it was begun, and read `read`."""
    read_set = ReadSet()
    read_set.add_point(read)

    def on_validated(follows: bool) -> None:
        if validated is not None:
            validated.append(key)

    write_set = WriteSet({key: key}, frozenset({key}))
    begin_ts = db.committer.last_pending_ts
    return await db.committer.commit(begin_ts, read_set, write_set, seen=seen, on_validated=on_validated)


def test_the_view_is_what_is_being_written_and_what_forms(tmp_path: Path) -> None:
    """Given a batch with the disk and one behind it, who has seen both passes, and becomes durable after them."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            assert db.committer.pending_view() == PendingView(0, 0)
            db.disk.gate.clear()
            (first,) = await begun(db.put(b"a"))
            await db.disk.wait_write()
            (second,) = await begun(db.put(b"b", read=[b"z"]))
            assert db.committer.pending_view() == PendingView(0, 0, ((1000, {b"a": b"a"}), (1001, {b"b": b"b"})))
            with pytest.raises(Conflict):
                await db.put(b"c", read=[b"a"])
            validated: list[bytes] = []
            (third,) = await begun(founded(db, b"c", read=b"a", seen=0, validated=validated))
            assert validated == [b"c"], "in the turn in which it arrived, long before it is durable"
            assert not third.done()
            db.disk.gate.set()
            assert [await task for task in (first, second, third)] == [1000, 1001, 1002]
            assert db.disk.batches == [[b"a"], [b"b", b"c"]]
            assert db.committer.pending_view() == PendingView(0, 1002)

    asyncio.run(main())


def test_more_than_a_view_may_hold_is_not_shown(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, pending_view_bytes_max=4)) as db:
            db.disk.gate.clear()
            first = await begun(db.put(b"a"))
            await db.disk.wait_write()
            second = await begun(db.put(b"b"))
            assert db.committer.pending_view() is not None, "pending_view_bytes_max is just reached"
            third = await begun(db.put(b"c"))
            assert db.committer.pending_view() is None
            db.disk.gate.set()
            await asyncio.gather(*first, *second, *third)
            assert db.committer.pending_view() == PendingView(0, 1002)

    asyncio.run(main())


def test_a_view_is_no_more_than_a_request_can_carry() -> None:
    with pytest.raises(ValueError, match="pending_view_bytes_max"):
        Limits(
            arguments_bytes_max=4 * KIB, result_bytes_max=KIB, frame_bytes_max=8 * KIB, pending_view_bytes_max=8 * KIB
        )


# --- Commits that the disk refuses -----------------------------------------------------------------------------------


def test_who_was_founded_on_a_refused_commit_is_withdrawn_with_it(tmp_path: Path) -> None:
    """Given a refused batch, I expect those behind it that had seen it, or what rests on it, to be run again, those
    that had seen the store alone to stand, and whoever arrives later with what he has seen of it to be refused."""

    async def main() -> None:
        async with opened(tmp_path) as db:
            await db.put(b"z")
            db.disk.gate.clear()
            doomed = await begun(db.put(b"a"))
            await db.disk.wait_write()
            await db.disk.wait_write()
            behind = await begun(
                founded(db, b"b", read=b"a", seen=0),
                db.put(b"c", read=[b"z"]),
                founded(db, b"d", read=b"b", seen=0),
            )
            reader_ts = db.committer.last_pending_ts
            reader = await begun(db.committer.commit(reader_ts, ReadSet(), WriteSet(), seen=0))
            db.disk.refusals = [StorageFull("no room")]
            db.disk.gate.set()
            outcomes = await asyncio.gather(*doomed, *behind, *reader, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StorageFull, Withdrawn, int, Withdrawn, Withdrawn]
            with pytest.raises(Withdrawn):
                await founded(db, b"e", read=b"a", seen=0)
            assert await founded(db, b"e", read=b"a", seen=1) == db.log.published_ts
            assert [db.disk.get(key) for key in (b"a", b"b", b"c", b"d", b"e")] == [None, None, b"c", None, b"e"]
            statistics = db.committer.statistics()
            assert (statistics.queue_length, statistics.queue_bytes) == (0, 0)
            assert db.stopped == []

    asyncio.run(main())


def test_a_batch_of_which_nothing_is_left_settles_its_timestamps(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            db.disk.gate.clear()
            doomed = await begun(db.put(b"a"))
            await db.disk.wait_write()
            behind = await begun(founded(db, b"b", read=b"a", seen=0))
            waits = asyncio.create_task(db.log.wait_published(1001))
            db.disk.refusals = [StorageFull("no room")]
            db.disk.gate.set()
            outcomes = await asyncio.gather(*doomed, *behind, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [StorageFull, Withdrawn]
            await waits
            assert db.log.published_ts == 1001
            assert await db.put(b"b", read=[b"a"]) == 1002

    asyncio.run(main())
