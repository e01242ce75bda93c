"""Removes what has been kept long enough: finished jobs, and the records that make a session's mutations run once.

Jobs are kept for `job_retention_ms`, and of those no more than `completed_jobs_max`.

A batch a transaction, each about `system_rows_per_run_max` rows at most; between batches other work has its turn. They
follow one another fast enough to remove what busy sessions leave behind.
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
        self._walk = sessions.BEGINNING

    async def run(self) -> None:
        """Runs until cancelled. What fails is tried again at the next round."""
        while True:
            more = False
            try:
                more = await self.sweep()
            except (DiskFault, Retry) as error:
                logger.warning("old rows could not be removed: %s", error)
            except Exception:
                logger.exception("old rows could not be removed")
            pause_ms = PAUSE_MS if more else INTERVAL_MS
            since_ns = self._clock.now_ns()
            until_ns = since_ns + pause_ms * NS_PER_MS
            while since_ns <= self._clock.now_ns() < until_ns:  # a clock that is set back does not put it off
                await self._clock.wait_until(until_ns)

    async def sweep(self) -> bool:
        """Removes one batch of each kind. True if more may be waiting."""
        rows_max = self._limits.system_rows_per_run_max
        if self._surplus_before_ms is None:
            self._surplus_before_ms = await self._surplus()
        before_ms = max(self._clock.now_ns() / NS_PER_MS - self._limits.job_retention_ms, self._surplus_before_ms)
        purged_jobs = await self._executor.run_system(
            lambda transaction: jobs.purge_completed(transaction, before_ms=before_ms, limit=rows_max)
        )
        if purged_jobs.value < rows_max:
            self._surplus_before_ms = None
        await self._drop_session_records()
        return purged_jobs.value >= rows_max or self._walk != sessions.BEGINNING

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

    async def _drop_session_records(self) -> None:
        """The next piece of the walk; it is lost with this process, and then begins anew."""
        limits, walk = self._limits, self._walk
        before_ts = self._clock.now_ns() - limits.session_record_retention_ms * NS_PER_MS
        found = await self._executor.run_system(
            lambda transaction: sessions.look(
                transaction,
                walk,
                before_ts=before_ts,
                records_max=limits.session_records_max,
                limit=limits.system_rows_per_run_max,
            )
        )
        may_go, walk_on = found.value
        if may_go:
            await self._executor.run_system(lambda transaction: sessions.drop(transaction, may_go))
        self._walk = walk_on
