"""How many runs of one mutation are under way at a time: all that are wanted, unless they get in each other's way.

    share of its runs that lose    0 ── WIDENS ─────────────── NARROWS ── 1
                                   wide      stays what it is      narrow: as many runs as a chain is long

Where most runs touch the same row, one that was sent beside the others has read an old value by the time that it ends,
and its work is wasted. The runs of a narrow function follow each other in a chain (`database/chain`), and one that
stands only because it has seen those before it counts as a loser, or its function would soon be wide again. The others
wait, losers first and then in the order in which they came.
"""

from __future__ import annotations

from functools import partial

from evolute.errors import Overloaded
from evolute.execution.line import Line
from evolute.limits import Limits

NARROWS = 0.15
WIDENS = 0.02
WEIGHT = 0.04  # of the latest run in the share


class _Function:
    """One that has had losers lately."""

    def __init__(self) -> None:
        self.lost_share = 0.0
        self.is_narrow = False
        self.running = 0
        self.losers = Line()
        self.newcomers = Line()


class Place:
    """The right to run a function once. Leave it as soon as it is known whether the run has lost."""

    __slots__ = ("_crowd", "_function", "is_narrow")

    def __init__(self, crowd: Crowd, function: _Function | None) -> None:
        self._crowd = crowd
        self._function = function
        self.is_narrow = function is not None

    def leave(self) -> None:
        """Leaving twice does nothing."""
        function, self._function = self._function, None
        if function is not None:
            self._crowd._left(function)


class Crowd:
    """For the event loop's thread. `width` is how many runs of a narrow function are under way."""

    def __init__(self, width: int, limits: Limits) -> None:
        self._width = width
        self._newcomers_max = limits.call_queue_length_max
        self._functions: dict[str, _Function] = {}

    def enter_at_once(self, path: str) -> Place | None:
        """None if there is a line for the function, in which `enter` waits."""
        function = self._functions.get(path)
        if function is None or not function.is_narrow:
            return Place(self, None)
        if function.running < self._width:
            function.running += 1
            return Place(self, function)
        return None

    async def enter(self, path: str, *, has_lost: bool) -> Place:
        """Raises Overloaded if too many wait who have not been run yet."""
        place = self.enter_at_once(path)
        if place is not None:
            return place
        function = self._functions[path]
        line = function.losers if has_lost else function.newcomers
        if line is function.newcomers and len(line) >= self._newcomers_max:
            raise Overloaded(
                f"{len(line)} calls of {path} wait, because its runs get in each other's way; "
                "the setting is call_queue_length_max"
            )
        await line.wait(give_back=partial(self._left, function))
        return Place(self, function)

    def note(self, path: str, *, lost: bool) -> None:
        """How a run has ended."""
        function = self._functions.get(path)
        if function is None:
            if not lost:
                return
            function = self._functions[path] = _Function()
        function.lost_share += WEIGHT * (lost - function.lost_share)
        if function.lost_share > NARROWS:
            function.is_narrow = True
        elif function.lost_share < WIDENS:
            function.is_narrow = False
            del self._functions[path]
            self._admit(function)

    @property
    def waiting(self) -> int:
        return sum(len(function.losers) + len(function.newcomers) for function in self._functions.values())

    def _left(self, function: _Function) -> None:
        function.running -= 1
        self._admit(function)

    def _admit(self, function: _Function) -> None:
        while function.running < self._width or not function.is_narrow:
            if not (function.losers.call_next() or function.newcomers.call_next()):
                return
            function.running += 1
