"""The composition root: everything is opened here in order, and closed in reverse.

    data folder ► database ► pool ► executor ► deployer ► scheduler, crons      (then `server.app` serves it)

There is one Backend in a server process. It runs on the event loop it was started on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from evolute import failpoints
from evolute.clock import Clock, SystemClock
from evolute.config import Config
from evolute.database.database import Database, DatabaseStatistics
from evolute.errors import DefinitionError, EvoluteError
from evolute.execution.call_durations import KindDurations
from evolute.execution.call_log import CallLog
from evolute.execution.deployer import Deployer, ignore_progress
from evolute.execution.executor import Executor
from evolute.execution.executor_statistics import ExecutorStatistics
from evolute.execution.key_ring import KeyRing
from evolute.execution.past_queries import PastQueries
from evolute.execution.pool import Pool
from evolute.execution.pool_statistics import PoolStatistics
from evolute.execution.process_starter import ProcessStarter
from evolute.execution.query_cache import QueryCacheStatistics
from evolute.execution.table_walk import OnProgress
from evolute.registry.registry import RegistryReport
from evolute.registry.watcher import Watcher
from evolute.scheduler.cron_admin import CronAdmin
from evolute.scheduler.crons import CronLoop, CronStatistics
from evolute.scheduler.housekeeping import Housekeeping
from evolute.scheduler.job_admin import JobAdmin
from evolute.scheduler.scheduler import Scheduler, SchedulerStatistics
from evolute.stages import StageDurations
from evolute.storage.data_folder import DataFolder, open_data_folder
from evolute.system import tables

logger = logging.getLogger("evolute.backend")

EXIT_FATE_UNKNOWN = 70


@dataclass(frozen=True)
class BackendStatistics:
    """Everything that runs, at one moment; `calls` by kind, `stages` by kind and name."""

    scheduler: SchedulerStatistics
    crons: CronStatistics
    calls: Mapping[str, KindDurations]
    stages: Mapping[tuple[str, str], StageDurations]
    executor: ExecutorStatistics
    query_cache: QueryCacheStatistics
    pool: PoolStatistics
    database: DatabaseStatistics


class Backend:
    """A running runtime without its sockets. `start` before anything else; `stop` once, at the end."""

    data_folder: DataFolder
    database: Database
    pool: Pool
    executor: Executor
    past_queries: PastQueries
    deployer: Deployer
    scheduler: Scheduler
    crons: CronLoop
    job_admin: JobAdmin
    cron_admin: CronAdmin
    key_ring: KeyRing

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        processes: ProcessStarter | None = None,
        *,
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        """`on_progress` hears of changes of the schema that take long."""
        self.config = config
        self._processes = processes
        self._on_progress = on_progress
        self.clock = clock or SystemClock()
        self.call_log = CallLog(config.limits)
        self._stack = AsyncExitStack()
        # Made before the folder is read, so that no save slips in between.
        self._watcher = Watcher(config.functions_folder, config.limits) if config.development else None

    @property
    def report(self) -> RegistryReport:
        """The functions that are served now."""
        return self.pool.report

    async def start(self) -> DefinitionError | None:
        """Opens everything and serves the functions folder.

        In development a folder that does not load is not an end: the error is returned, and what was served last is
        served until a save repairs it. Otherwise it is raised, as are the errors of the data folder; then everything is
        closed again.
        """
        try:
            await self._open()
            fault = await self._deploy_first()
        except BaseException:
            await self._stack.aclose()
            raise
        self._spawn(self._schedule())
        self._spawn(self.deployer.upkeep.run())
        self._spawn(Housekeeping(self.executor, self.clock, self.config.limits).run())
        return fault

    def statistics(self) -> BackendStatistics:
        return BackendStatistics(
            scheduler=self.scheduler.statistics(),
            crons=self.crons.statistics(),
            calls=self.call_log.durations.statistics(),
            stages=self.database.stages.statistics(),
            executor=self.executor.statistics(),
            query_cache=self.executor.query_cache.statistics(),
            pool=self.pool.statistics(),
            database=self.database.statistics(),
        )

    async def watch(self, on_reload: Callable[[RegistryReport | EvoluteError], None]) -> None:
        """Deploys the folder at every save, until cancelled; `on_reload` hears what came of it."""
        deploys: set[asyncio.Task[None]] = set()

        async def deploy() -> None:
            try:
                on_reload(await self.deployer.deploy(self.config.functions_folder))
            except EvoluteError as error:
                on_reload(error)
            except Exception:
                logger.exception("the folder could not be deployed")

        assert self._watcher is not None, "only a backend in development watches"
        try:
            async with aclosing(self._watcher.changes()) as changes:
                async for _ in changes:
                    task = asyncio.get_running_loop().create_task(deploy())
                    deploys.add(task)
                    task.add_done_callback(deploys.discard)
        finally:
            for task in deploys:
                task.cancel()

    async def stop(self) -> None:
        """Finishes what runs, for at most `shutdown_ms_max`, then closes everything in reverse."""
        await self._stack.aclose()

    # --- Inside ----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        config, limits = self.config, self.config.limits
        failpoints.arm(config.failpoint)
        self.data_folder = open_data_folder(config.data_folder)
        self._stack.callback(self.data_folder.close)
        self.database = Database(
            self.data_folder.store_path, self.clock, limits, on_fate_unknown=_stop_rather_than_guess
        )
        self._stack.push_async_callback(self.database.close)
        self.pool = Pool(
            str(self.data_folder.store_path),
            self.clock,
            limits,
            workers=config.workers,
            action_workers=config.action_workers,
            on_worker_death=self.database.check_readers,
            processes=self._processes,
            pending_view=self.database.committer.pending_view,
            stages=self.database.stages,
        )
        self._stack.push_async_callback(self.pool.close)
        chain_length = max(limits.requests_per_worker_max // 2, 1)
        self.executor = Executor(self.database, self.pool, self.clock, limits, self.call_log, chain_length)
        self._stack.push_async_callback(self.executor.query_cache.close)
        self.past_queries = PastQueries(self.executor, self.pool, self.database.log, self.clock, limits, self.call_log)
        self._stack.callback(self.past_queries.close)
        self.deployer = Deployer(self.pool, self.executor, self.database, self.clock, limits, self._on_progress)
        self.scheduler = Scheduler(self.executor, self.database.subscriptions, self.clock, limits)
        self.crons = CronLoop(self.executor, self.database.subscriptions, self.clock, limits)
        self.job_admin = JobAdmin(self.executor, self.scheduler, self.clock, limits)
        self.cron_admin = CronAdmin(self.executor, limits)
        self.key_ring = KeyRing(self.executor, self.clock, limits)
        for loop in (self.scheduler, self.crons):  # after the drain, in which what they run may end
            self._stack.push_async_callback(loop.close)
        self._stack.push_async_callback(self.executor.drain, limits.shutdown_ms_max)
        await self.executor.run_system(tables.bootstrap)
        await self.key_ring.load()

    async def _deploy_first(self) -> DefinitionError | None:
        try:
            await self.deployer.deploy(self.config.functions_folder)
        except DefinitionError as error:
            if not self.config.development:
                raise
            await self._serve_the_last()
            return error
        return None

    async def _serve_the_last(self) -> None:
        """What was served last; nothing if that does not load any more either, for the world has changed around it."""
        try:
            if await self.deployer.restore() is not None:
                return
        except DefinitionError as error:
            logger.warning("what was served last cannot be loaded any more: %s", error)
        await self.deployer.deploy_nothing()

    async def _schedule(self) -> None:
        """Jobs and crons wait while nothing is served, or all that are due would fail for want of their functions."""
        await self.deployer.wait_serving()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.scheduler.run())
            group.create_task(self.crons.run())

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        """Runs it until the backend stops."""
        task = asyncio.get_running_loop().create_task(coroutine)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)


def _stop_rather_than_guess(error: BaseException) -> None:
    """A write's fate is unknown: what happens next is decided by the store, at the next start."""
    logger.critical("stopping: it is unknown whether a write happened", exc_info=error)
    sys.stderr.flush()
    os._exit(EXIT_FATE_UNKNOWN)
