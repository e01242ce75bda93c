"""The write log answers as a list of all commits would, forgets only what it says it forgot, and wakes its waiters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evolute.clock import NS_PER_MS, NS_PER_S
from evolute.database.conflict import Touch
from evolute.database.read_set import ReadSet
from evolute.database.write_log import LogReader, LogWriter, new_write_log
from evolute.errors import OutOfRetention
from evolute.limits import Limits

KEYS = st.sampled_from([bytes([letter]) for letter in b"abcdefghijkl"])


def reading(*keys: bytes) -> ReadSet:
    read_set = ReadSet()
    for key in keys:
        read_set.add_point(key)
    return read_set


def commit(writer: LogWriter, commit_ts: int, *keys: bytes) -> None:
    """A batch of one, published."""
    writer.begin_batch()
    writer.append(commit_ts, keys)
    writer.publish(commit_ts)


@dataclass
class Batch:
    """The model's: all commits ever made, walked entry by entry."""

    commits: list[tuple[int, frozenset[bytes]]] = field(default_factory=list)
    state: str = "pending"

    @property
    def last_ts(self) -> int:
        return self.commits[-1][0]


class AgainstAWalk(RuleBasedStateMachine):
    """Small bounds, so that runs are merged and dropped all the time."""

    START_TS = 1000

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits(log_run_keys_max=6, log_keys_max=16, log_retention_ms=40)
        self.reader, self.writer = new_write_log(self.START_TS, self.limits)
        self.batches: list[Batch] = []
        self.last_ts = self.START_TS
        self.sealed = True

    def pending(self) -> list[Batch]:
        return [batch for batch in self.batches if batch.state == "pending"]

    def touches(self, read_set: ReadSet, after_ts: int, *states: str) -> dict[bytes, int]:
        """Every key of the read set that was touched later than `after_ts`, with the last commit that did."""
        return {
            key: commit_ts
            for batch in self.batches
            if batch.state in states
            for commit_ts, keys in batch.commits
            if commit_ts > after_ts
            for key in keys
            if read_set.contains(key)
        }

    @rule(keys=st.frozensets(KEYS, max_size=4), pause_ms=st.sampled_from([0, 0, 0, 1, 15]))
    def append(self, keys: frozenset[bytes], pause_ms: int) -> None:
        if self.sealed or not self.pending():
            self.writer.begin_batch()
            self.batches.append(Batch())
            self.sealed = False
        self.last_ts += 1 + pause_ms * NS_PER_MS
        self.writer.append(self.last_ts, keys)
        self.batches[-1].commits.append((self.last_ts, keys))

    @rule()
    def seal(self) -> None:
        self.sealed = True

    @precondition(lambda self: bool(self.pending()))
    @rule()
    def publish(self) -> None:
        batch = self.pending()[0]
        self.writer.publish(batch.last_ts)
        batch.state = "published"

    @precondition(lambda self: bool(self.pending()))
    @rule()
    def withdraw(self) -> None:
        batch = self.pending()[0]
        self.writer.withdraw(batch.last_ts)
        batch.state = "withdrawn"

    @rule(points=st.sets(KEYS, max_size=2), ranges=st.lists(st.tuples(KEYS, KEYS), max_size=2), back=st.integers(0, 12))
    def ask(self, points: set[bytes], ranges: list[tuple[bytes, bytes]], back: int) -> None:
        read_set = reading(*points)
        for start, end in ranges:
            read_set.add_range(start, end)
        moments = [self.START_TS, *(commit_ts for batch in self.batches for commit_ts, _ in batch.commits)]
        after_ts = moments[max(-len(moments), -1 - back)]

        if after_ts < self.reader.statistics().floor_ts:
            with pytest.raises(OutOfRetention):
                self.reader.first_touch(read_set, after_ts)
        else:
            touch = self.reader.first_touch(read_set, after_ts)
            self.assert_right(touch, self.touches(read_set, after_ts, "pending", "published"))
            touch = self.reader.first_published_touch(read_set, after_ts)
            self.assert_right(touch, self.touches(read_set, after_ts, "published"))

    def assert_right(self, touch: Touch | None, touches: dict[bytes, int]) -> None:
        assert (touch is None) == (not touches)
        assert touch is None or touches[touch.key] == touch.commit_ts

    @invariant()
    def numbers_are_right(self) -> None:
        statistics = self.reader.statistics()
        published = [batch.last_ts for batch in self.batches if batch.state == "published"]
        assert statistics.published_ts == max(published, default=self.START_TS)
        assert statistics.pending_commits == sum(len(batch.commits) for batch in self.pending())
        assert statistics.keys <= self.limits.log_keys_max
        assert self.START_TS <= statistics.floor_ts <= statistics.published_ts


TestAgainstAWalk = AgainstAWalk.TestCase
TestAgainstAWalk.settings = settings(max_examples=100, stateful_step_count=50)


def test_it_forgets_what_is_older_than_the_retention() -> None:
    """Time is that of the commits: nothing is forgotten while none is made."""
    reader, writer = new_write_log(0, Limits(log_retention_ms=1000, log_run_keys_max=1))
    commit(writer, 1 * NS_PER_S, b"a")
    commit(writer, 2 * NS_PER_S, b"b")
    assert reader.first_touch(reading(b"a"), 0) == Touch(b"a", 1 * NS_PER_S)

    commit(writer, 2 * NS_PER_S + 1, b"c")
    with pytest.raises(OutOfRetention, match="log_retention_ms=1000"):
        reader.first_touch(reading(b"c"), 1 * NS_PER_S - 1)
    assert reader.first_touch(reading(b"c"), 1 * NS_PER_S) == Touch(b"c", 2 * NS_PER_S + 1)


def test_it_forgets_the_oldest_when_there_are_too_many_keys() -> None:
    reader, writer = new_write_log(0, Limits(log_keys_max=10, log_run_keys_max=1))
    for commit_ts in range(1, 21):
        commit(writer, commit_ts, b"%d" % commit_ts)
    assert reader.statistics().keys == 10
    assert reader.statistics().floor_ts == 10
    with pytest.raises(OutOfRetention, match="log_keys_max=10"):
        reader.first_touch(reading(), 9)


def test_old_runs_are_large_and_few() -> None:
    reader, writer = new_write_log(0, Limits(log_run_keys_max=64))
    for commit_ts in range(1, 1001):
        commit(writer, commit_ts, b"%d" % commit_ts)
    assert reader.statistics().runs <= 1000 // 64 + 7
    assert all(
        reader.first_touch(reading(b"%d" % commit_ts), commit_ts - 1) == Touch(b"%d" % commit_ts, commit_ts)
        for commit_ts in range(1, 1001)
    )


def test_a_pending_commit_is_a_conflict_but_breaks_nothing_yet() -> None:
    reader, writer = new_write_log(0, Limits())
    writer.begin_batch()
    writer.append(5, {b"a"})
    assert reader.first_touch(reading(b"a"), 0) == Touch(b"a", 5)
    assert reader.first_published_touch(reading(b"a"), 0) is None
    writer.publish(5)
    assert reader.first_published_touch(reading(b"a"), 0) == Touch(b"a", 5)


def test_later_commits_outlive_a_withdrawn_batch() -> None:
    reader, writer = new_write_log(0, Limits())
    writer.begin_batch()
    writer.append(5, {b"a"})
    writer.begin_batch()
    writer.append(6, {b"b"})
    writer.withdraw(5)
    assert reader.first_touch(reading(b"a"), 0) is None
    assert reader.first_touch(reading(b"b"), 0) == Touch(b"b", 6)
    writer.publish(6)
    assert reader.published_ts == 6


def test_waiters_wake_in_the_order_of_their_timestamps() -> None:
    reader, writer = new_write_log(10, Limits())
    woken: list[str] = []

    def wait(ts: int) -> None:
        reader.when_published(ts, lambda: woken.append(f"{ts} at {reader.published_ts}"))

    for ts in (30, 9, 20, 21, 10, 20):
        wait(ts)
    assert woken == ["9 at 10", "10 at 10"]

    commit(writer, 20, b"a")
    assert woken[2:] == []
    writer.wake()
    assert woken[2:] == ["20 at 20", "20 at 20"]
    commit(writer, 40, b"a")
    writer.wake()
    assert woken[4:] == ["21 at 40", "30 at 40"]
    assert reader.statistics().waiters == 0


def test_wait_published() -> None:
    """Given one task that waits for a commit and one that gave up waiting, I expect the first to go on."""

    async def main() -> None:
        reader, writer = new_write_log(0, Limits())
        await reader.wait_published(0)
        patient = asyncio.create_task(reader.wait_published(5))
        impatient = asyncio.create_task(reader.wait_published(5))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.sleep(0)
        assert not patient.done()
        commit(writer, 5, b"a")
        writer.wake()
        await patient
        assert impatient.cancelled()

    asyncio.run(main())


def test_who_waits_for_a_withdrawn_commit_is_released() -> None:
    """Given a loser that waits for the winner to be published, and a disk that refuses the winner: it can go on."""

    async def main() -> None:
        reader, writer = new_write_log(0, Limits())
        writer.begin_batch()
        writer.append(4, {b"a"})
        writer.append(5, {b"b"})
        loser = asyncio.create_task(reader.wait_published(4))
        await asyncio.sleep(0)
        writer.withdraw(5)
        writer.wake()
        await loser
        await reader.wait_published(5)
        assert reader.published_ts == 0

    asyncio.run(main())


def test_the_doors_are_of_one_log() -> None:
    reader, writer = new_write_log(7, Limits())
    assert isinstance(reader, LogReader)
    assert reader.published_ts == 7
    assert not hasattr(reader, "append")
    assert not hasattr(writer, "first_touch")
