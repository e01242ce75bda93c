"""Whose turn it is: places, and the calls that share one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from evolute.errors import ShuttingDown
from evolute.execution.places import ROOM_DEPTH, Place, Places

DEPTH_MAX = 8


class Visit:
    """A task that is in a place until it is told to leave, or waits for one."""

    def __init__(self, places: Places, number: int | None = None, depth: int = 0) -> None:
        self.depth = depth
        self.place: Place | None = None
        self._leave = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(places, number, depth))

    async def _run(self, places: Places, number: int | None, depth: int) -> None:
        async with places.taken(number, depth) as self.place:
            await self._leave.wait()

    @property
    def entered(self) -> bool:
        return self.place is not None

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def number_of(visit: Visit) -> int:
    assert visit.place is not None
    return visit.place.number


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(main())


def test_so_many_at_a_time_and_first_come_first_served() -> None:
    async def scenario() -> None:
        places = Places(2)
        visits = [Visit(places) for _ in range(4)]
        await settled()
        assert [visit.entered for visit in visits] == [True, True, False, False]
        assert (places.queued, places.waiting) == (2, 2)
        await visits[1].leave()
        await settled()
        assert [visit.entered for visit in visits] == [True, True, True, False]
        for visit in visits:
            await visit.leave()
        assert places.waiting == 0

    run(scenario)


def test_what_a_call_calls_runs_in_its_place_one_at_each_depth() -> None:
    async def scenario() -> None:
        places = Places(1)
        outer = Visit(places)
        await settled()
        number = number_of(outer)
        siblings = [Visit(places, number, 2) for _ in range(2)]
        stranger = Visit(places)
        await settled()
        deeper = Visit(places, number, 3)
        await settled()
        assert [visit.entered for visit in (*siblings, deeper, stranger)] == [True, False, True, False]
        await siblings[0].leave()
        await settled()
        assert not siblings[1].entered  # what the first has called is still there, and may call further
        await deeper.leave()
        await settled()
        assert number_of(siblings[1]) == number
        await outer.leave()
        await settled()
        assert not stranger.entered  # the place is free when the last has left it
        await siblings[1].leave()
        await settled()
        assert number_of(stranger) != number
        await stranger.leave()

    run(scenario)


def test_a_room_is_a_place_for_one_call() -> None:
    async def scenario() -> None:
        places = Places(1)
        async with places.taken(None, ROOM_DEPTH) as room, places.taken(room.number, 0) as place:
            assert place is room
        async with places.taken(room.number, 3) as place:  # it is gone: this is another
            assert place is not room

    run(scenario)


def test_who_gives_up_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        places = Places(1)
        first = Visit(places)
        await settled()
        waiting = [Visit(places), Visit(places, number_of(first), 0), Visit(places)]
        await settled()
        for visit in waiting[:2]:
            visit.task.cancel()
        await settled()
        assert places.waiting == 1
        first._leave.set()
        await asyncio.sleep(0)  # the last has been given the place, and gives up before it knows
        waiting[2].task.cancel()
        await settled()
        async with places.taken(None, 0):
            pass

    run(scenario)


def test_who_waits_when_it_ends_is_told() -> None:
    async def scenario() -> None:
        places = Places(1)
        first = Visit(places)
        await settled()
        waiting = [Visit(places), Visit(places, number_of(first), 0)]
        await settled()
        places.fail_waiting(ShuttingDown())
        for visit in waiting:
            with pytest.raises(ShuttingDown):
                await visit.task
        await first.leave()

    run(scenario)


@pytest.mark.parametrize("places_max", [1, 3])
def test_calls_that_call_each_other_all_end(places_max: int) -> None:
    """Trees of calls, blocking and not, that are always waited for: none is stuck, and the bound holds."""
    chance = random.Random(places_max)
    running = peak = ended = 0

    async def scenario() -> None:
        places = Places(places_max)

        async def blocking(number: int | None, depth: int) -> None:
            nonlocal running, peak, ended
            async with places.taken(number, depth) as place:
                running += 1
                peak = max(peak, running)
                assert len(place.depths) <= DEPTH_MAX + 1
                for _ in range(chance.randrange(3)):
                    await nested(place.number, depth + 1)
                running -= 1
            ended += 1

        async def side_by_side(number: int | None, depth: int) -> None:
            await asyncio.gather(*(nested(number, depth + 1) for _ in range(chance.randrange(4))))

        async def nested(number: int | None, depth: int) -> None:
            await asyncio.sleep(0)
            if depth <= DEPTH_MAX:
                await (blocking if chance.random() < 0.6 else side_by_side)(number, depth)

        await asyncio.gather(*(nested(None, 0) for _ in range(30)))
        assert places.waiting == 0

    run(scenario)
    assert ended > 30
    assert peak <= places_max * (DEPTH_MAX + 1)
