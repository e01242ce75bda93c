"""The blocking client against a server that follows a script on another thread."""

from __future__ import annotations

import threading

import pytest

from evolute.protocol.messages import (
    Action,
    ActionResponse,
    Connect,
    Failure,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    QueryUpdated,
    Success,
)
from evolute_client import (
    ClientClosed,
    FunctionError,
    SyncClient,
)
from tests.unit.scripted_server import PATIENCE_S, ScriptedServer, on_a_thread


def test_the_blocking_client() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.expect(Connect)
        await peer.expect(ModifyQuerySet)
        await peer.expect(ModifyQuerySet)
        await peer.show(2, 100, QueryUpdated(0, b"[]"))
        await peer.expect(Mutation)
        await peer.say(MutationResponse(0, Success(b'"id"'), 200))
        await peer.show(2, 200, QueryUpdated(0, b'["x"]'))
        await peer.expect(Action)
        await peer.say(ActionResponse(1, Failure("boom")))
        await peer.socket.wait_closed()

    with on_a_thread(script) as address:
        with SyncClient(address) as client:
            client.wait_connected(PATIENCE_S)
            with client.subscribe("m:list") as subscription:
                assert next(subscription) == []
                assert client.mutation("m:send", body="x") == "id"
                assert next(subscription) == ["x"]
                assert client.query("m:list") == ["x"]
                with pytest.raises(FunctionError, match="boom"):
                    client.action("m:a")
                stopper = threading.Timer(0.05, subscription.close)
                stopper.start()
                assert list(subscription) == [], "closing from another thread ends the loop"
                stopper.join()
        with pytest.raises(ClientClosed):
            client.query("m:list")
