"""PyPI's `convex` client, unmodified, reads what our codec writes, and our codec reads what it sends.

The server follows a script, so that each message is met on purpose; the whole system meets the same client elsewhere.
"""

from __future__ import annotations

import convex
import pytest

from evolute.protocol.messages import (
    Action,
    ActionResponse,
    AddQuery,
    Connect,
    Failure,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    Ping,
    QueryFailed,
    QueryUpdated,
    Success,
)
from tests.unit.scripted_server import ScriptedServer, on_a_thread


def test_convex_client_understands_every_message() -> None:
    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await peer.expect(Connect)
        await peer.say(Ping())
        mutation = await peer.expect(Mutation)
        assert mutation.arguments == b'{"b":{"$bytes":"eHk="},"n":{"$integer":"BwAAAAAAAAA="},"x":1}'
        await peer.say(MutationResponse(0, Success(b'{"n":3}'), 1_700_000_000_000_000_000, ("[LOG] x",)))
        await peer.show(0, 1_700_000_000_000_000_000)
        await peer.expect(Mutation)
        await peer.say(MutationResponse(1, Failure("why", b'{"code":1}'), None))
        await peer.show(0, 1_700_000_000_000_000_001)
        await peer.expect(Action)
        await peer.say(ActionResponse(2, Failure("boom")))
        change = await peer.expect(ModifyQuerySet)
        assert change.modifications == (AddQuery(0, "messages:list", b"{}"),)
        await peer.show(1, 1_700_000_000_000_000_002, QueryUpdated(0, b'["a",{"$float":"AAAAAAAA+H8="}]', ("[LOG] y",)))
        assert len((await peer.expect(ModifyQuerySet)).modifications) == 1
        await peer.expect(ModifyQuerySet)
        await peer.show(3, 1_700_000_000_000_000_003, QueryFailed(1, "gone", b'"data"'))
        await peer.socket.wait_closed()

    with on_a_thread(script) as address:
        client = convex.ConvexClient(address)
        assert client.mutation("messages:send", {"x": 1, "n": convex.ConvexInt64(7), "b": b"xy"}) == {"n": 3.0}
        with pytest.raises(convex.ConvexError) as raised:
            client.mutation("messages:send", {})
        assert raised.value.data == {"code": 1.0}
        with pytest.raises(Exception, match="boom"):
            client.action("messages:act", {})
        assert client.query("messages:list", {})[0] == "a"
        with pytest.raises(convex.ConvexError) as failed:
            client.query("messages:list", {"n": 1})
        assert failed.value.data == "data"
        del client
