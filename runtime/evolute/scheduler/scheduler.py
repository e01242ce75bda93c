"""The scheduler is a subscriber: it sleeps until the earliest due time, or until what it has read is touched.

    look: one transaction reads what is due, pool by pool ──► one task for each job ──► the one door
      ▲                                                                                    │
      └── a pool with more to do has room · the next job is due · a commit touched the rows ─┘

What happens to the jobs that run is cut out of what it subscribes to, and so is every pool that is full: a job's end is
a reason to look only if jobs of its pool were left. Nothing is polled: at most every second the clock is read again, so
that a step of it, or a machine that slept, is noticed. How one job is run is `JobRunner`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from evolute import failpoints
from evolute.clock import NS_PER_MS, Clock
from evolute.database.interval import Interval
from evolute.database.subscriptions import Subscriptions, Token
from evolute.database.transaction import Transaction
from evolute.errors import DiskFault, Retry
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.scheduler.job_reason import Standing
from evolute.scheduler.job_runner import JobRunner, RunEnd
from evolute.scheduler.pool_room import PoolRoom
from evolute.system import deployments, job_queue, pauses
from evolute.system.job_queue import DueJobs
from evolute.system.jobs import Job, name_of

logger = logging.getLogger("evolute.scheduler")

GATHER_S = 0.02
NEVER_NS = 1 << 63


@dataclass
class Look:
    """What one look at the table found. `cuts` is what it need not be told of."""

    found: dict[str, DueJobs] = field(default_factory=dict)
    full: list[str] = field(default_factory=list)
    cuts: list[Interval] = field(default_factory=list)


@dataclass(frozen=True)
class SchedulerStatistics:
    """`lag_ms`: how long the oldest job that is due and has no room has waited. `outcomes` counts what has become of
    the runs of each function since the start: "success", "failed", "canceled", and "again" for one tried later. `looks`
    is how often the table was read."""

    running: int
    running_by_pool: Mapping[str, int]
    lag_ms: float
    outcomes: Mapping[tuple[str, str], int]
    looks: int


class Scheduler:
    """Owns the tasks of the running jobs. `run` is the loop; `close` ends it and what it runs."""

    def __init__(self, executor: Executor, subscriptions: Subscriptions, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._runner = JobRunner(executor, subscriptions, clock, limits)
        self._running: dict[str, asyncio.Task[RunEnd]] = {}
        self._rooms: dict[str, PoolRoom] = {}
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._left_over_ns: float | None = None
        self._looks = 0
        self._woken = asyncio.Event()
        self._asleep = asyncio.Event()
        self._gathering: asyncio.TimerHandle | None = None
        self._quiet_from_s = 0.0
        self._sleeps_until_ns = NEVER_NS

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def sleeps_until_ns(self) -> int:
        """When the loop looks again, or a job is tried again, if nothing happens before."""
        return min(self._sleeps_until_ns, *(one.until_ns for one in self._runner.resting.values()), NEVER_NS)

    def statistics(self) -> SchedulerStatistics:
        left_ns = self._left_over_ns
        lag_ms = 0.0 if left_ns is None else max(0, self._clock.now_ns() - left_ns) / NS_PER_MS
        by_pool = {pool: room.running for pool, room in self._rooms.items() if room.running}
        return SchedulerStatistics(len(self._running), by_pool, lag_ms, dict(self._outcomes), self._looks)

    @property
    def taken(self) -> Collection[str]:
        """The ids of the jobs that have a task now."""
        return self._running.keys()

    def standing(self, job_id: str, path: str, pool: str) -> Standing:
        """How a job stands now."""
        room, function = self._rooms.get(pool), self._executor.report.functions.get(path)
        return Standing(
            taken=job_id in self._running,
            is_action=function is not None and function.kind == "action",
            back_off=self._runner.resting.get(job_id),
            no_room=None if room is None else room.why_full(pool, self._clock.now_ns()),
        )

    async def wait_idle(self) -> None:
        """Returns when nothing runs, nothing is due, and the loop sleeps. For tests, whose clock stands still.

        A job that waits to be tried again does not run: `sleeps_until_ns` says when it does.
        """
        while True:
            await self._asleep.wait()
            now_ns = self._clock.now_ns()
            resting = {job for job, one in self._runner.resting.items() if one.until_ns > now_ns}
            if active := [task for job, task in self._running.items() if job not in resting]:
                await self._wait_one_pauses(active)
            elif self._woken.is_set() or self._gathering or self._sleeps_until_ns <= self._clock.now_ns():
                await asyncio.sleep(0)  # It is being woken.
            else:
                return

    async def _wait_one_pauses(self, active: list[asyncio.Task[RunEnd]]) -> None:
        """Until one of the jobs has ended, or some job backs off."""
        self._runner.rests.clear()
        rests = asyncio.ensure_future(self._runner.rests.wait())
        try:
            await asyncio.wait([*active, rests], return_when=asyncio.FIRST_COMPLETED)
        finally:
            rests.cancel()

    async def run(self) -> None:
        """Runs until cancelled. A look that fails is made again a second later: one bad row must not stop all jobs."""
        while True:
            try:
                await self._look()
            except (DiskFault, Retry) as error:
                logger.error("the scheduler could not read its jobs: %s", error)
            except Exception:
                logger.exception("the scheduler could not read its jobs")
            else:
                continue
            again_ns = self._clock.now_ns() + 1000 * NS_PER_MS
            with self._sleeping(again_ns):
                await self._clock.wait_until(again_ns)

    async def close(self) -> None:
        """Call after `run` has been cancelled. Jobs that still run are interrupted as by a crash."""
        self._stop_gathering()
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    # --- Looking ----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Starts what is due and for which there is room, then waits for a reason to look again."""
        self._woken.clear()
        self._stop_gathering()
        self._looks += 1
        now_ns = self._clock.now_ns()
        look = await self._executor.run_system(lambda transaction: self._read(transaction, now_ns))
        for pool in look.value.full:
            self._room(pool).has_more = True
        for pool, found in look.value.found.items():
            self._room(pool).has_more = found.left_over is not None
        taken = [job for found in look.value.found.values() for job in found.jobs]
        if taken:
            failpoints.hit(failpoints.AFTER_LOOK)
        for job in sorted(taken, key=lambda job: job.turn_ns):  # stable: each pool's are in the order of scheduling
            self._start(job)
        for pool in (*look.value.full, *look.value.found):
            room = self._room(pool)
            if room.has_more and room.free(now_ns) > 0:
                self._gather(room)  # a job has ended since the table was read
        self._left_over_ns = min(
            (found.left_over for found in look.value.found.values() if found.left_over is not None), default=None
        )
        token = Token(look.read_set.without(look.value.cuts), look.ts)
        await self._sleep(token, self._next_look_ns(look.value, now_ns))

    def _read(self, transaction: Transaction, now_ns: int) -> Look:
        """Reads only, and may be called more than once."""
        look = Look()
        deployments.active(transaction)  # new code may bring other pools
        paused = pauses.paused(transaction)
        if None in paused:
            return look
        running = self._running.keys()
        for pool in job_queue.pools(transaction):
            if pool in paused:
                continue
            room = self._room(pool)
            limit = min(room.free(now_ns), self._limits.system_rows_per_run_max)
            if limit <= 0:
                look.full.append(pool)
                look.cuts.append(job_queue.part_of(transaction, pool))
                continue
            found = job_queue.due(transaction, pool, now_ns=now_ns, limit=limit, skip=running, running=room.by_name)
            look.found[pool] = found
            if found.left_over is None:
                look.cuts.extend(found.own)
            else:
                look.cuts.append(job_queue.part_of(transaction, pool))
        return look

    def _next_look_ns(self, look: Look, now_ns: int) -> int:
        times = [found.next_due_ns for found in look.found.values() if found.next_due_ns is not None]
        for pool in (*look.full, *look.found):
            room = self._room(pool)
            if room.has_more and room.waits_for_time(now_ns):
                times.append(room.ready_ns(now_ns))
        return min(times, default=NEVER_NS)

    async def _sleep(self, token: Token, until_ns: int) -> None:
        """Until the rows that were read are touched, a job's end makes room, or it is `until_ns`."""
        subscription = self._subscriptions.subscribe(token, lambda commit_ts: self._woken.set())
        try:
            if subscription.broken_at is not None:
                return
            waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._woken.wait())]
            if until_ns != NEVER_NS:
                waits.append(asyncio.ensure_future(self._wait_until(until_ns)))
            try:
                with self._sleeping(until_ns):
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        finally:
            subscription.close()

    @contextmanager
    def _sleeping(self, until_ns: int) -> Iterator[None]:
        """While the loop waits for the time, or for what others do."""
        self._sleeps_until_ns = until_ns
        self._asleep.set()
        try:
            yield
        finally:
            self._asleep.clear()

    async def _wait_until(self, until_ns: int) -> None:
        while self._clock.now_ns() < until_ns:
            await self._clock.wait_until(until_ns)

    # --- Jobs -------------------------------------------------------------------------------------------------------

    def _room(self, pool: str) -> PoolRoom:
        """By what the active deployment says of the pool; one that it does not have has the default's limits."""
        limits = self._executor.report.pools.get(pool)
        concurrency = self._limits.jobs_running_max if limits is None else limits.concurrency
        per_second = None if limits is None else limits.per_second
        room = self._rooms.get(pool)
        if room is None:
            room = self._rooms[pool] = PoolRoom()
        room.limit(concurrency, per_second, self._clock.now_ns())
        return room

    def _start(self, job: Job) -> None:
        if job.id in self._running:
            return
        room = self._room(job.pool)
        task = asyncio.get_running_loop().create_task(self._runner.run(job))
        self._running[job.id] = task
        room.started(name_of(job.path), self._clock.now_ns())
        task.add_done_callback(lambda _: self._ended(job, room))

    def _ended(self, job: Job, room: PoolRoom) -> None:
        task = self._running.pop(job.id)
        room.ended(name_of(job.path))
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logger.error("job %s could not be run", job.id, exc_info=error)
        end = "again" if error is not None else task.result()
        if end is not None:
            self._outcomes[job.path, end] += 1
        if end in ("again", None):
            self._woken.set()  # its row may be due, and was passed over while it ran
        elif room.has_more:
            self._gather(room)

    def _gather(self, room: PoolRoom) -> None:
        """Looks when half of the pool's room is free, or when no job has ended for a while.

        So a look reads many jobs and not one, and a few long ones do not keep the others waiting.
        """
        if room.running <= room.concurrency // 2:
            self._woken.set()
            return
        loop = asyncio.get_running_loop()
        self._quiet_from_s = loop.time() + GATHER_S
        if self._gathering is None:
            self._gathering = loop.call_at(self._quiet_from_s, self._gathered)

    def _gathered(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._quiet_from_s:
            self._gathering = loop.call_at(self._quiet_from_s, self._gathered)
        else:
            self._gathering = None
            self._woken.set()

    def _stop_gathering(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
