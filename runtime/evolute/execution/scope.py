"""How long a context lives: from its function's first line to its last, on the thread that runs the function.

Everything that `ctx` hands out (db, queries, scheduler) shares the scope of its function, and every use of it is inside
`with scope`: it is refused once the function has returned, and its time is the runtime's and not the function's. If the
stack or the memory gives out inside, what was being done is half done: then nothing of the call may be committed.

What only says what is wanted, the steps of a query, reads and writes nothing: it calls `check`, and its time is the
function's own.
"""

from __future__ import annotations

from threading import get_ident
from types import TracebackType

from evolute.errors import ContextClosed
from evolute.execution.time_limits import CallClock

RETURNED = "`ctx` was used after its function returned; a query that is kept must be ended with .collect() before that."
OTHER_THREAD = "`ctx` was used by another thread than the one that runs its function."


class Scope:
    """Raises ContextClosed on entering when the function has returned, TimeLimit when its time is up.

    `broken_off_by` is the first RecursionError or MemoryError that has broken off a use of `ctx` in the middle.
    """

    __slots__ = ("_clock", "_open", "_thread", "broken_off_by")

    def __init__(self, clock: CallClock) -> None:
        self.broken_off_by: BaseException | None = None
        self._clock = clock
        self._open = True
        self._thread = get_ident()

    def close(self) -> None:
        """The function has returned."""
        self._open = False

    @property
    def clock(self) -> CallClock:
        return self._clock

    def check(self) -> None:
        """Raises ContextClosed."""
        if not self._open:
            raise ContextClosed(RETURNED)
        if get_ident() != self._thread:
            raise ContextClosed(OTHER_THREAD)

    def __enter__(self) -> None:
        if not self._open or get_ident() != self._thread:
            self.check()
        self._clock.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.broken_off_by is None and isinstance(error, (RecursionError, MemoryError)):
            self.broken_off_by = error  # no call: there is no stack left for one
        self._clock.leave()
