"""The scheduler is a subscriber: it sleeps until the earliest due time, or until what it has read is touched.

    look: one transaction reads the due jobs ──► one task for each ──► the one door
      ▲                                                                  │
      └── a job ended · the next one is due · a commit touched the rows ─┘

A job of a mutation is begun, run and finished in the mutation's own transaction: one commit holds its writes and its
state, so it happens exactly once whatever crashes. A job of an action is marked in progress first, in a commit of its
own, and never run again: one found in progress that this process is not running was interrupted by a crash, and fails.
So it is marked only when an action worker is ready and has room for it: what still waits loses nothing in a crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from evolute import failpoints
from evolute.clock import NS_PER_MS, Clock
from evolute.database.subscriptions import Subscriptions, Token
from evolute.errors import DiskFault, Retry, ShuttingDown
from evolute.execution.executor import Executor, JobChanged
from evolute.execution.request import Call, Outcome
from evolute.limits import Limits
from evolute.system import jobs
from evolute.system.jobs import Job

logger = logging.getLogger("evolute.scheduler")

INTERRUPTED = "Transient error while executing action"
BACKOFF_MS_MIN = 100
GATHER_S = 0.02
NEVER_NS = 1 << 63


class Scheduler:
    """Owns the tasks of the running jobs. `run` is the loop; `close` ends it and what it runs."""

    def __init__(self, executor: Executor, subscriptions: Subscriptions, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._running: dict[str, asyncio.Task[None]] = {}
        self._backing_off: dict[str, int] = {}  # running jobs that wait to be tried again, and until when
        self._backs_off = asyncio.Event()
        self._backlog = False
        self._woken = asyncio.Event()
        self._asleep = asyncio.Event()
        self._sleeps_until_ns = NEVER_NS

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def sleeps_until_ns(self) -> int:
        """When the loop looks again, or a job is tried again, if nothing happens before."""
        return min(self._sleeps_until_ns, *self._backing_off.values(), NEVER_NS)

    async def wait_idle(self) -> None:
        """Returns when nothing runs, nothing is due, and the loop sleeps. For tests, whose clock stands still.

        A job that waits to be tried again does not run: `sleeps_until_ns` says when it does.
        """
        while True:
            await self._asleep.wait()
            now_ns = self._clock.now_ns()
            if active := [task for job, task in self._running.items() if self._backing_off.get(job, 0) <= now_ns]:
                await self._wait_one_pauses(active)
            elif self._woken.is_set() or self._sleeps_until_ns <= self._clock.now_ns():
                await asyncio.sleep(0)  # It is being woken.
            else:
                return

    async def _wait_one_pauses(self, active: list[asyncio.Task[None]]) -> None:
        """Until one of the jobs has ended, or some job backs off."""
        self._backs_off.clear()
        backs_off = asyncio.ensure_future(self._backs_off.wait())
        try:
            await asyncio.wait([*active, backs_off], return_when=asyncio.FIRST_COMPLETED)
        finally:
            backs_off.cancel()

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
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _look(self) -> None:
        """Starts what is due and for which there is room, then waits for a reason to look again."""
        self._woken.clear()
        if self._backlog and not await self._wait_for_room():
            return
        free = self._limits.jobs_running_max - len(self._running)
        now_ns = self._clock.now_ns()
        running = frozenset(self._running)
        look = await self._executor.run_system(
            lambda transaction: jobs.due(transaction, now_ns=now_ns, limit=free, skip=running)
        )
        for job in look.value.jobs:
            self._start(job)
        self._backlog = len(look.value.jobs) >= free
        if not self._backlog:
            await self._wait(Token(look.read_set, look.ts), look.value.next_due_ns)

    async def _wait_for_room(self) -> bool:
        """While more is due than may run: waits for half of the room, or for what is free when no job ends for a while.

        So a look reads many jobs and not one, and a few long ones do not keep the others waiting. False: ask again.
        """
        running_max = self._limits.jobs_running_max
        if len(self._running) <= running_max // 2:
            return True
        if len(self._running) >= running_max:
            with self._sleeping(NEVER_NS):
                await self._woken.wait()
            return False
        try:
            async with asyncio.timeout(GATHER_S):
                await self._woken.wait()
        except TimeoutError:
            return True
        return False

    async def _wait(self, token: Token, next_due_ns: int | None) -> None:
        """Until the rows that were read are touched, a job ends, or the next one is due."""
        subscription = self._subscriptions.subscribe(token, lambda commit_ts: self._woken.set())
        try:
            if subscription.broken_at is not None:
                return
            waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._woken.wait())]
            if next_due_ns is not None:
                waits.append(asyncio.ensure_future(self._clock.wait_until(next_due_ns)))
            try:
                with self._sleeping(NEVER_NS if next_due_ns is None else next_due_ns):
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

    # --- One job ---------------------------------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        if job.id in self._running:
            return
        task = asyncio.get_running_loop().create_task(self._run_job(job))
        self._running[job.id] = task
        task.add_done_callback(lambda _: self._ended(job.id))

    def _ended(self, job_id: str) -> None:
        task = self._running.pop(job_id)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("job %s could not be run", job_id, exc_info=error)

    async def _run_job(self, job: Job) -> None:
        """To its end; on errors that are not the function's again, ever slower. The row stays pending meanwhile."""
        attempt = 0
        while True:
            try:
                return await self._run_once(job)
            except JobChanged:
                return None
            except ShuttingDown:
                await self._wait_ms(job, self._limits.shutdown_ms_max)  # The next server runs it.
                continue
            except (DiskFault, Retry) as error:
                reason = str(error)
            except Exception as error:
                logger.exception("job %s (%s) could not be run", job.id, job.path)
                reason = type(error).__name__
            attempt += 1
            backoff_ms = self._backoff_ms(attempt)
            logger.warning("job %s (%s) is tried again in %d ms: %s", job.id, job.path, backoff_ms, reason)
            await self._wait_ms(job, backoff_ms)

    def _backoff_ms(self, attempt: int) -> int:
        return min(BACKOFF_MS_MIN << min(attempt, 32), self._limits.job_backoff_ms_max)

    async def _wait_ms(self, job: Job, duration_ms: int) -> None:
        until_ns = self._clock.now_ns() + duration_ms * NS_PER_MS
        self._backing_off[job.id] = until_ns
        self._backs_off.set()
        try:
            while self._clock.now_ns() < until_ns:
                await self._clock.wait_until(until_ns)
        finally:
            del self._backing_off[job.id]

    async def _run_once(self, job: Job) -> None:
        function = self._executor.report.functions.get(job.path)
        if job.in_progress:
            await self._fail(job, INTERRUPTED)
        elif function is None:
            text = f"Could not find function for '{job.path}'. It was removed after the job was scheduled."
            await self._fail(job, text)
        elif function.kind == "mutation":
            await self._run_mutation(job)
        elif function.kind == "action":
            await self._run_action(job)
        else:
            what = f"{job.path} is defined as a {function.kind}. Only mutations and actions can be scheduled."
            await self._fail(job, f"Unsupported function type. {what}")

    async def _run_mutation(self, job: Job) -> None:
        call = Call(job.path, job.arguments, kind="mutation", public_only=False, job=job.id)
        outcome = await self._executor.mutate(call)
        if outcome.error is not None:
            await self._fail(job, outcome.error.message)

    async def _run_action(self, job: Job) -> None:
        async with self._executor.action_room():
            if self._executor.closing:
                raise ShuttingDown  # it stays pending, for the next start
            marked = await self._executor.run_system(lambda transaction: jobs.mark_in_progress(transaction, job.id))
            if not marked.value:
                raise JobChanged
            failpoints.hit(failpoints.AFTER_IN_PROGRESS)
            call = Call(job.path, job.arguments, kind="action", public_only=False, job=job.id)
            outcome = await self._act(call)
        failpoints.hit(failpoints.AFTER_ACTION_EFFECT)
        await self._finish_action(job, outcome)

    async def _act(self, call: Call) -> Outcome:
        """Once in progress, an action is never tried again: whatever keeps it from running is its error."""
        try:
            return await self._executor.act(call, nested=True)  # in the room that `_run_action` holds
        except Retry as error:
            return self._executor.failed(error)

    async def _finish_action(self, job: Job, outcome: Outcome) -> None:
        """The terminal state, tried until it is written; a job that was cancelled meanwhile stays cancelled."""
        attempt = 0
        while True:
            try:
                if outcome.error is not None:
                    await self._fail(job, outcome.error.message)
                else:
                    await self._executor.run_system(
                        lambda transaction: jobs.succeed(transaction, job.id, self._clock.now_ns() / NS_PER_MS)
                    )
                return
            except (DiskFault, Retry) as error:
                attempt += 1
                logger.warning("the end of job %s could not be written: %s", job.id, error)
                await self._wait_ms(job, self._backoff_ms(attempt))

    async def _fail(self, job: Job, text: str) -> None:
        await self._executor.run_system(
            lambda transaction: jobs.fail(transaction, job.id, text, self._clock.now_ns() / NS_PER_MS)
        )
