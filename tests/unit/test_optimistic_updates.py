"""Optimistic updates as a caller sees them; `tests/scripts/client_sessions/optimistic*.txt` show single situations."""

from __future__ import annotations

import asyncio
import random

import pytest

from evolute.errors import InvalidValue
from evolute.protocol.messages import Failure, Mutation, MutationResponse, QueryUpdated, Success
from evolute_client import Client, FunctionError, LocalStore, SyncClient
from evolute_client.state_machine import StateMachine, Update
from tests.unit.scripted_server import ScriptedServer, on_a_thread, run
from tests.unit.test_client_state_machine import ModelConnection, ModelServer

CONVERSATIONS = 20


def test_subscribers_see_it_at_once_and_once() -> None:
    async def test(server: ScriptedServer) -> None:
        def show(store: LocalStore) -> None:
            shown = store.get_query("m:list", {"channel": 1})
            store.set_query("m:list", {"channel": 1}, [*shown, "b"])

        async with Client(server.address) as client, client.subscribe("m:list", channel=1) as subscription:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b'["a"]'))
            assert await anext(subscription) == ["a"]
            sending = asyncio.create_task(client.mutation("m:send", optimistic_update=show, body="b"))
            assert await anext(subscription) == ["a", "b"], "before the server has said anything"
            message = await peer.expect(Mutation)
            assert message.arguments == b'{"body":"b"}'
            await peer.say(MutationResponse(0, Success(b"null"), 110))
            await peer.show(1, 110, QueryUpdated(0, b'["a","b"]'))
            await sending
            await peer.show(1, 120, QueryUpdated(0, b'["c"]'))
            assert await anext(subscription) == ["c"], "what the server shows is no news"

            failing = asyncio.create_task(client.mutation("m:send", optimistic_update=show))
            assert await anext(subscription) == ["c", "b"]
            await peer.expect(Mutation)
            await peer.say(MutationResponse(1, Failure("no"), None))
            with pytest.raises(FunctionError, match="no"):
                await failing
            assert await anext(subscription) == ["c"]

    run(test)


def test_an_update_that_is_none_stops_the_mutation() -> None:
    stores: list[LocalStore] = []

    async def waits(store: LocalStore) -> None:
        stores.append(store)

    def sets_what_is_no_value(store: LocalStore) -> None:
        store.set_query("m:list", {}, object())

    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client:
            with pytest.raises(TypeError, match="a plain function"):
                await client.mutation("m:send", optimistic_update=waits)
            with pytest.raises(InvalidValue):
                await client.mutation("m:send", optimistic_update=sets_what_is_no_value)
            sending = asyncio.create_task(client.mutation("m:send", optimistic_update=stores.append))
            peer = await server.peers.get()
            await peer.greet()
            assert (await peer.expect(Mutation)).request_id == 0, "the others were not made"
            with pytest.raises(RuntimeError, match="has ended"):
                stores[0].get_query("m:list")
            sending.cancel()

    run(test)


def test_an_update_that_fails_later_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: ScriptedServer) -> None:
        def halve(store: LocalStore) -> None:
            store.set_query("m:n", {}, 1 / store.get_query("m:n"))

        async with Client(server.address) as client, client.subscribe("m:n") as subscription:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b"2"))
            assert await anext(subscription) == 2
            sending = asyncio.create_task(client.mutation("m:f", optimistic_update=halve))
            assert await anext(subscription) == 0.5
            await peer.expect(Mutation)
            await peer.show(1, 110, QueryUpdated(0, b"0"))
            assert await anext(subscription) == 0
            await peer.say(MutationResponse(0, Success(b"7"), 120))
            await peer.show(1, 120)
            assert await sending == 7

    run(test)
    assert "an optimistic update failed when it was run again: division by zero" in caplog.text


def test_the_blocking_client() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.socket.recv()
        await peer.socket.recv()
        await peer.socket.recv()
        await peer.show(2, 100, QueryUpdated(0, b"[]"))
        await peer.expect(Mutation)
        await peer.say(MutationResponse(0, Failure("no"), None))
        await peer.socket.wait_closed()

    with on_a_thread(script) as address, SyncClient(address) as client:
        client.wait_connected(20)
        seen: list[object] = []
        with client.subscribe("m:list") as subscription:
            assert next(subscription) == []
            with pytest.raises(FunctionError):
                client.mutation("m:send", optimistic_update=lambda store: seen.append(store.get_query("m:list")))
            assert seen == [[]]


def test_no_row_is_ever_missing_or_shown_twice(seed: int) -> None:
    """Chance writes, answers, shows, fails and cuts; the list is always the server's, then what is still on its way."""
    for conversation in range(CONVERSATIONS):
        chance = random.Random(1000 * seed + conversation)
        converse(chance, StateMachine("fe4ea738-6bf6-4f40-a5c9-b983e49bed56"))


def converse(chance: random.Random, client: StateMachine) -> None:
    server = ModelServer()
    client.subscribe("list", b"{}")
    connection = ModelConnection(server)
    client.connected()
    on_its_way: dict[int, int] = {}
    shown: list[int] = []

    def learn(update: Update) -> None:
        nonlocal shown
        for result in update.results.values():
            assert isinstance(result, Success)
            shown = [int(row) for row in result.value.strip(b"[]").split(b",") if row]
        for completion in update.completions:
            del on_its_way[completion.request_id]
        assert len(set(shown)) == len(shown), "shown twice"
        assert not shown or set(on_its_way.values()) <= set(shown), "taken back too early"
        assert shown == sorted(shown)

    for n in range(chance.randrange(20, 200)):
        match chance.choice(["write", "serve", "serve", "show", "deliver", "deliver", "deliver", "cut"]):
            case "write" if shown or n > 20:

                def append(store: LocalStore, n: int = n) -> None:
                    rows = store.get_query("list")
                    if rows is not None:
                        store.set_query("list", {}, [*rows, n])

                request, update = client.mutation_expecting("append", b"%d" % n, append)
                on_its_way[request] = n
                learn(update)
            case "serve":
                for message in client.take_outgoing():
                    connection.take(message)
            case "show" if connection.received:
                connection.show()
            case "deliver" if connection.outgoing:
                learn(client.receive(connection.outgoing.popleft()))
            case "cut" if chance.random() < 0.1:
                learn(client.disconnected("cut"))
                connection = ModelConnection(server)
                client.connected()
