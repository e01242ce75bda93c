"""A lean HTTP client: keep-alive connections that each send one request after the other.

Requests are bytes that were made before; of an answer the status and the length are read. Whatever is not expected
fails the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from tests.benchmarks.load import Load, Refused
from tests.benchmarks.sockets import connected

RECEIVE_BYTES = 64 * 1024


def post_request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class HttpConnection:
    """One connection with at most one request under way."""

    def __init__(self, port: int, check: Callable[[bytes], bool]) -> None:
        self._check = check
        self._received = b""
        self._socket = connected(port)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def receive(self) -> bool:
        """Takes what has arrived; whether an answer is whole. Raises Refused for a bad one."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return False
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        received, self._received = self._received, b""
        if not head.startswith(b"HTTP/1.1 200") or len(body) > length or not self._check(body):
            raise Refused(f"unexpected answer {received!r}")
        return True


def answers_per_s(port: int, requests: list[bytes], check: Callable[[bytes], bool], seconds: float) -> float:
    """Each request has a connection of its own, and is sent again as soon as it was answered."""
    own = {HttpConnection(port, check): request for request in requests}
    with closing(Load(list(own), lambda connection: connection.send(own[connection]))) as load:
        elapsed_s = load.run(seconds)
        if load.failures:
            raise RuntimeError(load.failures[0])
        return len(load.latencies_ms) / elapsed_s
