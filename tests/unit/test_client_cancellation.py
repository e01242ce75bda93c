"""However a call or a client ends, nothing is left: no task, and no exception that nobody saw."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evolute.limits import Limits
from evolute.protocol.messages import (
    AddQuery,
    Connect,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    Ping,
    QueryUpdated,
    RemoveQuery,
    Success,
)
from evolute_client import Client, ClientClosed, ConnectionLost, LocalStore, SyncClient
from evolute_client.connection import Connection
from evolute_client.state_machine import StateMachine, Update
from tests.unit.scripted_server import PATIENCE_S, ManualSleep, ScriptedServer, on_a_thread


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """All tasks that began in the block have ended, and none with an exception that nobody has retrieved."""
    before, complaints = asyncio.all_tasks(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    yield
    left = asyncio.all_tasks() - before
    assert not left, left
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints, complaints


Script = Callable[[ScriptedServer], Coroutine[Any, Any, None]]


async def lets_in(server: ScriptedServer) -> None:
    """And says nothing."""


def run(test: Callable[[str], Coroutine[Any, Any, None]], script: Script = lets_in) -> None:
    """`test` gets the address of a server on another thread, so that all tasks here are the client's."""
    over = threading.Event()

    async def until_over(server: ScriptedServer) -> None:
        await script(server)
        await asyncio.to_thread(over.wait)

    async def main(address: str) -> None:
        async with asyncio.timeout(PATIENCE_S), nothing_left():
            await test(address)

    with on_a_thread(until_over) as address:
        try:
            asyncio.run(main(address))
        finally:
            over.set()


async def asks_forever(force_refresh: bool) -> str | None:
    await asyncio.get_running_loop().create_future()
    return None


PAGE = b'{"page":[],"isDone":true,"continueCursor":"end"}'


def show(store: LocalStore) -> None:
    store.set_query("m:list", {}, [1])


WAITS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "query": lambda client: client.query("m:f"),
    "mutation": lambda client: client.mutation("m:f"),
    "expected": lambda client: client.mutation("m:f", optimistic_update=show),
    "action": lambda client: client.action("m:f"),
    "subscription": lambda client: anext(client.subscribe("m:f")),
    "watch": lambda client: anext(client.watch({"a": ("m:f", {})})),
    "paginated": lambda client: anext(client.paginated("m:f", initial_items=1)),
    "set_auth": lambda client: client.set_auth(asks_forever),
}


async def begun(client: Client, wait: Callable[[Client], Awaitable[object]]) -> asyncio.Task[object]:
    async def waiting() -> object:
        return await wait(client)

    task = asyncio.create_task(waiting())
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_that_is_cancelled(wait: Callable[[Client], Awaitable[object]]) -> None:
    async def test(address: str) -> None:
        async with Client(address) as client:
            await client.wait_connected()
            task = await begun(client, wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(test)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("connected", [True, False])
def test_a_client_that_is_closed_while_somebody_waits(
    wait: Callable[[Client], Awaitable[object]], connected: bool
) -> None:
    async def test(address: str) -> None:
        async with Client(address if connected else "http://127.0.0.1:1") as client:
            if connected:
                await client.wait_connected()
            task = await begun(client, wait)
        with pytest.raises((ClientClosed, StopAsyncIteration)):
            await task
        await client.close()

    run(test)


def test_an_answer_that_comes_after_the_wait_was_cancelled() -> None:
    """The mutation happens all the same, and what was expected of it stays until then."""

    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.greet()
        await peer.show(1, 100, QueryUpdated(0, b"[]"))
        await peer.expect(Mutation)
        await peer.show(1, 110, QueryUpdated(0, b"[0]"))
        await peer.say(MutationResponse(0, Success(b"1"), 120))
        await peer.show(1, 120, QueryUpdated(0, b"[2]"))

    async def test(address: str) -> None:
        async with Client(address) as client, client.subscribe("m:list") as shown:
            assert await anext(shown) == []
            task = await begun(client, lambda client: client.mutation("m:f", optimistic_update=show))
            task.cancel()
            assert await anext(shown) == [1]
            assert await anext(shown) == [2]

    run(test, script)


def test_a_block_that_is_left_by_an_exception_or_cancelled() -> None:
    async def test(address: str) -> None:
        async def whole(then: Callable[[], object]) -> None:
            async with Client(address, token=asks_forever) as client, client.subscribe("m:f"):
                await client.wait_connected()
                then()
                await client.mutation("m:f")

        with pytest.raises(ZeroDivisionError):
            await whole(lambda: 1 / 0)
        reached = asyncio.Event()
        task = asyncio.create_task(whole(reached.set))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)


def test_a_client_that_is_closed_in_the_moment_in_which_its_connection_fails() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.say(Ping())

    async def test(address: str) -> None:
        failures = iter((ConnectionLost("at this moment"),))

        def deliver(update: Update) -> None:
            if (failure := next(failures, None)) is not None:
                asyncio.get_running_loop().call_soon(running.cancel)
                raise failure

        state = StateMachine(str(uuid.uuid4()), token=None, limits=Limits())
        running = asyncio.create_task(Connection(address, state, Limits(), asyncio.sleep, deliver).run())
        with pytest.raises(asyncio.CancelledError):
            await running

    run(test, script)


def test_a_client_that_is_closed_while_it_connects_or_waits_to() -> None:
    async def test(address: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            async with Client(f"http://127.0.0.1:{deaf.getsockname()[1]}") as client:
                with pytest.raises(ConnectionLost):
                    await client.wait_connected(0.01)
        sleep = ManualSleep()
        async with Client("http://127.0.0.1:1", sleep=sleep):
            await sleep.begun.get()
        async with Client(address):
            pass

    run(test)


def test_a_subscription_that_nobody_holds_any_more() -> None:
    all_removed = threading.Event()

    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.expect(Connect)
        removed: list[int] = []
        while removed != [0, 1, 2]:
            change = await peer.expect(ModifyQuerySet)
            added = [each.query_id for each in change.modifications if isinstance(each, AddQuery)]
            removed += [each.query_id for each in change.modifications if isinstance(each, RemoveQuery)]
            await peer.show(change.new_version, 100, *(QueryUpdated(query_id, PAGE) for query_id in added))
        all_removed.set()

    async def test(address: str) -> None:
        async with Client(address) as client:
            await client.wait_connected()
            await anext(client.subscribe("m:f"))
            await anext(client.watch({"a": ("m:g", {})}))
            await anext(client.paginated("m:h", initial_items=1))
            assert await asyncio.to_thread(all_removed.wait, PATIENCE_S)

    run(test, script)


def test_a_blocking_client_that_is_closed_while_other_threads_wait() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.socket.wait_closed()

    ended: list[str] = []
    never = threading.Event()

    def fetches_late(force_refresh: bool) -> str | None:
        never.wait(PATIENCE_S)
        return None

    def waits(call: Callable[[], object]) -> None:
        with contextlib.suppress(ClientClosed):
            assert call() == []
        ended.append("closed")

    with on_a_thread(script) as address:
        with SyncClient(address) as client:
            client.wait_connected(PATIENCE_S)
            calls: list[Callable[[], object]] = [
                lambda: client.mutation("m:f"),
                lambda: client.query("m:f"),
                lambda: list(client.subscribe("m:f")),
                lambda: client.set_auth(fetches_late),
            ]
            threads = [threading.Thread(target=waits, args=(call,)) for call in calls]
            for thread in threads:
                thread.start()
            while len(client._client._futures) < 1 or client.auth_state != "pending":
                threading.Event().wait(0.001)
        never.set()
        for thread in threads:
            thread.join()
    assert ended == ["closed"] * 4
