"""When a batch leaves for the disk: as soon as that is free, unless others are about to join it.

    few are being run    ─ a ──►                             with what arrives in the same turn of the event loop
    many are             ─ a ─── b ─ c ──── d ── e ─ f ──►   when as many are in it as are still run, or LENGTH_MAX
                         ├───────── WAIT_S at most ────┤

A batch costs the processors as much as half a dozen of its commits do, beside these. Where many are being run, the
processors are what everybody waits for: small batches, one behind the other, would make all of them slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

RUNNING_MIN = 8
LENGTH_MAX = 24
WAIT_S = 0.005


class Departure:
    """For the event loop's thread. `length` says how many commits wait for the disk, `leave` has the next batch go.

    `running` is how many transactions are being run, as far as is known, that may join it.
    """

    def __init__(self, length: Callable[[], int], leave: Callable[[], None]) -> None:
        self._length = length
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._planned: asyncio.Handle | None = None
        self._is_waiting = False
        self.running = 0

    def joined(self) -> None:
        """One more commit is in the batch, and the disk is free."""
        if self._planned is None:
            # Not at once: whatever else arrives in this turn of the loop shares the sync.
            self._planned = self._loop.call_soon(self.leave_or_wait)
        elif self._is_waiting and self._is_long_enough():
            self.leave()

    def leave_or_wait(self) -> None:
        """The disk is free."""
        if self._is_long_enough():
            self.leave()
        else:
            self._cancel()
            self._planned, self._is_waiting = self._loop.call_later(WAIT_S, self.leave), True

    def hurry(self) -> None:
        """Nobody will join until the next one does."""
        self.running = 0
        self.leave()

    def leave(self) -> None:
        self._cancel()
        self._leave()

    def _is_long_enough(self) -> bool:
        length = self._length()
        return not length or self.running < RUNNING_MIN or length >= min(self.running, LENGTH_MAX)

    def _cancel(self) -> None:
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        self._is_waiting = False
