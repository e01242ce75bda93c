"""Runs crons: a loop that sleeps until the earliest is due, or until what it has read of the table is touched.

    look: one transaction reads the crons that are due ──► one task for each ──► the one door
      ▲                                                                            │
      └── a run ended · the next one is due · a deployment or a mutation touched ──┘

A cron has at most one task, so its runs never overlap. A mutation's run, its record and the next due time are one
commit. An action's run is marked in progress first and never repeated: one that is found in progress, and that this
process is not running, was interrupted by a crash; it is recorded as failed, and the cron goes on. What fails is told
in the record, and the next run comes when it is due; only what is not the function's fault is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from evolute import failpoints
from evolute.clock import NS_PER_MS, Clock
from evolute.database.subscriptions import Subscriptions, Token
from evolute.database.transaction import Transaction
from evolute.errors import DiskFault, Retry, ShuttingDown
from evolute.execution.executor import Executor, JobChanged
from evolute.execution.request import Call, CallError, Outcome
from evolute.limits import Limits
from evolute.system import crons, pauses
from evolute.system.crons import Cron, DueCrons, Run

logger = logging.getLogger("evolute.crons")

INTERRUPTED = "Transient error while executing action"
LOOK_AGAIN_MS = 1000
NEVER_NS = 1 << 63


@dataclass(frozen=True)
class CronStatistics:
    """The loop at one moment. `resting` runs wait to be tried again; they count as running."""

    running: int
    resting: int
    runs: int
    skipped: int


class CronLoop:
    """Owns the tasks of the running crons. `run` is the loop; `close` ends it and what it runs."""

    def __init__(self, executor: Executor, subscriptions: Subscriptions, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._running: dict[str, asyncio.Task[None]] = {}
        self._resting: dict[str, int] = {}
        self._woken = asyncio.Event()
        self._asleep = asyncio.Event()
        self._turned = asyncio.Event()
        self._next_due_ns = NEVER_NS
        self._runs = 0
        self._skipped = 0

    @property
    def sleeps_until_ns(self) -> int:
        """When something happens by itself: the loop looks again, or a run is tried again."""
        return min(self._next_due_ns, *self._resting.values(), NEVER_NS)

    def statistics(self) -> CronStatistics:
        return CronStatistics(len(self._running), len(self._resting), self._runs, self._skipped)

    async def wait_idle(self) -> None:
        """Returns when nothing runs, nothing is due, and the loop sleeps. For tests, whose clock stands still."""
        while True:
            await self._asleep.wait()
            if len(self._running) > len(self._resting):
                self._turned.clear()
                await self._turned.wait()
            elif self._woken.is_set() or self.sleeps_until_ns <= self._clock.now_ns():
                await asyncio.sleep(0)  # It is being woken.
            else:
                return

    async def run(self) -> None:
        """Runs until cancelled. A look that fails is made again a second later."""
        while True:
            try:
                await self._look()
                continue
            except (DiskFault, Retry) as error:
                logger.error("the crons could not be read: %s", error)
            except Exception:
                logger.exception("the crons could not be read")
            again_ns = self._clock.now_ns() + LOOK_AGAIN_MS * NS_PER_MS
            with self._sleeping(again_ns):
                await self._reach(again_ns)

    async def close(self) -> None:
        """Call after `run` has been cancelled. Actions that still run are interrupted as by a crash."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _look(self) -> None:
        """Starts what is due and for which there is room, then waits for a reason to look again."""
        self._woken.clear()
        free = self._limits.crons_running_max - len(self._running)
        now_ns, running = self._clock.now_ns(), frozenset(self._running)

        def read(transaction: Transaction) -> DueCrons:
            if None in pauses.paused(transaction):  # Everything is paused; on resuming each cron runs once, then skips.
                return DueCrons([], None)
            return crons.due(transaction, now_ns=now_ns, limit=free, skip=running)

        look = await self._executor.run_system(read)
        for cron in look.value.crons:
            self._start(cron)
        is_full = len(self._running) >= self._limits.crons_running_max
        next_due_ns = NEVER_NS if is_full or look.value.next_due_ns is None else look.value.next_due_ns
        await self._wait(Token(look.read_set, look.ts), next_due_ns)

    async def _wait(self, token: Token, next_due_ns: int) -> None:
        """Until the rows that were read are touched, a run ends, or the next one is due."""
        subscription = self._subscriptions.subscribe(token, lambda commit_ts: self._woken.set())
        if subscription.broken_at is not None:
            return
        waits: list[asyncio.Future[Literal[True]]] = [asyncio.ensure_future(self._woken.wait())]
        if next_due_ns != NEVER_NS:
            waits.append(asyncio.ensure_future(self._reach(next_due_ns)))
        try:
            with self._sleeping(next_due_ns):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            subscription.close()

    @contextmanager
    def _sleeping(self, until_ns: int) -> Iterator[None]:
        """While the loop waits for the time, or for what others do."""
        self._next_due_ns = until_ns
        self._asleep.set()
        try:
            yield
        finally:
            self._asleep.clear()

    async def _reach(self, ts_ns: int) -> Literal[True]:
        """Waits until it is that late, whatever the clock does meanwhile; of its own it looks at nothing else."""
        while self._clock.now_ns() < ts_ns:
            await self._clock.wait_until(ts_ns)
        return True

    # --- One run ---------------------------------------------------------------------------------------------------

    def _start(self, cron: Cron) -> None:
        if cron.id in self._running:
            return
        self._runs += 1
        task = asyncio.get_running_loop().create_task(self._run_cron(cron))
        self._running[cron.id] = task
        task.add_done_callback(lambda _: self._ended(cron))

    def _ended(self, cron: Cron) -> None:
        task = self._running.pop(cron.id)
        self._turned.set()
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("cron %s could not be run", cron.name, exc_info=error)

    async def _run_cron(self, cron: Cron) -> None:
        """To its end; on errors that are not the function's again, ever slower, for as long as the row is as it was."""
        attempt = 0
        while True:
            try:
                return await self._run_once(cron)
            except JobChanged:
                return None
            except ShuttingDown:
                await self._pause(cron, self._limits.shutdown_ms_max)  # The next server runs it.
                continue
            except (DiskFault, Retry) as error:
                reason = str(error)
            except Exception as error:
                logger.exception("cron %s (%s) could not be run", cron.name, cron.path)
                reason = type(error).__name__
            await self._rest(cron, attempt, f"is tried again: {reason}")
            attempt += 1

    async def _rest(self, cron: Cron, attempt: int, what: str) -> None:
        limits = self._limits
        backoff_ms = min(limits.cron_backoff_ms_min << min(attempt, 32), limits.cron_backoff_ms_max)
        logger.warning("cron %s (%s), in %d ms, %s", cron.name, cron.path, backoff_ms, what)
        await self._pause(cron, backoff_ms)

    async def _pause(self, cron: Cron, backoff_ms: int) -> None:
        """No longer than that if the clock is set back meanwhile."""
        since_ns = self._clock.now_ns()
        until_ns = self._resting[cron.id] = since_ns + backoff_ms * NS_PER_MS
        self._turned.set()
        try:
            while since_ns <= self._clock.now_ns() < until_ns:
                await self._clock.wait_until(until_ns)
        finally:
            del self._resting[cron.id]

    async def _run_once(self, cron: Cron) -> None:
        function = self._executor.report.functions.get(cron.path)
        if cron.in_progress:
            await self._fail(cron, INTERRUPTED)
        elif function is None:
            await self._fail(
                cron, f"Could not find function for '{cron.path}'. It was removed since the cron was made."
            )
        elif function.kind == "mutation":
            await self._run_mutation(cron)
        elif function.kind == "action":
            await self._run_action(cron)
        else:
            what = f"{cron.path} is defined as a {function.kind}. Only mutations and actions can be scheduled."
            await self._fail(cron, f"Unsupported function type. {what}")

    async def _run_mutation(self, cron: Cron) -> None:
        call = Call(cron.path, cron.arguments, kind="mutation", public_only=False, cron=cron.due)
        started_ns = self._clock.now_ns()
        outcome = await self._executor.mutate(call)
        if outcome.error is not None:
            await self._end(cron, outcome, started_ns)
        else:
            failpoints.hit(failpoints.AFTER_CRON_END)
            skipped = await self._executor.run_system(lambda transaction: crons.skipped_since(transaction, cron.due))
            self._tell_skipped(cron, skipped.value)

    async def _run_action(self, cron: Cron) -> None:
        # What still waits for a worker loses nothing in a crash.
        async with self._executor.action_room(cron.path) as place:
            if self._executor.closing:
                raise ShuttingDown  # it stays pending, for the next start
            begun = await self._executor.run_system(
                lambda transaction: crons.begin(transaction, cron.due, cron.path, cron.arguments)
            )
            if not begun.value:
                raise JobChanged
            failpoints.hit(failpoints.AFTER_IN_PROGRESS)
            started_ns = self._clock.now_ns()
            call = Call(cron.path, cron.arguments, kind="action", public_only=False, cron=cron.due, place=place)
            outcome = await self._act(call)
        failpoints.hit(failpoints.AFTER_ACTION_EFFECT)
        attempt = 0
        while True:
            try:
                return await self._end(cron, outcome, started_ns)
            except (DiskFault, Retry) as error:
                await self._rest(cron, attempt, f"its end is written: {error}")
                attempt += 1

    async def _act(self, call: Call) -> Outcome:
        """Once in progress, an action is never tried again: whatever keeps it from running is its error."""
        try:
            return await self._executor.act(call, nested=True)  # in the room that `_run_action` holds
        except Retry as error:
            return self._executor.failed(error)

    async def _fail(self, cron: Cron, text: str) -> None:
        await self._end(cron, Outcome(None, CallError(text), (), 0), self._clock.now_ns())

    async def _end(self, cron: Cron, outcome: Outcome, started_ns: int) -> None:
        now_ns = self._clock.now_ns()
        error = None if outcome.error is None else outcome.error.message
        run = Run(outcome.value, error, outcome.log_lines, max(0, now_ns - started_ns) / NS_PER_MS, now_ns)
        skipped = await self._executor.run_system(lambda transaction: crons.end(transaction, cron.due, run))
        failpoints.hit(failpoints.AFTER_CRON_END)
        self._tell_skipped(cron, skipped.value)

    def _tell_skipped(self, cron: Cron, skipped: int) -> None:
        self._skipped += skipped
        if skipped:
            logger.warning("%s", crons.skipped_text(cron.name, skipped))
