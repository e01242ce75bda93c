"""When the client tries again: by why the connection went, by how often it failed, and by chance."""

from __future__ import annotations

import asyncio

import pytest

from evolute.protocol.messages import Mutation, MutationResponse, QueryUpdated, Success
from evolute_client import Client
from evolute_client.backoff import Backoff
from tests.unit.scripted_server import ManualSleep, ScriptedServer, run


@pytest.mark.parametrize(
    ("reason", "first_s"),
    [
        (None, 0.1),
        ("ServerShuttingDown", 0.1),
        ("InternalServerError", 1.0),
        ("closed with code 1008", 1.0),
        ("TooManyConcurrentMutations", 3.0),
        ("Overloaded: try again later", 3.0),
    ],
)
def test_the_first_wait_is_by_the_reason(reason: str | None, first_s: float) -> None:
    assert Backoff(lambda: 0.5).next_s(reason) == pytest.approx(first_s)
    assert Backoff(lambda: 0.0).next_s(reason) == pytest.approx(first_s / 2)
    assert Backoff(lambda: 1.0).next_s(reason) == pytest.approx(first_s * 1.5)


def test_waits_double_up_to_the_longest_until_a_connection_proves_itself() -> None:
    backoff = Backoff(lambda: 0.5)
    waits = [backoff.next_s() for _ in range(40)]
    assert waits[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[-1] == 15.0
    assert backoff.next_s("Overloaded") == 15.0
    backoff.reset()
    assert backoff.next_s() == pytest.approx(0.1)


def test_a_connection_proves_itself_by_answering_all_that_was_open_before_it() -> None:
    """A server that lets clients in and then breaks off would otherwise be asked ten times a second."""

    async def test(server: ScriptedServer) -> None:
        sleep = ManualSleep()
        async with Client(server.address, token="text", sleep=sleep) as client, client.subscribe("m:list"):
            sending = asyncio.create_task(client.mutation("m:send"))

            async def broken_off() -> float:
                await peer.break_off("ServerShuttingDown")
                wait_s = await sleep.begun.get()
                sleep.advance(wait_s)
                return wait_s

            peer = await server.peers.get()
            assert 0.05 <= await broken_off() <= 0.15
            peer = await server.peers.get()
            await peer.greet_user()
            await peer.expect(Mutation)
            await peer.show(1, 100, QueryUpdated(0, b"1"), identity=1)
            assert 0.1 <= await broken_off() <= 0.3, "the mutation is not answered"
            peer = await server.peers.get()
            await peer.greet_user()
            await peer.expect(Mutation)
            await peer.say(MutationResponse(0, Success(b"1"), 110))
            await peer.show(0, 110)
            assert await sending == 1
            assert 0.2 <= await broken_off() <= 0.6, "neither the query nor the token is answered"
            peer = await server.peers.get()
            await peer.greet_user()
            await peer.show(0, 120, identity=1)
            assert 0.4 <= await broken_off() <= 1.2, "the query is not answered"
            peer = await server.peers.get()
            await peer.greet_user()
            await peer.show(1, 130, QueryUpdated(0, b"1"), identity=1)
            later = asyncio.create_task(client.mutation("m:send"))
            await peer.expect(Mutation)
            assert 0.05 <= await broken_off() <= 0.15, "what is younger than the connection does not count"
            later.cancel()

    run(test)
