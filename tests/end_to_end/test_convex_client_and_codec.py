"""PyPI's `convex` client, unmodified, reads what our codec writes, and our codec reads what it sends.

The server follows a script, so that each message is met on purpose; the whole system meets the same client elsewhere.
The client has a process of its own, because it holds the interpreter's lock while it waits.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

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
from tests.unit.scripted_server import Peer, ScriptedServer, run

PROGRAM = """
import sys
import convex

def failure(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("it did not fail")

client = convex.ConvexClient(sys.argv[1])
assert client.mutation("messages:send", {"x": 1, "n": convex.ConvexInt64(7), "b": b"xy"}) == {"n": 3.0}
error = failure(client.mutation, "messages:send", {})
assert isinstance(error, convex.ConvexError), error
assert error.data == {"code": 1.0}
assert "boom" in str(failure(client.action, "messages:act", {}))
assert client.query("messages:list", {})[0] == "a"
assert failure(client.query, "messages:list", {"n": 1}).data == "data"
"""


def test_convex_client_understands_every_message() -> None:
    async def test(server: ScriptedServer) -> None:
        command = (sys.executable, "-c", PROGRAM, server.address)
        client = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        try:
            await follow_script(await server.peers.get())
            _, complaint = await client.communicate()
            assert client.returncode == 0, complaint.decode()
        finally:
            if client.returncode is None:
                client.kill()
                await client.communicate()

    run(test)


async def follow_script(peer: Peer) -> None:
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
