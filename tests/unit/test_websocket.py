"""The websocket transport of a real server: fragments, closes, odd peers (protocol §1)."""

from __future__ import annotations

import gc
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from evolute.limits import KIB, Limits
from evolute.protocol.pieces import chunks_of, fragments_of
from evolute.server.http_door import GuardedProtocol
from evolute.server.websocket import SyncProtocol
from evolute.sync.connection import Connection
from tests.server_thread import ServerThread

SESSION_ID = "f16a2aae-fe67-48a4-9eea-6efd82f2b3b9"
CONNECT = {"type": "Connect", "sessionId": SESSION_ID, "connectionCount": 0, "lastCloseReason": None, "clientTs": 0}
FRAGMENT_BYTES = 64 * KIB
CHUNK_BYTES = 50_000
WAIT_S = 10
HANDSHAKE = (
    b"GET /api/sync HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

KINDS = (Connection, SyncProtocol, GuardedProtocol)
FUNCTIONS = {
    "m.py": """
from evolute import MutationCtx, QueryCtx, mutation, query

@query
def large(ctx: QueryCtx, length: int) -> str:
    return "ü" * length

@query
def count(ctx: QueryCtx) -> int:
    return len(ctx.db.query("items").collect())

@mutation
def add(ctx: MutationCtx) -> int:
    ctx.db.insert("items", {})
    return 1
""",
    "schema.py": """
from evolute import Document, define_schema, define_table

class Item(Document):
    pass

schema = define_schema(items=define_table(Item))
""",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    limits = Limits(
        frame_fragment_bytes=FRAGMENT_BYTES,
        message_bytes_max=4096 * KIB,
        session_outgoing_bytes_max=1024 * KIB,
        close_ms_max=500,
        transition_chunk_bytes=CHUNK_BYTES,
    )
    with ServerThread(FUNCTIONS, limits) as server:
        yield server


def sync(server: ServerThread, path: str = "/api/sync") -> ClientConnection:
    return connect(f"ws://{server.address}{path}", max_size=None, ping_interval=None)


def say(client: ClientConnection, *messages: object) -> None:
    for message in messages:
        client.send(orjson.dumps(message).decode())


def hear(client: ClientConnection) -> Any:
    return orjson.loads(client.recv(timeout=WAIT_S))


def add_queries(path: str, *arguments: object) -> object:
    changes = [
        {"type": "Add", "queryId": query_id, "udfPath": path, "args": [each]} for query_id, each in enumerate(arguments)
    ]
    return {"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": changes}


MUTATION = {"type": "Mutation", "requestId": 0, "udfPath": "m:add", "args": [{}]}


@pytest.mark.parametrize("path", ["/api/sync", "/api/1.48.0/sync", "//api/1.48.0/sync", "/api/no-version/sync"])
def test_every_address_that_clients_dial(server: ServerThread, path: str) -> None:
    """Trap 55 and §1.1: whatever the version says, it is served."""
    with sync(server, path) as client:
        say(client, CONNECT, MUTATION)
        answer, transition = hear(client), hear(client)
        assert answer["type"] == "MutationResponse"
        assert answer["success"] is True
        assert transition["endVersion"]["ts"] == answer["ts"]
        assert isinstance(transition["clientClockSkew"], int)
        assert isinstance(transition["serverTs"], int)


def test_a_long_message_leaves_as_several_frames(server: ServerThread) -> None:
    """Trap 12. None of them ends inside a character."""
    with sync(server) as client:
        say(client, CONNECT, add_queries("m:large", {"length": 500_001}))
        fragments = list(client.recv_streaming())
        assert len(fragments) > 1_000_000 // FRAGMENT_BYTES
        assert all(len(str(fragment).encode()) <= FRAGMENT_BYTES for fragment in fragments)
        transition = orjson.loads("".join(map(str, fragments)))
        assert transition["modifications"][0]["value"] == "ü" * 500_001


@given(st.text(), st.integers(4, 20))
def test_fragments_are_whole_text(text: str, fragment_bytes: int) -> None:
    fragments = list(fragments_of(text.encode(), fragment_bytes))
    assert "".join(bytes(fragment).decode() for fragment, _ in fragments) == text
    assert all(0 < len(fragment) <= fragment_bytes for fragment, _ in fragments) or not text
    assert [is_last for _, is_last in fragments] == [False] * (len(fragments) - 1) + [True]


@pytest.mark.parametrize(
    ("path", "in_parts"),
    [
        ("/api/1.48.0/sync", True),
        ("/api/1.28.0/sync", True),
        ("/api/2.0.0-alpha.1/sync", True),
        ("/api/1.27.9/sync", False),
        ("/api/0.99.0/sync", False),
        ("/api/nonsense/sync", False),
        ("/api/sync", False),
    ],
)
def test_a_long_transition_goes_in_parts_to_those_who_know_them(
    server: ServerThread, path: str, in_parts: bool
) -> None:
    """Any other message in between, and npm's client would throw away what it has. Others reconnect for ever."""
    with sync(server, path) as client:
        say(client, CONNECT, add_queries("m:large", {"length": 100_001}, {"length": 5}))
        heard = [hear(client)]
        while in_parts and len(heard) < heard[0]["totalParts"]:
            heard.append(hear(client))
        if in_parts:
            assert [message["type"] for message in heard] == ["TransitionChunk"] * len(heard)
            assert [message["partNumber"] for message in heard] == list(range(len(heard)))
            assert len({(message["totalParts"], message["transitionId"]) for message in heard}) == 1
            assert len(heard) > 200_000 // CHUNK_BYTES
            transition = orjson.loads("".join(message["chunk"] for message in heard))
        else:
            (transition,) = heard
        assert [len(modification["value"]) for modification in transition["modifications"]] == [100_001, 5]
        say(client, {"type": "Mutation", "requestId": 0, "udfPath": "m:add", "args": [{}]})
        assert [hear(client)["type"], hear(client)["type"]] == ["MutationResponse", "Transition"]


@given(st.text(min_size=1), st.integers(4, 20))
def test_parts_are_the_text(text: str, chunk_bytes: int) -> None:
    parts = [orjson.loads(part) for part in chunks_of(text.encode(), chunk_bytes)]
    assert "".join(part["chunk"] for part in parts) == text
    assert all(0 < len(part["chunk"].encode()) <= chunk_bytes for part in parts)
    assert {part["totalParts"] for part in parts} == {len(parts)}


def test_violations_close_one_connection(server: ServerThread) -> None:
    for broken in ("{", b"\x00", "[]"):
        with sync(server) as client:
            client.send(broken)
            assert hear(client)["type"] == "FatalError"
            assert hear_close(client) == (1000, "WSMessageInvalidJson")
    with sync(server) as client:
        assert hear_close(client, "x" * 5_000_000)[0] == 1009
    assert_serves(server)


def hear_close(client: ClientConnection, *last: str) -> tuple[int, str]:
    """How the server closes, after `last` has been sent."""

    def talk() -> None:
        for text in last:
            client.send(text)
        hear(client)

    with pytest.raises(ConnectionClosed) as closed:
        talk()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def assert_serves(server: ServerThread) -> None:
    with sync(server) as client:
        say(client, CONNECT, MUTATION)
        assert hear(client)["type"] == "MutationResponse"


def test_a_refused_token_closes_without_a_code(server: ServerThread) -> None:
    """Trap 16."""
    with sync(server) as client:
        say(client, CONNECT, {"type": "Authenticate", "baseVersion": 0, "tokenType": "Admin", "value": "x|wrong"})
        refusal = hear(client)
        assert (refusal["type"], refusal["baseVersion"], refusal["authUpdateAttempted"]) == ("AuthError", 0, True)
        assert server.admin_key not in refusal["error"]
        assert hear_close(client)[0] == 1005
    with sync(server) as client:
        token = {"type": "Authenticate", "baseVersion": 0, "tokenType": "Admin", "value": server.admin_key}
        say(client, CONNECT, token)
        assert hear(client)["endVersion"]["identity"] == 1


def test_nothing_is_compressed(server: ServerThread) -> None:
    with connect(f"ws://{server.address}/api/sync", compression="deflate") as client:
        assert not client.protocol.extensions


def test_a_peer_that_reads_nothing_is_cut_off(server: ServerThread) -> None:
    """Its socket is reset: neither a close frame nor what waits before it can reach it."""
    with socket.socket() as peer:
        peer.settimeout(WAIT_S)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(HANDSHAKE)
        peer.recv(4096)
        mutation = orjson.dumps({**MUTATION, "udfPath": "no path " * 100})
        with pytest.raises(OSError, match=r"reset|pipe"):
            send_for_ever(peer, mutation)
    assert_serves(server)


def send_for_ever(peer: socket.socket, payload: bytes) -> None:
    while True:
        send_text(peer, payload)


def send_text(peer: socket.socket, payload: bytes) -> None:
    """One masked frame."""
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    peer.sendall(b"\x81" + length + mask + masked)


def test_the_server_stops_while_clients_are_connected() -> None:
    with ExitStack() as clients:
        with ServerThread(FUNCTIONS) as server:
            client = clients.enter_context(sync(server))
            say(client, CONNECT, add_queries("m:count", {}))
            assert hear(client)["modifications"][0]["value"] == 0
        assert hear_close(client)[0] == 1012


def test_a_peer_that_says_nothing_is_cut_off() -> None:
    """Not even pongs: it is gone, and nobody will say so."""
    with ServerThread(FUNCTIONS, Limits(socket_silence_ms_max=200)) as server, socket.socket() as peer:
        peer.settimeout(WAIT_S)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(HANDSHAKE)
        heard = b""
        while not heard.endswith(b"keepalive ping timeout"):
            piece = peer.recv(4096)
            assert piece, heard
            heard += piece


def test_who_has_gone_is_let_go_without_a_search_for_garbage(server: ServerThread) -> None:
    """The server searches so seldom that what waited for it would be a leak: 20 KiB for each session that ends."""
    gc.collect()
    gc.disable()
    kept_by_others = {id(each) for each in gc.get_objects() if issubclass(type(each), KINDS)}
    try:
        for _ in range(50):
            with sync(server) as client:
                say(client, CONNECT, add_queries("m:count", {}), MUTATION)
                assert hear(client)["type"] in ("Transition", "MutationResponse")
        deadline_s = time.monotonic() + WAIT_S
        while left := [
            type(each) for each in gc.get_objects() if issubclass(type(each), KINDS) and id(each) not in kept_by_others
        ]:
            assert time.monotonic() < deadline_s, left
            time.sleep(0.01)
    finally:
        gc.enable()
