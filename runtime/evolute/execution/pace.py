"""How fast work in the background goes: as fast as it can while nobody else writes, and at a rate when somebody does.

    nobody writes     20,000 rows at once, and the next ones are looked at meanwhile
    somebody does     `backfill_busy_rows_per_s`: a few hundred rows every `BUSY_MS`, or as many more in the time that
                      the last chunk took to be committed among the others

Whether anybody writes is seen by the commits between two chunks that were not its own, so it follows the traffic from
one chunk to the next.
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.clock import NS_PER_MS, NS_PER_S, Clock
from evolute.limits import Limits

BUSY_MS = 50
BUSY_MS_MAX = 500
ROWS_FIRST = 1_000


class Pace:
    """Of one walk over rows or entries. `commits` says how many there have been, its own included."""

    def __init__(self, commits: Callable[[], int], clock: Clock, limits: Limits) -> None:
        self.is_busy = False
        self._commits = commits
        self._clock = clock
        self._limits = limits
        self._seen = commits()
        self._rows = min(ROWS_FIRST, limits.backfill_rows_max)
        self._begun_ns = self._clock.now_ns()

    def next(self) -> tuple[int, int]:
        """How many rows, and bytes of them, the next chunk may have."""
        self._begun_ns = self._clock.now_ns()
        most = self._limits.backfill_rows_max
        rows = min(self._rows, most)
        return rows, max(self._limits.backfill_bytes_max * rows // most, 1)

    def note(self, own_commits: int) -> None:
        """A chunk is done; so many of the commits since the last one were its own."""
        before, self._seen = self._seen, self._commits()
        self.is_busy = self._seen - before > own_commits
        if self.is_busy:
            took_ms = (self._clock.now_ns() - self._begun_ns) // NS_PER_MS
            time_ms = min(max(took_ms, BUSY_MS), BUSY_MS_MAX)
            self._rows = max(self._limits.backfill_busy_rows_per_s * time_ms // 1000, 1)
        else:
            self._rows = min(2 * self._rows, self._limits.backfill_rows_max)

    async def rest(self, rows: int) -> None:
        """After a chunk of so many rows: until the rate allows the next one, if somebody writes."""
        if self.is_busy:
            due_ns = self._begun_ns + rows * NS_PER_S // self._limits.backfill_busy_rows_per_s
            pause_ns = min(due_ns - self._clock.now_ns(), BUSY_MS_MAX * NS_PER_MS)  # the clock may have been set back
            if pause_ns > NS_PER_MS:
                await self._clock.wait_until(self._clock.now_ns() + pause_ns)
