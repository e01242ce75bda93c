"""The asyncio client against a server that follows a script, over real sockets."""

from __future__ import annotations

import asyncio
import logging

import pytest
from websockets.exceptions import ConnectionClosed

from evolute.errors import InvalidValue, LimitReached
from evolute.limits import Limits
from evolute.protocol.messages import (
    Action,
    ActionResponse,
    AddQuery,
    AdminToken,
    Authenticate,
    AuthError,
    Connect,
    Failure,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    QueryFailed,
    QueryUpdated,
    RemoveQuery,
    StateVersion,
    Success,
)
from evolute_client import (
    Client,
    ClientClosed,
    ConnectionLost,
    ConvexError,
    FunctionError,
    Int64,
    RequestRefused,
)
from evolute_client.transport import sync_url
from tests.unit.scripted_server import ScriptedServer, at_once, run, scripted_server


def test_a_subscription_gives_each_new_result() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client:
            subscription = client.subscribe("messages:list", channel="c1", limit=Int64(3))
            peer = await server.peers.get()
            connect, change = await peer.greet()
            assert (connect.connection_count, connect.last_close_reason) == (0, "InitialConnect")
            arguments = b'{"channel":"c1","limit":{"$integer":"AwAAAAAAAAA="}}'
            assert change.modifications == (AddQuery(0, "messages:list", arguments),)
            assert server.paths == ["/api/sync"]

            await peer.show(1, 100, QueryUpdated(0, b'["a",2,{"$integer":"AQAAAAAAAAA="}]'))
            first = await anext(subscription)
            assert first == ["a", 2, 1]
            assert isinstance(first[2], Int64)
            await peer.show(1, 110)
            await peer.show(1, 120, QueryUpdated(0, b'["b"]'))
            assert await anext(subscription) == ["b"]

            late = client.subscribe("messages:list", channel="c1", limit=Int64(3))
            assert await anext(late) == ["b"], "a second subscriber sees what the first one saw last"
            late.close()
            subscription.close()
            assert (await peer.expect(ModifyQuerySet)).modifications == (RemoveQuery(0),)
            with pytest.raises(StopAsyncIteration):
                await anext(subscription)

    run(test)


def test_a_slow_reader_gets_the_newest_result_only() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client:
            subscription = client.subscribe("m:f")
            peer = await server.peers.get()
            await peer.greet()
            for n in range(5):
                await peer.show(1, 100 + n, QueryUpdated(0, b"%d" % n))
            mutation = asyncio.create_task(client.mutation("m:g"))
            await peer.expect(Mutation)
            await peer.say(MutationResponse(0, Success(b"null"), 104))
            await mutation  # so all that was said before has arrived
            assert await anext(subscription) == 4

    run(test)


def test_a_subscription_that_is_dropped_or_left_is_taken_back() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client:
            peer = await server.peers.get()
            await peer.greet()

            async def read_one() -> object:
                async for result in client.subscribe("m:f"):
                    return result
                return None

            reader = asyncio.create_task(read_one())
            await peer.expect(ModifyQuerySet)
            await peer.show(2, 100, QueryUpdated(0, b"1"))
            assert await reader == 1
            assert (await peer.expect(ModifyQuerySet)).modifications == (RemoveQuery(0),)

            async with client.subscribe("m:f"):
                await peer.expect(ModifyQuerySet)
            assert (await peer.expect(ModifyQuerySet)).modifications == (RemoveQuery(1),)

            asking = asyncio.create_task(client.query("m:f"))
            await peer.expect(ModifyQuerySet)
            asking.cancel()
            assert (await peer.expect(ModifyQuerySet)).modifications == (RemoveQuery(2),)

    run(test)


def test_a_failing_query_raises_and_recovers() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client, client.subscribe("m:f") as subscription:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryFailed(0, "Server Error\nUncaught ValueError: boom"))
            with pytest.raises(FunctionError, match="Uncaught ValueError: boom"):
                await anext(subscription)
            await peer.show(1, 110, QueryFailed(0, "Server Error", b'{"code":7}'))
            with pytest.raises(ConvexError) as raised:
                await anext(subscription)
            assert raised.value.data == {"code": 7}
            assert raised.value.__notes__ == ["Server Error"]
            await peer.show(1, 120, QueryUpdated(0, b"1"))
            assert await anext(subscription) == 1

    run(test)


def test_a_mutation_ends_when_its_effect_is_shown() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client, client.subscribe("m:list") as subscription:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b"[]"))
            assert await anext(subscription) == []
            sending = asyncio.create_task(client.mutation("m:send", self=1, path="x"))
            message = await peer.expect(Mutation)
            assert message.arguments == b'{"path":"x","self":1}', "no argument's name is taken"
            await peer.say(MutationResponse(0, Success(b'"id"'), 200))
            await peer.show(1, 150)
            assert not sending.done()
            await peer.show(1, 200, QueryUpdated(0, b'["x"]'))
            assert await sending == "id"
            assert await client.query("m:list") == ["x"]

    run(test)


def test_how_calls_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="evolute_client")

    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client:
            peer = await server.peers.get()
            await peer.greet()
            with pytest.raises(InvalidValue):
                await client.mutation("m:f", when={1, 2})
            failing = asyncio.create_task(client.mutation("m:f"))
            await peer.expect(Mutation)
            await peer.say(MutationResponse(0, Failure("no", b'"why"'), None, ("[WARN] careful", "plain")))
            with pytest.raises(ConvexError) as raised:
                await failing
            assert raised.value.data == "why"
            acting = asyncio.create_task(client.action("m:a"))
            await peer.expect(Action)
            await peer.say(ActionResponse(1, Failure("no such function")))
            with pytest.raises(FunctionError, match="no such function"):
                await acting
            pending = asyncio.create_task(client.mutation("m:f"))
            asking = asyncio.create_task(client.query("m:q"))
            await peer.expect(ModifyQuerySet)
        for call in (pending, asking):
            with pytest.raises(ClientClosed):
                await call
        with pytest.raises(ClientClosed):
            await client.query("m:q")

    run(test)
    printed = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("WARNING", "m:f: [WARN] careful") in printed
    assert ("INFO", "m:f: plain") in printed


def test_after_a_lost_connection_everything_is_told_again() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, sleep=at_once) as client, client.subscribe("m:list") as subscription:
            peer = await server.peers.get()
            first, _ = await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b"[]", journal="J1"))
            assert await anext(subscription) == []
            sending = [asyncio.create_task(client.mutation("m:send", n=n)) for n in range(2)]
            await peer.expect(Mutation)
            await peer.expect(Mutation)
            acting = asyncio.create_task(client.action("m:a"))
            await peer.expect(Action)
            await peer.say(MutationResponse(0, Success(b'"id0"'), 200))
            await peer.break_off()
            with pytest.raises(ConnectionLost, match="while action was in flight"):
                await acting

            peer = await server.peers.get()
            second, change = await peer.greet()
            assert second.session_id == first.session_id
            assert (second.connection_count, second.last_close_reason) == (1, "InternalServerError")
            assert second.max_observed_ts == 200
            assert change.modifications == (AddQuery(0, "m:list", b"{}", journal="J1"),)
            assert [(await peer.expect(Mutation)).request_id for _ in range(2)] == [0, 1]
            await peer.show(1, 100, QueryUpdated(0, b"[]"))
            await peer.say(MutationResponse(0, Success(b'"id0"'), 200))
            await peer.say(MutationResponse(1, Success(b'"id1"'), 201))
            await peer.show(1, 201, QueryUpdated(0, b"[0,1]"))
            assert await asyncio.gather(*sending) == ["id0", "id1"]
            assert await anext(subscription) == [0, 1], "the unchanged result after the reconnect is not given again"

    run(test)


def test_a_broken_version_chain_costs_the_connection_and_nothing_else() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address) as client, client.subscribe("m:list") as subscription:
            peer = await server.peers.get()
            await peer.greet()
            await peer.show(1, 100, QueryUpdated(0, b"1"))
            assert await anext(subscription) == 1
            peer.version = StateVersion(1, 0, 90)
            await peer.show(1, 110, QueryUpdated(0, b"666"))
            with pytest.raises(ConnectionClosed):
                await peer.socket.recv()
            peer = await server.peers.get()
            connect, _ = await peer.greet()
            assert connect.last_close_reason is not None
            assert connect.last_close_reason.startswith("StartVersionMismatch")
            await peer.show(1, 120, QueryUpdated(0, b"2"))
            assert await anext(subscription) == 2

    run(test)


@pytest.mark.parametrize("nonsense", ["{", '{"type":"Nope"}', '{"type":"Transition"}'])
def test_nonsense_costs_the_connection(nonsense: str) -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address):
            peer = await server.peers.get()
            await peer.greet()
            await peer.socket.send(nonsense)
            again, _ = await (await server.peers.get()).greet()
            assert again.connection_count == 1

    run(test)


def test_silence_costs_the_connection() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, limits=Limits(heartbeat_ms=100)):
            peer = await server.peers.get()
            await peer.greet()
            connect, _ = await (await server.peers.get()).greet()
            assert connect.last_close_reason == "InactiveServer"

    run(test)


def test_a_refused_key_ends_all_calls() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, admin_key="demo|wrong") as client:
            subscription = client.subscribe("m:list")
            calling = asyncio.create_task(client.mutation("m:f"))
            peer = await server.peers.get()
            await peer.expect(Connect)
            assert await peer.expect(Authenticate) == Authenticate(0, AdminToken("demo|wrong"))
            await peer.say(AuthError("The admin key is wrong.", 0, True))
            with pytest.raises(RequestRefused, match="The admin key is wrong"):
                await calling
            with pytest.raises(RequestRefused):
                await anext(subscription)
            with pytest.raises(RequestRefused):
                await client.query("m:list")

    run(test)


def test_arguments_too_long_for_a_message_are_refused_here() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, limits=Limits(message_bytes_max=100_000)) as client:
            with pytest.raises(LimitReached, match="message_bytes_max"):
                await client.mutation("m:f", text="x" * 50_000)

    run(test)


def test_no_server() -> None:
    async def main() -> None:
        async with scripted_server() as server:
            address = server.address
        async with Client(address) as client:
            with pytest.raises(ConnectionLost, match=f"cannot reach {address}"):
                await client.wait_connected(timeout_s=0.3)

    asyncio.run(main())


def test_addresses() -> None:
    assert sync_url("http://127.0.0.1:3210") == "ws://127.0.0.1:3210/api/sync"
    assert sync_url("https://example.org/prefix/") == "wss://example.org/prefix/api/sync"
    for wrong in ("127.0.0.1:3210", "ftp://x", "http://"):
        with pytest.raises(ValueError, match="address looks like"):
            Client(wrong)
