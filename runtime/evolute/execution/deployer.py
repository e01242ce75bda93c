"""Publishing code: hot reload is a commit.

    read the folder once ──► new workers load those bytes and report ──► tables with rows are made ready for the schema
    ──► one commit: deployment record, sources, tables and indexes
         └─ in its publishing turn: the pool switches

Every execution reads the deployment record, so that commit invalidates exactly what ran the old code. A folder that
does not load, or a schema that does not fit the rows, leaves the old generation serving. If there is none, nothing is
served, and what was kept of earlier starts stays kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import NamedTuple

from evolute import failpoints
from evolute.clock import Clock
from evolute.database.database import Database
from evolute.database.transaction import Transaction
from evolute.errors import OutOfRetention, SchemaNotReady
from evolute.execution.executor import Executor
from evolute.execution.generation import Generation
from evolute.execution.pool import Pool
from evolute.execution.schema_change import SchemaChange
from evolute.execution.schema_upkeep import SchemaUpkeep
from evolute.execution.table_walk import OnProgress, WalkProgress
from evolute.limits import Limits
from evolute.registry.loader import Deployment, read_folder
from evolute.registry.registry import RegistryReport
from evolute.system import crons, deployments

logger = logging.getLogger("evolute.deployer")

NOTHING = Deployment(hash="none", package="functions", root="", sources={})


class Prepared(NamedTuple):
    """Workers that have loaded a deployment, and the tables made ready for its schema."""

    generation: Generation
    change: SchemaChange


def ignore_progress(progress: WalkProgress) -> None:
    pass


class Deployer:
    """At most one deployment is being prepared at a time: a newer one replaces it.

    `on_progress` hears of work on tables that takes long.
    """

    def __init__(
        self,
        pool: Pool,
        executor: Executor,
        database: Database,
        clock: Clock,
        limits: Limits,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self._pool = pool
        self._executor = executor
        self._database = database
        self._clock = clock
        self._limits = limits
        self._on_progress = on_progress
        self._preparing: asyncio.Task[Prepared] | None = None
        self._activating = asyncio.Lock()
        self._serving = asyncio.Event()
        self.upkeep = SchemaUpkeep(executor, database, pool.examiner, clock, limits, on_progress)

    async def deploy(self, folder: Path) -> RegistryReport:
        """Reads the folder, makes the tables ready for its schema and serves it.

        Raises DefinitionError with every fault found; then nothing has changed for those who use what is served.
        Raises CancelledError in the caller whose deployment a newer one replaced.
        """
        if self._preparing is not None:
            self._preparing.cancel()
        async with self.upkeep.paused():
            prepared = await self._prepared(self._prepare(folder))
            while True:
                try:
                    return await asyncio.shield(self._activate(prepared.generation, prepared.change))
                except (SchemaNotReady, OutOfRetention) as error:
                    prepared = await self._prepared(self._prepare_again(prepared, error))

    async def _prepared(self, preparation: Coroutine[None, None, Prepared]) -> Prepared:
        preparing = self._preparing = asyncio.get_running_loop().create_task(preparation)
        return await preparing

    async def _prepare(self, folder: Path) -> Prepared:
        generation = await self._pool.prepare(await asyncio.to_thread(read_folder, folder, self._limits))
        change = SchemaChange(
            generation.deployment,
            generation.report.schema_wire,
            self._executor,
            self._database,
            self._pool.examiner(generation.deployment),
            self._clock,
            self._limits,
            self._on_progress,
        )
        return await self._made_ready(Prepared(generation, change))

    async def _prepare_again(self, prepared: Prepared, error: SchemaNotReady | OutOfRetention) -> Prepared:
        """A table that was empty got rows, or more was written than the log remembers."""
        logger.info("the tables have to be made ready once more: %s", error)
        return await self._made_ready(prepared)

    async def _made_ready(self, prepared: Prepared) -> Prepared:
        try:
            await prepared.change.make_ready()
        except BaseException:
            await asyncio.shield(self._give_up(prepared.generation, prepared.change))
            raise
        return prepared

    async def _give_up(self, generation: Generation, change: SchemaChange | None) -> None:
        if change is not None:
            await change.close()
        await self._pool.discard(generation)

    async def restore(self) -> RegistryReport | None:
        """Serves the deployment kept in the data folder, if there is one."""
        run = await self._executor.run_system(deployments.kept)
        kept = run.value
        if kept is None:
            return None
        return await self._activate(await self._pool.prepare(kept), None)

    async def deploy_nothing(self) -> RegistryReport:
        """Serves an empty deployment, so that a server whose folder never loaded answers that it has no functions."""
        return await self._activate(await self._pool.prepare(NOTHING), None)

    async def wait_serving(self) -> None:
        """Until a deployment has been activated that is not the empty one."""
        await self._serving.wait()

    async def _activate(self, generation: Generation, change: SchemaChange | None) -> RegistryReport:
        """One commit publishes the record; the pool switches in the turn that publishes it. Not to be cancelled.

        Without a `change` tables and indexes stay as they are. Raises SchemaNotReady and OutOfRetention if the tables
        have to be made ready once more; otherwise the generation is given up if it cannot be activated.
        """
        async with self._activating:
            report = await self._commit_and_switch(generation, change)
            if change is not None:
                await change.close()
            return report

    async def _commit_and_switch(self, generation: Generation, change: SchemaChange | None) -> RegistryReport:
        switched = False

        def switch(commit_ts: int) -> None:
            nonlocal switched
            switched = True
            self._pool.activate(generation)
            failpoints.hit(failpoints.AFTER_ACTIVATION)

        def record(transaction: Transaction) -> None:
            if generation.deployment is NOTHING:
                deployments.deactivate(transaction, NOTHING.hash)
                return
            schema = generation.report.schema_wire if change is not None else None
            validated = change.validated if change is not None else ()
            deployments.activate(transaction, generation.deployment, schema, validated)
            crons.apply(transaction, generation.report.crons)

        failpoints.hit(failpoints.BEFORE_ACTIVATION)
        known = change.known if change is not None else None
        try:
            await self._executor.run_system(record, on_commit=switch, known=known)
        except (SchemaNotReady, OutOfRetention):
            raise
        except BaseException:
            if not switched:
                await self._give_up(generation, change)
            raise
        if not switched:  # The record already names this deployment: nothing was written, so nothing was published.
            self._pool.activate(generation)
        if generation.deployment is not NOTHING:
            self._serving.set()
        return generation.report
