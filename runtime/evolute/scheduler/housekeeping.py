"""Removes what has been kept long enough: finished jobs, and the records that make a session's mutations run once.

Jobs are kept for `job_retention_ms`, and of those no more than `completed_jobs_max`.

A batch a transaction, each at most `system_rows_per_run_max` rows; between full batches other work has its turn.
"""

from __future__ import annotations

import logging
from functools import partial

from evolute.clock import NS_PER_MS, Clock
from evolute.errors import DiskFault, Retry
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.system import jobs, sessions
from evolute.system.job_retention import count_completed

logger = logging.getLogger("evolute.housekeeping")

INTERVAL_MS = 600_000
PAUSE_MS = 100


class Housekeeping:
    """`run` is the loop; `sweep` is one round of it."""

    def __init__(self, executor: Executor, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._clock = clock
        self._limits = limits
        self._surplus_before_ms: float | None = None  # as long as those before it are being removed

    async def run(self) -> None:
        """Runs until cancelled. What fails is tried again at the next round."""
        while True:
            full = False
            try:
                full = await self.sweep()
            except (DiskFault, Retry) as error:
                logger.warning("old rows could not be removed: %s", error)
            except Exception:
                logger.exception("old rows could not be removed")
            pause_ms = PAUSE_MS if full else INTERVAL_MS
            since_ns = self._clock.now_ns()
            until_ns = since_ns + pause_ms * NS_PER_MS
            while since_ns <= self._clock.now_ns() < until_ns:  # a clock that is set back does not put it off
                await self._clock.wait_until(until_ns)

    async def sweep(self) -> bool:
        """Removes one batch of each kind. True if a batch was full, so that more may be waiting."""
        limits, now_ms = self._limits, self._clock.now_ns() / NS_PER_MS
        rows_max = limits.system_rows_per_run_max
        before_ms = now_ms - limits.job_retention_ms
        if self._surplus_before_ms is None:
            self._surplus_before_ms = await self._surplus()
        before_ms = max(before_ms, self._surplus_before_ms)
        purged_jobs = await self._executor.run_system(
            lambda transaction: jobs.purge_completed(transaction, before_ms=before_ms, limit=rows_max)
        )
        if purged_jobs.value < rows_max:
            self._surplus_before_ms = None
        purged_sessions = await self._executor.run_system(
            lambda transaction: sessions.purge(
                transaction, before_ms=now_ms - limits.session_record_retention_ms, limit=rows_max
            )
        )
        return max(purged_jobs.value, purged_sessions.value) >= rows_max

    async def _surplus(self) -> float:
        """The time before which jobs are too many to be kept; 0 if they are few. Counts in pages, newest first."""
        left = self._limits.completed_jobs_max
        after: tuple[float, float] | None = None
        while left > 0:
            page_length = min(left, self._limits.system_rows_per_run_max)
            page = await self._executor.run_system(partial(count_completed, after=after, limit=page_length))
            after = page.value.last
            if after is None:
                return 0
            left -= page.value.length
        return self._clock.now_ns() / NS_PER_MS + 1 if after is None else after[0]
