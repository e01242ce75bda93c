"""Queries as of an earlier time, one after the other: who asks for the latest timestamp may ask for what was true then.

    wait_ts() ──► a worker opens a snapshot and keeps it ──► T
    query_at(T) ──► run in that snapshot, whatever has been committed since
                    or, if it is kept no more: run now, if nothing that it reads has been touched since T

At most `pinned_snapshots_max` snapshots are kept, each for `pinned_snapshot_ms` after it was last asked for as the
latest one; the oldest goes first. Who comes too late is told to begin anew.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

from evolute.clock import NS_PER_MS, Clock
from evolute.database.write_log import LogReader
from evolute.errors import EvoluteError, FunctionCrashed, FunctionTimedOut, LimitReached
from evolute.execution.call_log import CallLog, CallLogEntry
from evolute.execution.executor import Executor
from evolute.execution.pending_request import Pending
from evolute.execution.pool import Pool
from evolute.execution.request import Call, FunctionOutcome, Outcome
from evolute.execution.worker_process import WorkerProcess
from evolute.limits import Limits


@dataclass(eq=False)
class _Pin:
    """A snapshot that a worker keeps; `timer` lets go of it."""

    number: int
    worker: WorkerProcess
    ts: int
    timer: asyncio.TimerHandle | None = None


class PastQueries:
    """Lives on the event loop; `close` lets go of everything."""

    def __init__(
        self, executor: Executor, pool: Pool, log: LogReader, clock: Clock, limits: Limits, call_log: CallLog
    ) -> None:
        self._executor = executor
        self._pool = pool
        self._log = log
        self._clock = clock
        self._limits = limits
        self._call_log = call_log
        self._numbers = itertools.count(1)
        self._pins: dict[int, _Pin] = {}  # by timestamp, the oldest first

    async def wait_ts(self) -> int:
        """The latest timestamp: every commit that was published before this call is in it."""
        latest = self._pins.get(self._log.published_ts)
        if latest is not None and latest.worker.ready and not latest.worker.retired:
            self._keep(latest)
            return latest.ts
        pin = await self._pinned() if self._limits.pinned_snapshots_max else None
        if pin is None:
            return self._log.published_ts
        await self._log.wait_published(pin.ts)
        if (other := self._pins.get(pin.ts)) is not None:
            self._let_go(other)
        while len(self._pins) >= self._limits.pinned_snapshots_max:
            self._let_go(next(iter(self._pins.values())))
        self._pins[pin.ts] = pin
        self._keep(pin)
        return pin.ts

    async def query_at(self, call: Call, ts: int) -> Outcome:
        """The query's answer as of `ts`, which is published. Raises OutOfRetention if that cannot be known any more."""
        pin = self._pins.get(ts)
        if pin is None:
            return await self._executor.query_at(call, ts)
        with self._executor.held():
            started_ns = self._clock.now_ns()
            try:
                ran = await self._sent(pin.number, (call,), pin.worker)
            except (FunctionTimedOut, FunctionCrashed, LimitReached) as error:
                return self._executor.failed(error)
            if ran is not None and ran.refused is None:
                result = ran.results[0]
                outcome = Outcome(result.value, result.error, result.log_lines, ts)
                self._log_call(call, started_ns, outcome)
                return outcome
        return await self._executor.query_at(call, ts)

    def close(self) -> None:
        for pin in list(self._pins.values()):
            self._let_go(pin)

    # --- Snapshots -------------------------------------------------------------------------------------------------

    async def _pinned(self) -> _Pin | None:
        """A snapshot of now, in the worker with the least to do; None if there is none that could keep it."""
        number = next(self._numbers)
        worker = self._pool.least_busy()
        try:
            ran = None if worker is None else await self._sent(number, (), worker)
        except EvoluteError:
            return None
        if worker is None or ran is None or not ran.begin_ts or not worker.ready:
            return None
        return _Pin(number, worker, ran.begin_ts)

    def _keep(self, pin: _Pin) -> None:
        if pin.timer is not None:
            pin.timer.cancel()
        delay_s = self._limits.pinned_snapshot_ms / 1000
        pin.timer = asyncio.get_running_loop().call_later(delay_s, self._let_go, pin)

    def _let_go(self, pin: _Pin) -> None:
        if pin.timer is not None:
            pin.timer.cancel()
        if self._pins.get(pin.ts) is pin:
            del self._pins[pin.ts]
        self._send(-pin.number, (), pin.worker)

    async def _sent(self, number: int, calls: tuple[Call, ...], worker: WorkerProcess) -> FunctionOutcome | None:
        """What the worker answers, or None if it takes no more requests. Raises as `Pool.run` does."""
        answer = self._send(number, calls, worker)
        return None if answer is None else await answer

    def _send(
        self, number: int, calls: tuple[Call, ...], worker: WorkerProcess
    ) -> asyncio.Future[FunctionOutcome] | None:
        if not worker.ready or worker.retired:
            return None
        answered: asyncio.Future[FunctionOutcome] = asyncio.get_running_loop().create_future()
        answered.add_done_callback(_look_at)
        self._pool.submit(worker, Pending("queries", calls, answered, kept=number))
        return answered

    def _log_call(self, call: Call, started_ns: int, outcome: Outcome) -> None:
        error = None if outcome.error is None else outcome.error.message
        duration_ms = (self._clock.now_ns() - started_ns) / NS_PER_MS
        self._call_log.add(CallLogEntry(call.path, "query", started_ns, duration_ms, outcome.log_lines, error, None))


def _look_at(answered: asyncio.Future[FunctionOutcome]) -> None:
    """Nobody may wait for it, and then its error is nobody's."""
    if not answered.cancelled():
        answered.exception()
