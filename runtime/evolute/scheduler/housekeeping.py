"""Removes what has been kept long enough: finished jobs, and the records that make a session's mutations run once.

A batch a transaction, each at most `system_rows_per_run_max` rows; between full batches other work has its turn.
"""

from __future__ import annotations

import logging

from evolute.clock import NS_PER_MS, Clock
from evolute.errors import DiskFault, Retry
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.system import jobs, sessions

logger = logging.getLogger("evolute.housekeeping")

INTERVAL_MS = 600_000
PAUSE_MS = 1_000


class Housekeeping:
    """`run` is the loop; `sweep` is one round of it."""

    def __init__(self, executor: Executor, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._clock = clock
        self._limits = limits

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
            until_ns = self._clock.now_ns() + pause_ms * NS_PER_MS
            while self._clock.now_ns() < until_ns:
                await self._clock.wait_until(until_ns)

    async def sweep(self) -> bool:
        """Removes one batch of each kind. True if a batch was full, so that more may be waiting."""
        limits, now_ms = self._limits, self._clock.now_ns() / NS_PER_MS
        rows_max = limits.system_rows_per_run_max
        purged_jobs = await self._executor.run_system(
            lambda transaction: jobs.purge_completed(
                transaction, before_ms=now_ms - limits.job_retention_ms, limit=rows_max
            )
        )
        purged_sessions = await self._executor.run_system(
            lambda transaction: sessions.purge(
                transaction, before_ms=now_ms - limits.session_record_retention_ms, limit=rows_max
            )
        )
        return max(purged_jobs.value, purged_sessions.value) >= rows_max
