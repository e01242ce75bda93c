"""The time of one blocking action: a timer that interrupts it where it stands, and a deadline for what it waits for.

The signal handler raises TimeLimit in the action's own code and in what that calls, `time.sleep` and sockets included.
While the runtime is running, the exception would tear what it does (half a frame sent), so the handler looks again a
moment later; the one thing there that may wait long, the server's answer, is waited for until the deadline and no
longer. Code that never returns to Python is not reached: then the server kills the process.
"""

from __future__ import annotations

import signal
from types import FrameType

from evolute.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from evolute.errors import TimeLimit
from evolute.execution.call_failure import in_user_code
from evolute.execution.time_limits import user_limit_text
from evolute.limits import Limits

LATER_S = 0.01
RAISE_AGAIN_S = 0.1


class ActionTimer:
    """Owns SIGALRM and the real interval timer of the process. `fired` is the first TimeLimit of the current action."""

    def __init__(self, limits: Limits, package: str) -> None:
        self._action_ms_max = limits.action_ms_max
        self._package = package
        self._deadline_ns = 0
        self._running = False
        self.fired: TimeLimit | None = None
        signal.signal(signal.SIGALRM, self._on_timer)

    def start(self) -> None:
        self.fired = None
        self._running = True
        self._deadline_ns = monotonic_ns() + self._action_ms_max * NS_PER_MS
        signal.setitimer(signal.ITIMER_REAL, self._action_ms_max / 1000)

    def stop(self) -> None:
        self._running = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def left_s(self) -> float:
        """How long the action may still wait. Raises TimeLimit if its time is up."""
        left_ns = self._deadline_ns - monotonic_ns()
        if left_ns <= 0:
            raise self._time_limit()
        return left_ns / NS_PER_S

    def _on_timer(self, signal_number: int, frame: FrameType | None) -> None:
        if not self._running:
            return
        if not in_user_code(frame, self._package):
            signal.setitimer(signal.ITIMER_REAL, LATER_S)
            return
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_S)
        raise self._time_limit()

    def _time_limit(self) -> TimeLimit:
        error = TimeLimit(user_limit_text(self._action_ms_max, "action_ms_max"))
        if self.fired is None:
            self.fired = error
        return error
