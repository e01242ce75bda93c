"""A function whose runs get in each other's way: when it is narrow, who waits, and in which order they go on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from evolute.errors import Overloaded
from evolute.execution.crowd import NARROWS, WIDENS, Crowd, Place
from evolute.limits import Limits

PATH = "m:hot"
LIMITS = Limits(call_queue_length_max=5)


async def begun(enters: Coroutine[None, None, Place]) -> asyncio.Task[Place]:
    task = asyncio.create_task(enters)
    await asyncio.sleep(0)
    return task


def narrowed(width: int) -> Crowd:
    """One in which many runs of PATH have lost."""
    crowd = Crowd(width, LIMITS)
    for _ in range(20):
        crowd.note(PATH, lost=True)
    return crowd


def test_who_wins_is_never_held_up() -> None:
    async def main() -> None:
        crowd = Crowd(1, LIMITS)
        for _ in range(100):
            place = await crowd.enter(PATH, has_lost=False)
            assert not place.is_narrow
            crowd.note(PATH, lost=False)
        assert crowd.waiting == 0

    asyncio.run(main())


def test_a_share_of_losers_narrows_it_and_winners_widen_it_again() -> None:
    async def main() -> None:
        crowd, lost = Crowd(1, LIMITS), 0
        while not (await crowd.enter(PATH, has_lost=False)).is_narrow:
            crowd.note(PATH, lost=True)
            lost += 1
        assert 1 < lost < 10, "one loser is no crowd"
        for _ in range(3):
            crowd.note(PATH, lost=False)
        assert (await begun(crowd.enter(PATH, has_lost=False))).done() is False, "a few winners are no proof"
        others = await crowd.enter("m:other", has_lost=False)
        assert not others.is_narrow, "each function by itself"
        won = 0
        while crowd.waiting:
            crowd.note(PATH, lost=False)
            won += 1
        assert won > 20
        assert not (await crowd.enter(PATH, has_lost=True)).is_narrow
        assert 0 < WIDENS < NARROWS < 1

    asyncio.run(main())


def test_losers_go_first_and_the_others_in_the_order_in_which_they_came() -> None:
    async def main() -> None:
        crowd = narrowed(2)
        first, second = await crowd.enter(PATH, has_lost=False), await crowd.enter(PATH, has_lost=True)
        assert first.is_narrow
        a = await begun(crowd.enter(PATH, has_lost=False))
        b = await begun(crowd.enter(PATH, has_lost=False))
        loser = await begun(crowd.enter(PATH, has_lost=True))
        assert crowd.waiting == 3
        order: list[str] = []
        tasks = {"a": a, "b": b, "loser": loser}
        for place in (first, second, None):
            if place is None:
                place = tasks[order[0]].result()
            place.leave()
            place.leave()
            await asyncio.sleep(0)
            order += [name for name, task in tasks.items() if task.done() and name not in order]
        assert order == ["loser", "a", "b"]
        assert crowd.waiting == 0

    asyncio.run(main())


def test_too_many_newcomers_are_turned_away_and_losers_never() -> None:
    async def main() -> None:
        crowd = narrowed(1)
        holder = await crowd.enter(PATH, has_lost=False)
        waiting = [await begun(crowd.enter(PATH, has_lost=False)) for _ in range(5)]
        with pytest.raises(Overloaded, match=r"5 calls of m:hot wait.*call_queue_length_max"):
            await crowd.enter(PATH, has_lost=False)
        waiting.insert(0, await begun(crowd.enter(PATH, has_lost=True)))
        for task in waiting:
            holder.leave()
            holder = await task
        holder.leave()
        assert crowd.waiting == 0

    asyncio.run(main())


def test_a_place_is_not_lost_with_who_is_cancelled() -> None:
    async def main() -> None:
        crowd = narrowed(1)
        holder = await crowd.enter(PATH, has_lost=False)
        waits = await begun(crowd.enter(PATH, has_lost=False))
        admitted = await begun(crowd.enter(PATH, has_lost=False))
        waits.cancel()
        await asyncio.sleep(0)
        holder.leave()  # the place is the second one's, who is cancelled before he hears of it
        admitted.cancel()
        await asyncio.gather(waits, admitted, return_exceptions=True)
        assert (await crowd.enter(PATH, has_lost=False)).is_narrow
        assert crowd.waiting == 0

    asyncio.run(main())


def test_all_who_wait_go_on_when_it_is_wide_again() -> None:
    async def main() -> None:
        crowd = narrowed(1)
        await crowd.enter(PATH, has_lost=False)
        waiting = [await begun(crowd.enter(PATH, has_lost=False)) for _ in range(5)]
        while crowd.waiting:
            crowd.note(PATH, lost=False)
        for place in await asyncio.gather(*waiting):
            place.leave()

    asyncio.run(main())
