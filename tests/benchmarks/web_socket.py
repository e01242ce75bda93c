"""A lean websocket: texts over a plain socket, no more of the protocol than a benchmark needs.

It leaves the processors to the server. Frames are masked with zeros, which is allowed and costs nothing; compression,
fragments and reconnecting are left out, and whatever is not expected fails the benchmark.
"""

from __future__ import annotations

import base64

from tests.benchmarks.sockets import connected

RECEIVE_BYTES = 64 * 1024  # beyond this the memory for it is asked of the system every time, which takes 20 µs
_TEXT, _CLOSE, _PING, _PONG = 0x81, 0x88, 0x89, 0x8A


class Closed(ConnectionError):
    """The server has said that it closes, and why."""

    def __init__(self, payload: bytes) -> None:
        self.code = int.from_bytes(payload[:2], "big")
        self.reason = payload[2:].decode()
        super().__init__(f"the server closed: {self.code} {self.reason}")


class WebSocket:
    """One connection to `path`."""

    def __init__(self, port: int, path: str, host: str = "127.0.0.1") -> None:
        self._socket = connected(port, host)
        self._buffer = bytearray()
        self._shake_hands(host, path)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send_text(self, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes((_TEXT, 0x80 | length))
        elif length < 1 << 16:
            head = bytes((_TEXT, 0x80 | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((_TEXT, 0x80 | 127)) + length.to_bytes(8, "big")
        self._socket.sendall(b"".join((head, bytes(4), payload)))

    def receive_texts(self) -> list[bytes]:
        """What has arrived, after waiting for something to arrive."""
        self._buffer += self.receive_bytes()
        return self._taken()

    def receive_bytes(self) -> bytes:
        """The same as it came, for who does not read it."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def _taken(self) -> list[bytes]:
        texts: list[bytes] = []
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            first, length, at = buffer[start], buffer[start + 1], start + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                length, at = int.from_bytes(buffer[at : at + size], "big"), at + size
            if len(buffer) < at + length:
                break
            start = at + length
            if first == _TEXT:
                texts.append(bytes(buffer[at:start]))
            elif first == _PING:
                self._socket.sendall(bytes((_PONG, 0x80 | length)) + bytes(4) + bytes(buffer[at:start]))
            elif first == _CLOSE:
                raise Closed(bytes(buffer[at:start]))
            else:
                raise ConnectionError(f"unexpected frame {first:#x}: {bytes(buffer[at:start])!r}")
        del buffer[:start]
        return texts

    def _shake_hands(self, host: str, path: str) -> None:
        key = base64.b64encode(bytes(16)).decode()
        lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket")
        request = "\r\n".join((*lines, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""))
        self._socket.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                break
            answer += data
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no websocket: {head.decode(errors='replace')}")
        self._buffer += rest
