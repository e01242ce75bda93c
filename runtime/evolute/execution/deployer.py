"""Publishing code: hot reload is a commit.

    read the folder once ──► new workers load those bytes and report ──► one commit: deployment record, sources, tables
                                                                          └─ in its publishing turn: the pool switches

Every execution reads the deployment record, so that commit invalidates exactly what ran the old code. A folder that
does not load, or a schema that does not fit the tables, leaves the old generation serving. If there is none, nothing is
served, and what was kept of earlier starts stays kept.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from evolute.database.transaction import Transaction
from evolute.execution.executor import Executor
from evolute.execution.generation import Generation
from evolute.execution.pool import Pool
from evolute.limits import Limits
from evolute.registry.loader import Deployment, read_folder
from evolute.registry.registry import RegistryReport
from evolute.system import crons, deployments

NOTHING = Deployment(hash="none", package="functions", root="", sources={})


class Deployer:
    """At most one deployment is being prepared at a time: a newer one replaces it."""

    def __init__(self, pool: Pool, executor: Executor, limits: Limits) -> None:
        self._pool = pool
        self._executor = executor
        self._limits = limits
        self._preparing: asyncio.Task[Generation] | None = None
        self._activating = asyncio.Lock()
        self._serving = asyncio.Event()

    async def deploy(self, folder: Path) -> RegistryReport:
        """Reads the folder and serves it. Raises DefinitionError with every fault found; then nothing has changed.

        Raises CancelledError in the caller whose deployment a newer one replaced.
        """
        if self._preparing is not None:
            self._preparing.cancel()
        preparing = self._preparing = asyncio.get_running_loop().create_task(self._prepare(folder))
        generation = await preparing
        return await asyncio.shield(self._activate(generation))

    async def _prepare(self, folder: Path) -> Generation:
        return await self._pool.prepare(await asyncio.to_thread(read_folder, folder, self._limits))

    async def restore(self) -> RegistryReport | None:
        """Serves the deployment kept in the data folder, if there is one."""
        run = await self._executor.run_system(deployments.kept)
        kept = run.value
        if kept is None:
            return None
        return await self._activate(await self._pool.prepare(kept))

    async def deploy_nothing(self) -> RegistryReport:
        """Serves an empty deployment, so that a server whose folder never loaded answers that it has no functions."""
        return await self._activate(await self._pool.prepare(NOTHING))

    async def wait_serving(self) -> None:
        """Until a deployment has been activated that is not the empty one."""
        await self._serving.wait()

    async def _activate(self, generation: Generation) -> RegistryReport:
        """One commit publishes the record; the pool switches in the turn that publishes it. Not to be cancelled."""
        async with self._activating:
            return await self._commit_and_switch(generation)

    async def _commit_and_switch(self, generation: Generation) -> RegistryReport:
        switched = False

        def switch(commit_ts: int) -> None:
            nonlocal switched
            switched = True
            self._pool.activate(generation)

        def record(transaction: Transaction) -> None:
            if generation.deployment is NOTHING:
                deployments.deactivate(transaction, NOTHING.hash)
            else:
                deployments.activate(transaction, generation.deployment, generation.report.schema_wire)
                crons.apply(transaction, generation.report.crons)

        try:
            await self._executor.run_system(record, on_commit=switch)
        except BaseException:
            if not switched:
                await self._pool.discard(generation)
            raise
        if not switched:  # The record already names this deployment: nothing was written, so nothing was published.
            self._pool.activate(generation)
        if generation.deployment is not NOTHING:
            self._serving.set()
        return generation.report
