"""How fast a backfill goes: as fast as it can alone, and at its rate beside others."""

from __future__ import annotations

import asyncio

from evolute.clock import NS_PER_MS, ManualClock
from evolute.execution.pace import BUSY_MS, BUSY_MS_MAX, ROWS_FIRST, Pace
from evolute.limits import Limits

LIMITS = Limits(backfill_rows_max=5_000, backfill_bytes_max=1_000_000, backfill_busy_rows_per_s=2_000)


class Commits:
    """The committer's count."""

    def __init__(self) -> None:
        self.count = 7

    def __call__(self) -> int:
        return self.count


def is_busy(pace: Pace) -> bool:
    return pace.is_busy


def busy_rows(ms: int) -> int:
    return LIMITS.backfill_busy_rows_per_s * ms // 1000


def test_while_nobody_writes_chunks_grow_to_the_largest() -> None:
    commits = Commits()
    pace, lengths = Pace(commits, ManualClock(), LIMITS), list[int]()
    for _ in range(5):
        rows, size = pace.next()
        assert size == LIMITS.backfill_bytes_max * rows // LIMITS.backfill_rows_max
        lengths.append(rows)
        commits.count += 1  # its own
        pace.note(1)
        assert not pace.is_busy
    assert lengths == [ROWS_FIRST, 2 * ROWS_FIRST, 4 * ROWS_FIRST, 5_000, 5_000]


def test_while_somebody_writes_the_rate_is_kept() -> None:
    """Small chunks with pauses; larger ones if their commits wait long for the others."""

    async def scenario() -> None:
        commits, clock = Commits(), ManualClock()
        pace = Pace(commits, clock, LIMITS)
        pace.next()
        commits.count += 2
        pace.note(1)
        assert is_busy(pace)
        assert pace.next()[0] == busy_rows(BUSY_MS)
        clock.set_ns(clock.now_ns() + 10 * NS_PER_MS)
        resting = asyncio.create_task(pace.rest(busy_rows(BUSY_MS)))
        await asyncio.sleep(0)
        for _ in range(BUSY_MS - 11):
            clock.set_ns(clock.now_ns() + NS_PER_MS)
            await asyncio.sleep(0)
            assert not resting.done()
        clock.set_ns(clock.now_ns() + NS_PER_MS)
        await resting
        for took_ms, allowed_ms in ((1, BUSY_MS), (80, 80), (10_000, BUSY_MS_MAX)):
            pace.next()
            clock.set_ns(clock.now_ns() + took_ms * NS_PER_MS)
            commits.count += 5
            pace.note(1)
            assert pace.next()[0] == busy_rows(allowed_ms)
        commits.count += 1
        pace.note(1)
        assert not is_busy(pace)
        await pace.rest(10**9)  # nobody else writes: there is nothing to wait for

    asyncio.run(scenario())


def test_a_clock_that_is_set_back_does_not_stop_it() -> None:
    async def scenario() -> None:
        commits, clock = Commits(), ManualClock()
        pace = Pace(commits, clock, LIMITS)
        commits.count += 2
        pace.note(1)
        pace.next()
        clock.set_ns(clock.now_ns() - 10**15)
        resting = asyncio.create_task(pace.rest(100))
        await asyncio.sleep(0)
        clock.set_ns(clock.now_ns() + BUSY_MS_MAX * NS_PER_MS)
        await resting

    asyncio.run(scenario())
