"""Whose turn it is to run a blocking action: so many places, and in each of them a call with what it calls in turn.

    place 1    depth 0  report ─► depth 1  render ─► depth 2  thumbnail        three processes, one place
    place 2    depth 0  report                                                 one process
    waiting    depth 0  report, …                                              first come, first served

A call that is made on behalf of one that has a place, directly or through others, runs in that place: so those that
wait for what they have called cannot keep it from running, however few places there are. In one place there is one
call at each depth, so it holds at most `call_depth_max` + 1 of them. Of several that are made side by side (by an async
action in between), one runs, and the others wait for it: the deepest call of a place always runs, so this ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

ROOM_DEPTH = -1  # of who holds a place for a call that is about to be made


@dataclass(eq=False, slots=True)
class Turn:
    """One that wants to run. `future` is resolved with its place."""

    depth: int
    future: asyncio.Future[Place]


@dataclass(eq=False, slots=True)
class Place:
    """`depths` are those of the calls that run in it."""

    number: int
    depths: list[int] = field(default_factory=list)
    waiting: deque[Turn] = field(default_factory=deque)

    def admits(self, turn: Turn) -> bool:
        return all(depth < turn.depth for depth in self.depths)

    def admit(self, turn: Turn) -> None:
        self.depths.append(turn.depth)
        turn.future.set_result(self)


class Places:
    """For the event loop's thread only."""

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._places: dict[int, Place] = {}
        self._numbers = itertools.count(1)
        self._queue: deque[Turn] = deque()

    @property
    def queued(self) -> int:
        """How many wait for a place of their own."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """How many wait, in the places too."""
        return self.queued + sum(len(place.waiting) for place in self._places.values())

    @asynccontextmanager
    async def taken(self, number: int | None, depth: int) -> AsyncIterator[Place]:
        """Waits for its turn in the place of that number, or in one of its own, and has it while the block runs.

        The number of a place that nobody is in any more is that of none.
        """
        place = None if number is None else self._places.get(number)
        line = self._queue if place is None else place.waiting
        turn = Turn(depth, asyncio.get_running_loop().create_future())
        line.append(turn)
        self._admit()
        try:
            yield await turn.future
        finally:
            if turn in line:
                line.remove(turn)
            else:
                turn.future.result().depths.remove(depth)
            self._admit()

    def fail_waiting(self, error: Exception) -> None:
        """Nobody who waits gets a turn any more."""
        for line in [self._queue, *(place.waiting for place in self._places.values())]:
            for turn in line:
                if not turn.future.done():
                    turn.future.set_exception(error)

    def _admit(self) -> None:
        """Gives turns to those who can have them now."""
        for place in list(self._places.values()):
            for turn in list(place.waiting):
                if not turn.future.done() and place.admits(turn):
                    place.waiting.remove(turn)
                    place.admit(turn)
            if not place.depths and not place.waiting:
                del self._places[place.number]
        for turn in list(self._queue):
            if len(self._places) >= self._places_max:
                return
            if not turn.future.done():
                self._queue.remove(turn)
                place = Place(next(self._numbers))
                self._places[place.number] = place
                place.admit(turn)
