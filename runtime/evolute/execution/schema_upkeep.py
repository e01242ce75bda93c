"""What a change of the schema leaves to be done, when nobody waits for it: staged indexes, and entries to be dropped.

It goes on where it was, after a crash too: what there is to do stands in the store (`database.index_work`). While a
deployment is being prepared it rests, so that no index is built by two.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice

from evolute import failpoints
from evolute.clock import NS_PER_MS, Clock
from evolute.database.database import Database
from evolute.database.fill import removal
from evolute.errors import DefinitionError, DiskFault, OutOfRetention, Retry
from evolute.execution.examiner import ProcessExaminer
from evolute.execution.executor import Executor
from evolute.execution.pace import Pace
from evolute.execution.table_walk import OnProgress, TableWalk
from evolute.limits import Limits
from evolute.storage.keyspace import index_prefix, prefix_range
from evolute.system import schema_changes

logger = logging.getLogger("evolute.schema")

DROPPED_AT_ONCE_MAX = 5_000
RETRY_MS = 10_000


class SchemaUpkeep:
    """`run` is the loop. `examiner` gives who looks at rows, with the code that is served."""

    def __init__(
        self,
        executor: Executor,
        database: Database,
        examiner: Callable[[], ProcessExaminer],
        clock: Clock,
        limits: Limits,
        on_progress: OnProgress,
    ) -> None:
        self._executor = executor
        self._database = database
        self._examiner = examiner
        self._clock = clock
        self._limits = limits
        self._on_progress = on_progress
        self._wanted = asyncio.Event()
        self._wanted.set()  # a server that was killed may have left something
        self._pauses = 0
        self._round: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Runs until cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                if self._pauses:
                    continue
                self._round = asyncio.create_task(self._work())
                await asyncio.wait({self._round})
        finally:
            await self._interrupt()

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """While in it, nothing is done; afterwards there may be something new to do."""
        self._pauses += 1
        await self._interrupt()
        try:
            yield
        finally:
            self._pauses -= 1
            self._wanted.set()

    async def _interrupt(self) -> None:
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            try:
                await self.round()
                return
            except (DiskFault, Retry, OutOfRetention) as error:
                logger.warning("staged and dropped indexes have to wait: %s", error)
            except DefinitionError as error:
                logger.error("a staged index cannot be built: %s", error)
                return
            except Exception:
                logger.exception("staged and dropped indexes have to wait")
            await self._clock.wait_until(self._clock.now_ns() + RETRY_MS * NS_PER_MS)

    async def round(self) -> None:
        """Everything that there is to do now. What is dropped comes first: its pages can be used again."""
        while (index_id := (await self._executor.run_system(schema_changes.next_drop)).value) is not None:
            await self._drop(index_id)
        work = (await self._executor.run_system(schema_changes.staged_work)).value
        if not work:
            return
        async with self._examiner() as examiner:
            for table in work:
                walk = TableWalk(
                    table, self._executor, self._database, examiner, self._clock, self._limits, self._on_progress
                )
                await walk.run()
                for fill in table.fills:
                    logger.info("the staged index %s.%s is backfilled", table.name, fill.entry.name)

    async def _drop(self, index_id: int) -> None:
        pace = Pace(lambda: self._database.committer.statistics().commits, self._clock, self._limits)
        while True:
            length_max = min(pace.next()[0], DROPPED_AT_ONCE_MAX)
            with self._database.snapshot(unbounded=True) as snapshot:
                rows = snapshot.scan(*prefix_range(index_prefix(index_id)))
                keys = [key for key, _ in islice(rows, length_max)]
            is_last = len(keys) < length_max
            note = partial(schema_changes.note_drop, index_id=index_id, removed=len(keys), is_last=is_last)
            await self._executor.run_system(note, fill=removal(keys))
            failpoints.hit(failpoints.AFTER_DROPPED if is_last else failpoints.AFTER_DROP)
            if is_last:
                return
            pace.note(1)
            await pace.rest(len(keys))
