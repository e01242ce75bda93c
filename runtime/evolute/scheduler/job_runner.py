"""One job, to its end: run through the one door, and its end written whatever it takes.

A job of a mutation is begun, run and finished in the mutation's own transaction: one commit holds its writes and its
state, so it happens exactly once whatever crashes. A job of an action is marked in progress first, in a commit of its
own, and is never run again unless it has a retry policy: one found in progress that this process is not running was
interrupted by a crash. So it is marked only when a worker is ready and has room for it: what still waits loses
nothing in a crash. A job that keeps killing its worker is failed in the end, and a completion function that cannot
be run does not keep its job from ending.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from evolute import failpoints
from evolute.clock import NS_PER_MS, Clock
from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscriptions, Token
from evolute.errors import DiskFault, FunctionCrashed, FunctionTimedOut, Retry, ShuttingDown, WorkerDied
from evolute.execution.executor import Executor, JobChanged
from evolute.execution.request import COMPLETION_FAILED, Call, CallError, Outcome
from evolute.limits import Limits
from evolute.registry.job_options import RetryPolicy
from evolute.scheduler.job_reason import BackOff
from evolute.storage.keyspace import document_key
from evolute.system import job_endings, jobs
from evolute.system.job_endings import Ending
from evolute.system.jobs import CANCELED, PENDING, Job
from evolute.values.document_id import decode_id

logger = logging.getLogger("evolute.scheduler")

INTERRUPTED = "Transient error while executing action"
CANCELED_TEXT = "The action was cancelled by the server."
CANCELED_BLOCKING_TEXT = "The action was cancelled by the server, and its process was ended."
BACKOFF_MS_MIN = 100

# What became of a run; "again" has been put off, None was somebody else's business.
RunEnd: TypeAlias = Literal["success", "failed", "canceled", "again"] | None
T = TypeVar("T")

_CUT_SHORT = CallError(INTERRUPTED, None, "Interrupted")
_DEATHS = (WorkerDied.code, FunctionTimedOut.code, FunctionCrashed.code)


class JobRunner:
    """Runs jobs on the event loop; `run` is a task's whole life.

    `resting` are the jobs that wait to be tried again, by id; `rests` is set when one begins to.
    """

    def __init__(self, executor: Executor, subscriptions: Subscriptions, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self.resting: dict[str, BackOff] = {}
        self.rests = asyncio.Event()

    async def run(self, job: Job) -> RunEnd:
        """To its end; on errors that are not the function's again, ever slower. The row stays pending meanwhile."""
        attempt = 0
        while True:
            try:
                return await self._run_once(job)
            except JobChanged:
                found = await self._persistently(job, partial(self._find, job.id))
                if found is None or found.state != CANCELED:
                    return None
                job = found
                continue
            except ShuttingDown:
                await self._rest(job, self._limits.shutdown_ms_max, "the server is shutting down")  # The next runs it.
                continue
            except (DiskFault, Retry) as error:
                reason = str(error)
            except Exception as error:
                logger.exception("job %s (%s) could not be run", job.id, job.path)
                reason = type(error).__name__
            attempt += 1
            await self._back_off(job, attempt, reason)

    async def _run_once(self, job: Job) -> RunEnd:
        function = self._executor.report.functions.get(job.path)
        if job.state == CANCELED:
            return await self._end(job, Ending("canceled"))
        if job.in_progress:
            return await self._action_failed(job, _CUT_SHORT)
        if function is None:
            text = f"Could not find function for '{job.path}'. It was removed after the job was scheduled."
            return await self._end(job, Ending("failed", None, text))
        if function.kind == "mutation":
            return await self._run_mutation(job)
        if function.kind == "action":
            return await self._run_action(job)
        what = f"{job.path} is defined as a {function.kind}. Only mutations and actions can be scheduled."
        return await self._end(job, Ending("failed", None, f"Unsupported function type. {what}"))

    # --- Mutations ----------------------------------------------------------------------------------------------------

    async def _run_mutation(self, job: Job) -> RunEnd:
        """Its deaths are on record, so that no crash of the server gives it more of them."""
        deaths, ending = job.deaths, self._last_chance(job, job.deaths)
        while deaths < self._limits.job_worker_deaths_max:
            call = Call(job.path, job.arguments, kind="mutation", public_only=False, job=job.id, ending=ending)
            outcome = await self._executor.mutate(call)
            error = outcome.error
            if error is None:
                failpoints.hit(failpoints.AFTER_JOB_END)
                return "success"
            if error.code == COMPLETION_FAILED and ending is None:
                failpoints.hit(failpoints.AFTER_COMPLETION_FAILED)
                ending = Ending("success", untold=error.message)  # once more, and without the completion function
                continue
            if error.code != FunctionCrashed.code:
                return await self._end(job, Ending("failed", None, error.message))
            deaths = await self._persistently(job, lambda: self._count_death(job))
            ending = self._last_chance(job, deaths) or ending
            if deaths < self._limits.job_worker_deaths_max:
                await self._back_off(job, deaths, error.message)
        poisoned = Ending("failed", None, self._poison_text(job, deaths))
        return await self._persistently(job, lambda: self._end(job, poisoned))

    def _last_chance(self, job: Job, deaths: int) -> Ending | None:
        """The last run is the job's alone, if it has killed before: the completion function may be what kills."""
        if job.on_complete is None or not 0 < deaths == self._limits.job_worker_deaths_max - 1:
            return None
        return Ending("success", untold=f"{job.path}: the worker process died while it and {job.on_complete} ran")

    async def _count_death(self, job: Job) -> int:
        counted = await self._executor.run_system(lambda transaction: job_endings.count_death(transaction, job.id))
        if counted.value is None:
            raise JobChanged
        failpoints.hit(failpoints.AFTER_DEATH)
        return counted.value

    def _poison_text(self, job: Job, deaths: int) -> str:
        return (
            f"{job.path}: the worker process died {deaths} times while this job ran, and it is not run again "
            "(the setting is job_worker_deaths_max)"
        )

    # --- Actions ------------------------------------------------------------------------------------------------------

    async def _run_action(self, job: Job) -> RunEnd:
        with ExitStack() as under_way:  # from the mark to the end, also for the drain
            async with self._room(job) as place:
                if self._executor.closing:
                    raise ShuttingDown  # it stays pending, for the next start
                under_way.enter_context(self._executor.held())
                marked = await self._executor.run_system(lambda transaction: jobs.mark_in_progress(transaction, job.id))
                if not marked.value:
                    raise JobChanged
                failpoints.hit(failpoints.AFTER_IN_PROGRESS)
                call = Call(job.path, job.arguments, kind="action", public_only=False, job=job.id, place=place)
                outcome, canceled = await self._act_unless_canceled(job, call, marked.ts)
            failpoints.hit(failpoints.AFTER_ACTION_EFFECT)
            return await self._end_action(job, outcome, canceled=canceled, blocking=place is not None)

    @asynccontextmanager
    async def _room(self, job: Job) -> AsyncIterator[int | None]:
        """The executor's `action_room`; a job that is canceled while it waits leaves the line: raises JobChanged."""
        async with AsyncExitStack() as held:
            room = held.enter_async_context(self._executor.action_room(job.path))
            entering = asyncio.get_running_loop().create_task(room)
            try:
                await asyncio.sleep(0)  # if there is room, it has entered by now
                while not entering.done():
                    found = await self._executor.run_system(lambda transaction: jobs.read(transaction, job.id))
                    if found.value is None or found.value["state"]["kind"] != PENDING:
                        raise JobChanged
                    await self._wait_touched(job, found.ts, entering)
            finally:
                entering.cancel()
                await asyncio.wait({entering})
            yield entering.result()

    async def _end_action(self, job: Job, outcome: Outcome | None, *, canceled: bool, blocking: bool) -> RunEnd:
        if canceled:
            text = CANCELED_BLOCKING_TEXT if blocking else CANCELED_TEXT
            if outcome is not None and outcome.error is not None:
                text = outcome.error.message
            return await self._persistently(job, lambda: self._end(job, Ending("canceled", None, text)))
        assert outcome is not None
        error = outcome.error
        if error is not None:
            return await self._persistently(job, lambda: self._action_failed(job, error))
        return await self._persistently(job, lambda: self._end(job, Ending("success", outcome.value)))

    async def _act_unless_canceled(self, job: Job, call: Call, ts: int) -> tuple[Outcome | None, bool]:
        """Runs the action, and ends it at its next await if its row says that it was canceled.

        A subscription to the row tells: while the action runs, nobody else touches it.
        """
        acting = asyncio.get_running_loop().create_task(self._act(call))
        try:
            while not acting.done():
                await self._wait_touched(job, ts, acting)
                if acting.done():
                    break
                found = await self._executor.run_system(lambda transaction: jobs.read(transaction, job.id))
                ts = found.ts
                if found.value is None or found.value["state"]["kind"] == CANCELED:
                    acting.cancel()
                    await asyncio.wait({acting})
                    return (None if acting.cancelled() else acting.result()), True
        finally:
            acting.cancel()
        return acting.result(), False

    async def _wait_touched(self, job: Job, ts: int, other: asyncio.Task[Any]) -> None:
        """Until the job's row is not what it was at `ts`, or the other task has ended."""
        row = ReadSet()
        row.add_point(document_key(*decode_id(job.id)))
        touched = asyncio.get_running_loop().create_future()

        def on_broken(commit_ts: int) -> None:
            if not touched.done():
                touched.set_result(None)

        subscription = self._subscriptions.subscribe(Token(row, ts), on_broken)
        try:
            if subscription.broken_at is None:
                await asyncio.wait({other, touched}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            subscription.close()
            touched.cancel()

    async def _act(self, call: Call) -> Outcome:
        """Once in progress, whatever keeps an action from running is its error."""
        try:
            return await self._executor.act(call, nested=True)  # in the room that `_run_action` holds
        except Retry as error:
            return self._executor.failed(error)

    async def _action_failed(self, job: Job, error: CallError) -> RunEnd:
        """Tried later if its policy says so, and failed if not."""
        died = error.code in _DEATHS
        note = ""
        if job.retry is not None:
            policy = RetryPolicy.from_row(job.retry)
            text = error.message
            cut_short = error is _CUT_SHORT or error.code == WorkerDied.code
            if cut_short or policy.covers(error.classes):
                put_off = await self._executor.run_system(
                    lambda transaction: job_endings.try_later(transaction, job.id, text, policy, died=died)
                )
                if put_off.value is None:
                    failpoints.hit(failpoints.AFTER_PUT_OFF)
                    return "again"
                note = put_off.value
        return await self._end(job, Ending("failed", None, f"{error.message}\n{note}" if note else error.message))

    # --- The end ------------------------------------------------------------------------------------------------------

    async def _end(self, job: Job, ending: Ending) -> RunEnd:
        """One commit holds the terminal state and what the completion function wrote; without it, if it fails."""
        untold: str | None = None
        if job.on_complete is not None:
            call = Call(job.on_complete, b"{}", kind="mutation", public_only=False, job=job.id, ending=ending)
            outcome = await self._executor.mutate(call)
            if outcome.error is None:
                failpoints.hit(failpoints.AFTER_JOB_END)
                return ending.kind
            failpoints.hit(failpoints.AFTER_COMPLETION_FAILED)
            untold = outcome.error.message
        ended = await self._executor.run_system(
            lambda transaction: job_endings.settle(transaction, job.id, ending, untold=untold)
        )
        if ended.value is None:
            raise JobChanged
        failpoints.hit(failpoints.AFTER_JOB_END)
        return ending.kind

    async def _find(self, job_id: str) -> Job | None:
        return (await self._executor.run_system(lambda transaction: jobs.find(transaction, job_id))).value

    async def _persistently(self, job: Job, write: Callable[[], Awaitable[T]]) -> T:
        """What has happened is written down, however often the store refuses: an action cannot be run again for it."""
        attempt = 0
        while True:
            try:
                return await write()
            except (DiskFault, Retry) as error:
                attempt += 1
                await self._back_off(job, attempt, f"its end could not be written: {error}")

    async def _back_off(self, job: Job, attempt: int, reason: str) -> None:
        wait_ms = min(BACKOFF_MS_MIN << min(attempt, 32), self._limits.job_backoff_ms_max)
        logger.warning("job %s (%s) is tried again in %d ms: %s", job.id, job.path, wait_ms, reason)
        await self._rest(job, wait_ms, reason)

    async def _rest(self, job: Job, wait_ms: int, reason: str) -> None:
        """No longer than that if the clock is set back meanwhile."""
        since_ns = self._clock.now_ns()
        until_ns = since_ns + wait_ms * NS_PER_MS
        self.resting[job.id] = BackOff(until_ns, reason)
        self.rests.set()
        try:
            while since_ns <= self._clock.now_ns() < until_ns:
                await self._clock.wait_until(until_ns)
        finally:
            del self.resting[job.id]
