"""Several queries watched together: every view is of one moment."""

from __future__ import annotations

import asyncio

import pytest

from evolute.protocol.messages import (
    AddQuery,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    QueryFailed,
    QueryUpdated,
    RemoveQuery,
    Success,
)
from evolute_client import Client, ClientClosed, FunctionError, LocalStore, SyncClient
from tests.unit.scripted_server import ScriptedServer, at_once, on_a_thread, run

QUERIES: dict[str, tuple[str, dict[str, object]]] = {"list": ("m:list", {"c": 1}), "count": ("m:count", {})}


def test_a_view_has_every_result_of_one_moment() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, sleep=at_once) as client, client.watch(QUERIES) as views:
            peer = await server.peers.get()
            _, change = await peer.greet()
            assert change.modifications == (AddQuery(0, "m:list", b'{"c":1}'), AddQuery(1, "m:count", b"{}"))
            first = asyncio.create_task(anext(views))
            await peer.show(1, 100, QueryUpdated(0, b'["a"]'))
            await peer.show(1, 110, QueryUpdated(1, b"1"))
            assert await first == {"list": ["a"], "count": 1}, "not before all of them are there"
            await peer.show(1, 120, QueryUpdated(1, b"2"), QueryUpdated(0, b'["a","b"]'))
            assert await anext(views) == {"list": ["a", "b"], "count": 2}
            await peer.show(1, 130, QueryUpdated(0, b'["b","b"]'))
            assert await anext(views) == {"list": ["b", "b"], "count": 2}

            await peer.break_off("ServerShuttingDown")
            peer = await server.peers.get()
            await peer.greet()
            late = client.watch({"list": QUERIES["list"], "again": QUERIES["list"], "new": ("m:new", {})})
            await peer.expect(ModifyQuerySet)
            coming = asyncio.create_task(anext(views))
            await peer.show(2, 140, QueryUpdated(0, b'["b","b"]'), QueryUpdated(1, b"2"), QueryUpdated(2, b"0"))
            assert await anext(late) == {"list": ["b", "b"], "again": ["b", "b"], "new": 0}
            assert not coming.done(), "the same view is not given again"
            await peer.show(2, 150, QueryUpdated(1, b"3"))
            assert await coming == {"list": ["b", "b"], "count": 3}
            late.close()
            late.close()
            assert (await peer.expect(ModifyQuerySet)).modifications == (RemoveQuery(2),)
            with pytest.raises(StopAsyncIteration):
                await anext(late)

    run(test)


def test_a_query_that_fails_is_named() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client, client.watch(QUERIES) as views:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b"1"), QueryFailed(1, "Server Error"))
            with pytest.raises(FunctionError, match="Server Error") as raised:
                await anext(views)
            assert raised.value.__notes__ == ["of 'count' in a watch"]
            await peer.show(1, 110, QueryUpdated(1, b"2"))
            assert await anext(views) == {"list": 1, "count": 2}

    run(test)


def test_what_is_expected_is_in_the_view_and_goes_with_the_mutation() -> None:
    async def test(server: ScriptedServer) -> None:
        def add(store: LocalStore) -> None:
            store.set_query("m:list", {"c": 1}, [*store.get_query("m:list", {"c": 1}), "b"])
            store.set_query("m:count", {}, store.get_query("m:count") + 1)

        async with Client(server.address) as client, client.watch(QUERIES) as views:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b'["a"]'), QueryUpdated(1, b"1"))
            await anext(views)
            sending = asyncio.create_task(client.mutation("m:send", optimistic_update=add))
            assert await anext(views) == {"list": ["a", "b"], "count": 2}
            await peer.expect(Mutation)
            await peer.show(1, 110, QueryUpdated(1, b"2"))
            assert await anext(views) == {"list": ["a", "b"], "count": 3}
            await peer.say(MutationResponse(0, Success(b"null"), 120))
            await peer.show(1, 120, QueryUpdated(0, b'["a","b"]'), QueryUpdated(1, b"3"))
            await sending
            await peer.show(1, 130, QueryUpdated(1, b"4"))
            assert await anext(views) == {"list": ["a", "b"], "count": 4}, "120 was no news"

    run(test)


def test_no_query_at_all_and_a_closed_client() -> None:
    async def test(server: ScriptedServer) -> None:
        client = Client(server.address)
        async with client:
            views = client.watch(QUERIES)
            with pytest.raises(ValueError, match="at least one"):
                client.watch({})
        with pytest.raises(StopAsyncIteration):
            await anext(views)
        with pytest.raises(ClientClosed):
            client.watch(QUERIES)

    run(test)


def test_the_blocking_client() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.socket.recv()
        await peer.socket.recv()
        await peer.socket.recv()
        await peer.show(2, 100, QueryUpdated(0, b'["a"]'), QueryUpdated(1, b"1"))
        await peer.socket.wait_closed()

    with on_a_thread(script) as address, SyncClient(address) as client:
        client.wait_connected(20)
        with client.watch(QUERIES) as views:
            assert next(views) == {"list": ["a"], "count": 1}
