"""A paginated list as its reader sees it; `test_page_list.py` is about what becomes of the pages."""

from __future__ import annotations

import asyncio
import json

import pytest

from evolute.protocol.messages import (
    AddQuery,
    Modification,
    ModifyQuerySet,
    Mutation,
    QueryFailed,
    QueryUpdated,
    RemoveQuery,
)
from evolute_client import Client, FunctionError, LocalStore, SyncClient
from tests.unit.scripted_server import ScriptedServer, at_once, on_a_thread, run


def page(query_id: int, rows: list[object], cursor: str | None = None, **fields: object) -> Modification:
    """The last page has no `cursor`."""
    value = {"page": rows, "isDone": cursor is None, "continueCursor": cursor or "end", **fields}
    return QueryUpdated(query_id, json.dumps(value).encode(), journal=f"J{query_id}")


def asked(change: ModifyQuerySet) -> list[object]:
    """The pagination options of what is added, the ids of what is removed."""
    return [
        each.query_id if isinstance(each, RemoveQuery) else json.loads(each.arguments)["paginationOpts"]
        for each in change.modifications
    ]


def test_page_by_page() -> None:
    async def test(server: ScriptedServer) -> None:
        async with (
            Client(server.address, sleep=at_once) as client,
            client.paginated("m:list", {"c": 1}, initial_items=2) as history,
        ):
            peer = await server.peers.get()
            _, change = await peer.greet()
            first = b'{"c":1,"paginationOpts":{"cursor":null,"numItems":2}}'
            assert change.modifications == (AddQuery(0, "m:list", first),)
            assert (history.results, history.status, history.load_more(5)) == ([], "loading_first_page", False)
            await peer.show(1, 100, page(0, ["a", "b"], "B"))
            assert await anext(history) == ["a", "b"]
            assert (history.results, history.status) == (["a", "b"], "can_load_more")
            assert history.load_more(3)
            assert (await anext(history), history.status) == (["a", "b"], "loading_more")
            assert asked(await peer.expect(ModifyQuerySet)) == [{"numItems": 3, "cursor": "B"}]
            await peer.show(2, 110, page(1, ["c"]))
            assert (await anext(history), history.status) == (["a", "b", "c"], "exhausted")

            await peer.break_off("ServerShuttingDown")
            peer = await server.peers.get()
            _, change = await peer.greet()
            assert [each.journal for each in change.modifications if isinstance(each, AddQuery)] == ["J0", "J1"]
            await peer.show(1, 120, page(0, ["a", "b"], "B"), page(1, ["c"]))
            await peer.show(1, 130, page(0, ["b"], "B"), page(1, ["c", "d"]))
            assert await anext(history) == ["b", "c", "d"], "the connection is nobody's news"
            history.close()
            assert asked(await peer.expect(ModifyQuerySet)) == [0, 1]
            assert history.load_more(1) is False
            with pytest.raises(StopAsyncIteration):
                await anext(history)
            assert history.results == ["b", "c", "d"]

    run(test)


def test_a_split_shows_nothing() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client, client.paginated("m:list", initial_items=2) as history:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, page(0, [1, 2, 3, 4], "D", splitCursor="B", pageStatus="SplitRecommended"))
            assert await anext(history) == [1, 2, 3, 4]
            assert asked(await peer.expect(ModifyQuerySet)) == [
                {"numItems": 2, "cursor": None, "endCursor": "B"},
                {"numItems": 2, "cursor": "B", "endCursor": "D"},
            ]
            await peer.show(2, 110, page(1, [1, 2], "B"))
            await peer.show(2, 120, page(0, [1, 2, 3, 4, 5], "D", splitCursor="B"))
            assert await anext(history) == [1, 2, 3, 4, 5]
            await peer.show(2, 130, page(2, [3, 4, 5], "D"))
            assert asked(await peer.expect(ModifyQuerySet)) == [0]
            await peer.show(3, 140, page(2, [3, 4], "D"))
            assert await anext(history) == [1, 2, 3, 4]

    run(test)


def test_failures_and_a_new_beginning() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client, client.paginated("m:list", initial_items=1) as history:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, page(0, ["a"], "A"))
            await anext(history)
            history.load_more(1)
            assert (await anext(history), history.status) == (["a"], "loading_more")
            await peer.expect(ModifyQuerySet)
            await peer.show(2, 110, QueryFailed(1, "Server Error"))
            with pytest.raises(FunctionError, match="Server Error"):
                await anext(history)
            assert history.results == ["a"]
            await peer.show(2, 120, page(1, ["b"]))
            assert await anext(history) == ["a", "b"]
            await peer.show(2, 130, QueryFailed(1, "Server Error", b'{"paginationError":"InvalidCursor"}'))
            change = asked(await peer.expect(ModifyQuerySet))
            assert change == [0, 1, {"numItems": 1, "cursor": None}]
            assert (history.results, history.status) == ([], "loading_first_page")
            await peer.show(3, 140, page(2, ["c"]))
            assert await anext(history) == ["c"]

    run(test)


def test_what_is_not_paginated() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client:
            with pytest.raises(ValueError, match="not yours to give"):
                client.paginated("m:list", {"paginationOpts": {}}, initial_items=1)
            with pytest.raises(ValueError, match="at least one item, got 0"):
                client.paginated("m:list", initial_items=0)
            history = client.paginated("m:list", initial_items=1)
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b"[1]"))
            with pytest.raises(Exception, match=r"a paginated query returns page, isDone .* returned \[1\]"):
                await anext(history)

    run(test)


def test_a_page_can_be_set_by_an_optimistic_update() -> None:
    async def test(server: ScriptedServer) -> None:
        def add(store: LocalStore) -> None:
            for arguments, value in store.get_all_queries("m:list"):
                if arguments["paginationOpts"]["cursor"] is None:
                    store.set_query("m:list", arguments, {**value, "page": ["new", *value["page"]]})

        async with Client(server.address) as client, client.paginated("m:list", initial_items=2) as history:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, page(0, ["a"]))
            assert await anext(history) == ["a"]
            sending = asyncio.create_task(client.mutation("m:send", optimistic_update=add))
            assert await anext(history) == ["new", "a"]
            await peer.expect(Mutation)
            sending.cancel()

    run(test)


def test_the_blocking_client() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.greet()
        await peer.expect(ModifyQuerySet)
        await peer.show(2, 100, page(0, ["a"], "A"))
        await peer.expect(ModifyQuerySet)
        await peer.show(3, 110, page(1, ["b"]))
        await peer.socket.wait_closed()

    with on_a_thread(script) as address, SyncClient(address) as client:
        client.wait_connected(20)
        with client.paginated("m:list", initial_items=1) as history:
            assert next(history) == ["a"]
            assert (history.results, history.status, history.load_more(1)) == (["a"], "can_load_more", True)
            while history.status != "exhausted":
                shown = next(history)
            assert shown == ["a", "b"]
