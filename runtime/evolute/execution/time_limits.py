"""The first stage of a time limit: a timer in the worker that interrupts the line that runs too long.

    user code ───┐ctx┌──────┐  ctx  ┌────────────┐
                 └───┘      └───────┘            ▲ the timer: user time is what lies outside `ctx`

`CallClock` counts both times of a call and owns the process's interval timer. When the timer fires the handler looks at
the clock: it sets the timer again for what is left, or raises TimeLimit where the function stands, so that the error
shows that line. Inside `ctx` nothing is raised; what is due is raised as the function comes out of it. A timer that was
set for one call is left to the next ones, which it reminds too soon and never too late: so most calls set none.
The second stage, for code that swallows the exception or never returns to Python, is the server's: it kills the worker.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from evolute.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from evolute.errors import TimeLimit
from evolute.limits import Limits

A = TypeVar("A")
R = TypeVar("R")

_REARM_NS_MIN = NS_PER_MS
_RAISE_AGAIN_NS = 100 * NS_PER_MS


def user_limit_text(ms: int, setting: str) -> str:
    """What a call that ran past its limit fails with (semantics F)."""
    return f"Function execution timed out (maximum duration: {ms / 1000:g}s); the setting is {setting}"


def system_limit_text(ms: int) -> str:
    return (
        "Your request timed out performing too many system operations "
        f"(maximum duration: {ms / 1000:g}s); the setting is system_ms_max"
    )


class CallClock:
    """The time of one call at a time. `install` makes it interrupt; without it, it only measures (in tests' processes).

    `fired` is the TimeLimit that was raised in the current call, or None: a call whose clock has fired has failed,
    whatever the function did with the exception.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._system_ns_max = limits.system_ms_max * NS_PER_MS
        self._interrupts = False
        self._running = False
        self._inside = 0
        self._entered_ns = 0
        self._started_ns = 0
        self._rings_ns = 0
        self._system_ns = 0
        self._user_ns_max = 0
        self._setting = ""
        self._user_ms_max = 0
        self._due = False
        self.fired: TimeLimit | None = None
        self.user_ns = 0
        self.total_ns = 0

    def install(self) -> None:
        """Takes SIGALRM and the real interval timer of this process. Call on the main thread."""
        signal.signal(signal.SIGALRM, self._on_timer)
        self._interrupts = True

    def start(self, user_ms_max: int, setting: str) -> None:
        """A call begins. It counts as inside `ctx` until the function is entered by `user_code`."""
        assert not self._running, "one call at a time"
        self._running = True
        self.fired = None
        self._due = False
        self._user_ms_max, self._setting = user_ms_max, setting
        self._user_ns_max = user_ms_max * NS_PER_MS
        self._system_ns = 0
        self._inside = 1
        self._started_ns = self._entered_ns = started_ns = monotonic_ns()
        if not started_ns < self._rings_ns <= started_ns + self._user_ns_max:
            self._ring_in(self._user_ns_max)

    def stop(self) -> None:
        """The call has ended: nothing is raised any more. `user_ns` and `total_ns` are its times."""
        self._running = False
        assert self._inside, "a call ends outside of the user's code"
        ended_ns = monotonic_ns()
        self._inside = 0
        self.total_ns = ended_ns - self._started_ns
        self.user_ns = self.total_ns - self._system_ns - (ended_ns - self._entered_ns)

    def enter(self) -> None:
        """The function steps into `ctx`. Raises TimeLimit if it should have ended before."""
        if self.fired is not None:
            raise TimeLimit(str(self.fired))
        if self._inside == 0:
            self._entered_ns = monotonic_ns()
        self._inside += 1

    def leave(self) -> None:
        """The function comes out of `ctx`. Raises TimeLimit if one of its limits was reached meanwhile."""
        if self._inside > 1:
            self._inside -= 1
            return
        self._system_ns += monotonic_ns() - self._entered_ns
        self._inside = 0
        if self._due or self._system_ns > self._system_ns_max:
            self._due = False
            self._raise_or_rearm()

    def user_code(self, function: Callable[..., R], /, *arguments: object, **named: object) -> R:
        """Calls a function of the user's from inside `ctx`: until it returns, time is user time."""
        inside = self._inside
        self._system_ns += monotonic_ns() - self._entered_ns
        try:
            self._inside = 0
            if self._due:
                self._due = False
                self._raise_or_rearm()
            return function(*arguments, **named)
        finally:
            self._inside = inside  # first of all: from here on the timer does not raise
            self._entered_ns = monotonic_ns()

    def as_user_code(self, function: Callable[[A], R]) -> Callable[[A], R]:
        """`function`, for a `ctx` call that calls it back: its time is the user's."""

        @functools.wraps(function, assigned=(), updated=())
        def called(argument: A) -> R:
            return self.user_code(function, argument)

        return called

    def _ring_in(self, left_ns: int) -> None:
        if self._interrupts:
            left_ns = max(left_ns, _REARM_NS_MIN)
            self._rings_ns = monotonic_ns() + left_ns
            signal.setitimer(signal.ITIMER_REAL, left_ns / NS_PER_S)

    def _on_timer(self, signal_number: int, frame: FrameType | None) -> None:
        self._rings_ns = 0
        if not self._running:
            return
        if self._inside:
            self._due = True
        else:
            self._raise_or_rearm()

    def _raise_or_rearm(self) -> None:
        if self._system_ns > self._system_ns_max:
            self._raise(system_limit_text(self._limits.system_ms_max))
        left_ns = self._user_ns_max - (monotonic_ns() - self._started_ns - self._system_ns)
        if left_ns <= 0:
            self._raise(user_limit_text(self._user_ms_max, self._setting))
        self._ring_in(left_ns)

    def _raise(self, text: str) -> None:
        """The first one is kept; where it was swallowed, it is raised again and again."""
        error = TimeLimit(text)
        if self.fired is None:
            self.fired = error
        self._ring_in(_RAISE_AGAIN_NS)
        raise error
