"""Lines for contended keys: first come, first served, and nobody who leaves or is cancelled stops the others."""

from __future__ import annotations

import asyncio

from evolute.execution.contention import ContentionLines


async def in_line(lines: ContentionLines, key: bytes, name: str, order: list[str]) -> None:
    turn = await lines.take_turn(key)
    order.append(name)
    await asyncio.sleep(0)
    turn.leave()


def test_a_free_key_is_not_waited_for_and_keys_do_not_meet() -> None:
    async def scenario() -> None:
        lines = ContentionLines()
        first = await lines.take_turn(b"a")
        other = await lines.take_turn(b"b")
        first.leave()
        other.leave()
        assert lines.waiting == 0
        (await lines.take_turn(b"a")).leave()

    asyncio.run(scenario())


def test_turns_are_taken_in_the_order_of_arrival() -> None:
    async def scenario() -> None:
        lines, order = ContentionLines(), list[str]()
        holder = await lines.take_turn(b"k")
        tasks = [asyncio.create_task(in_line(lines, b"k", name, order)) for name in "abcd"]
        await asyncio.sleep(0)
        assert (lines.waiting, order) == (4, [])
        holder.leave()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c", "d"]
        assert lines.waiting == 0

    asyncio.run(scenario())


def test_leaving_twice_gives_only_one_turn_away() -> None:
    async def scenario() -> None:
        lines = ContentionLines()
        holder = await lines.take_turn(b"k")
        second = asyncio.create_task(lines.take_turn(b"k"))
        third = asyncio.create_task(lines.take_turn(b"k"))
        await asyncio.sleep(0)
        holder.leave()
        holder.leave()
        turn = await second
        await asyncio.sleep(0)
        assert not third.done()
        turn.leave()
        (await third).leave()

    asyncio.run(scenario())


def test_a_waiter_who_is_cancelled_is_passed_over() -> None:
    async def scenario() -> None:
        lines, order = ContentionLines(), list[str]()
        holder = await lines.take_turn(b"k")
        gone = asyncio.create_task(in_line(lines, b"k", "gone", order))
        stays = asyncio.create_task(in_line(lines, b"k", "stays", order))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        holder.leave()
        await stays
        assert order == ["stays"]

    asyncio.run(scenario())


def test_a_turn_given_to_one_who_is_cancelled_in_that_moment_goes_to_the_next() -> None:
    async def scenario() -> None:
        lines, order = ContentionLines(), list[str]()
        holder = await lines.take_turn(b"k")
        gone = asyncio.create_task(in_line(lines, b"k", "gone", order))
        stays = asyncio.create_task(in_line(lines, b"k", "stays", order))
        await asyncio.sleep(0)
        holder.leave()
        gone.cancel()  # it has the turn, but has not run since
        await stays
        assert order == ["stays"]
        assert gone.cancelled()
        (await lines.take_turn(b"k")).leave()

    asyncio.run(scenario())
