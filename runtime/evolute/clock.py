"""Time and chance, the only place that reads either.

A `Clock` tells the time and waits for it. `SystemClock` is the machine's; `ManualClock` stands still until a test
advances it, and drives the scheduler in `evolute.testing`. All times are nanoseconds since the Unix epoch unless a
name says otherwise.
"""

from __future__ import annotations

import heapq
import itertools
import os
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Tells the time. `wait_until` may return early; callers look at the time again."""

    def now_ns(self) -> int: ...

    async def wait_until(self, ts_ns: int) -> None: ...


class SystemClock:
    """The machine's clock. It may step in either direction, so waits are at most `RECHECK_S` long."""

    RECHECK_S = 1.0

    now_ns = staticmethod(time.time_ns)

    async def wait_until(self, ts_ns: int) -> None:
        import asyncio  # late, here and below: transaction workers need the time, and start in half of asyncio's

        await asyncio.sleep(min(max(ts_ns - time.time_ns(), 0) / NS_PER_S, self.RECHECK_S))


class ManualClock:
    """Stands still until `advance` or `set_ns`. Waiters whose time has come are woken in order of their times."""

    def __init__(self, start_ns: int = 1_700_000_000 * NS_PER_S) -> None:
        self._now_ns = start_ns
        self._order = itertools.count()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        return self._now_ns

    async def wait_until(self, ts_ns: int) -> None:
        import asyncio

        if ts_ns <= self._now_ns:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (ts_ns, next(self._order), future))
        await future

    def set_ns(self, ts_ns: int) -> None:
        """Call on the event loop's thread. Time may go backwards, as a machine's may: then all who wait look again."""
        goes_back, self._now_ns = ts_ns < self._now_ns, ts_ns
        while self._waiters and (goes_back or self._waiters[0][0] <= ts_ns):
            future = heapq.heappop(self._waiters)[2]
            if not future.done():
                future.set_result(None)


monotonic_ns = time.monotonic_ns
"""For measuring how long something took; never stored."""


def random_bytes(length: int) -> bytes:
    """From the operating system."""
    return os.urandom(length)
