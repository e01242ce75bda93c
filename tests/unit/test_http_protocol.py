"""Answers over HTTP leave in one write, whatever an ASGI server does, and nothing that was written is lost or late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request

from evolute.server.hot_routes import PlainRequest
from evolute.server.http_protocol import JoinedWrites
from tests.server_thread import ServerThread

FUNCTIONS = {
    "m.py": """
from evolute import QueryCtx, query

@query
def echo(ctx: QueryCtx, value: int) -> int:
    return value
"""
}
WAIT_S = 10


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(FUNCTIONS) as server:
        yield server


class Recorded(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []

    def write(self, data: Any) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("closed")


def test_what_is_written_in_one_turn_leaves_in_one_write() -> None:
    async def scenario() -> None:
        recorded = Recorded()
        joined = JoinedWrites(recorded, asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        assert recorded.done == []
        await asyncio.sleep(0)
        assert recorded.done == [b"headbody"]
        joined.write(b"more")
        await asyncio.sleep(0)
        assert recorded.done == [b"headbody", b"more"]

    asyncio.run(scenario())


def test_what_was_written_before_a_close_leaves_before_it() -> None:
    async def scenario() -> None:
        recorded = Recorded()
        joined = JoinedWrites(recorded, asyncio.get_running_loop())
        joined.write(b"head")
        joined.close()
        await asyncio.sleep(0)
        assert recorded.done == [b"head", "closed"]

    asyncio.run(scenario())


def answers(peer: socket.socket, count: int) -> bytes:
    """All bytes up to the end of so many answers to `echo`."""
    received = b""
    while received.count(b'"value":') < count or not received.endswith(b"}"):
        data = peer.recv(65536)
        assert data, received
        received += data
    return received


def request(value: int, *headers: bytes) -> tuple[bytes, bytes]:
    body = b'{"path":"m:echo","args":{"value":%d}}' % value
    lines = (b"POST /api/query HTTP/1.1", b"Host: x", b"Content-Type: application/json", *headers)
    return b"".join(line + b"\r\n" for line in (*lines, b"Content-Length: %d" % len(body), b"")), body


def test_requests_behind_each_other_are_answered_in_order(server: ServerThread) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as peer:
        peer.sendall(b"".join(b"".join(request(number)) for number in range(5)))
        received = answers(peer, 5)
    places = [received.index(b'"value":%d}' % number) for number in range(5)]
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 200 OK") == 5


def test_who_asks_whether_to_go_on_is_told_before_the_body(server: ServerThread) -> None:
    head, body = request(7, b"Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as peer:
        peer.sendall(head)
        assert peer.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(body)
        assert answers(peer, 1).endswith(b'{"status":"success","value":7}')


def test_an_answer_that_ends_its_connection_is_whole(server: ServerThread) -> None:
    head, body = request(7, b"Connection: close")
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as peer:
        peer.sendall(head + body)
        received = b""
        while data := peer.recv(65536):
            received += data
    assert received.endswith(b'{"status":"success","value":7}')


def test_a_plain_request_reads_as_starlettes_does() -> None:
    """Whatever comes twice, in which spelling, and in which letters."""
    headers = [(b"convex-client", b"npm-1"), (b"convex-client", b"npm-2"), (b"authorization", b"Bearer \xfc")]
    query = b"adminKey=a%20b&adminKey=c&format="
    scope = {"type": "http", "method": "POST", "path": "/api/query", "headers": headers, "query_string": query}

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    plain, starlettes = PlainRequest(scope, receive), Request(scope, receive)
    assert plain.method == starlettes.method
    for name in ("convex-client", "authorization", "absent"):
        assert plain.headers.get(name) == starlettes.headers.get(name)
    for name in ("adminKey", "format", "absent"):
        assert plain.query_params.get(name) == starlettes.query_params.get(name)
    assert PlainRequest({**scope, "query_string": b""}, receive).query_params.get("adminKey") is None
