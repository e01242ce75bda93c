"""What connections do in the next turn of the event loop is done in order, and one's fault is nobody else's."""

from __future__ import annotations

import asyncio
from functools import partial

from evolute.sync.next_turn import NextTurn


def test_in_order_in_one_turn_and_never_at_once() -> None:
    async def scenario() -> None:
        next_turn, done = NextTurn(), list[str]()

        def again() -> None:
            done.append("again")
            next_turn.add(partial(done.append, "in the turn after"))

        next_turn.add(partial(done.append, "first"))
        next_turn.add(again)
        next_turn.add(partial(done.append, "last"))
        assert done == []
        await asyncio.sleep(0)
        assert done == ["first", "again", "last"]
        await asyncio.sleep(0)
        assert done[3:] == ["in the turn after"]

    asyncio.run(scenario())


def test_who_fails_does_not_keep_the_others_from_their_turn() -> None:
    async def scenario() -> None:
        next_turn, done = NextTurn(), list[str]()
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: told.append(what["exception"]))
        boom = ValueError("boom")

        def fails() -> None:
            raise boom

        next_turn.add(fails)
        next_turn.add(partial(done.append, "the other"))
        await asyncio.sleep(0)
        assert done == ["the other"]
        assert told == [boom]

    asyncio.run(scenario())
