"""Interrupts an action that blocks its event loop, so that the other actions of the worker go on.

    loop turns ──► beat: timer set anew ──► beat ──► …           loop blocked ──► the timer fires ──► TimeLimit raised
                   every quarter of the limit                                      in the code that blocks

The signal handler runs between two bytecodes of whatever the loop is running. If that is an action's code, it raises
there, and only that action fails. If it is the runtime's own, the timer is set for a moment later. Code that never
returns to Python is not reached: then the server, whose pings are not answered, kills the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
from collections.abc import Callable
from types import FrameType

from evolute.errors import TimeLimit
from evolute.limits import Limits

BEATS_PER_LIMIT = 4
LATER_S = 0.01


class LoopWatchdog:
    """Owns SIGALRM and the real interval timer of the process while actions run on `loop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: Limits, interruptible: Callable[[FrameType | None], bool]
    ) -> None:
        self._loop = loop
        self._limit_s = max(limits.action_block_ms_max, 1) / 1000
        self._interruptible = interruptible
        self._actions = 0
        self._beat_handle: asyncio.TimerHandle | None = None
        self._context = contextvars.copy_context()
        signal.signal(signal.SIGALRM, self._on_timer)

    def action_started(self) -> None:
        self._actions += 1
        if self._actions == 1:
            self._beat()

    def action_ended(self) -> None:
        self._actions -= 1
        if self._actions == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if self._beat_handle is not None:
                self._beat_handle.cancel()

    def _beat(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        self._beat_handle = self._loop.call_later(self._limit_s / BEATS_PER_LIMIT, self._beat, context=self._context)

    def _on_timer(self, signal_number: int, frame: FrameType | None) -> None:
        if not self._actions:
            return
        if not self._interruptible(frame):
            signal.setitimer(signal.ITIMER_REAL, LATER_S)
            return
        signal.setitimer(signal.ITIMER_REAL, self._limit_s / BEATS_PER_LIMIT)
        raise TimeLimit(
            f"The action blocked its event loop (maximum duration: {self._limit_s:g}s; the setting is "
            "action_block_ms_max). Await what takes long, or run it with asyncio.to_thread."
        )
