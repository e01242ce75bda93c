"""A lean HTTP client: keep-alive connections that each send one request after the other.

Requests are bytes that were made before; of an answer the status and the length are read. Whatever is not expected
fails the benchmark.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

RECEIVE_BYTES = 64 * 1024
TIMEOUT_S = 30.0


def post_request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class HttpConnection:
    """One connection with at most one request under way."""

    def __init__(self, port: int, request: bytes, check: Callable[[bytes], bool]) -> None:
        self._request = request
        self._check = check
        self._received = b""
        self.answers = 0
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self) -> None:
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Takes what has arrived; whether an answer is whole. Raises RuntimeError for a bad one."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise RuntimeError("the server closed the connection")
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        if not head.startswith(b"HTTP/1.1 200") or len(body) > length or not self._check(body):
            raise RuntimeError(f"unexpected answer {self._received!r}")
        self._received = b""
        self.answers += 1
        return True


def answers_per_s(port: int, requests: list[bytes], check: Callable[[bytes], bool], seconds: float) -> float:
    """Each request has a connection of its own, and is sent again as soon as it was answered."""
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        connections = [HttpConnection(port, request, check) for request in requests]
        for connection in connections:
            stack.callback(connection.socket.close)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        begun_s = time.perf_counter()
        while time.perf_counter() - begun_s < seconds:
            for key, _ in selector.select(TIMEOUT_S):
                if key.data.receive():
                    key.data.send()
        return sum(connection.answers for connection in connections) / (time.perf_counter() - begun_s)
