"""A lean client: the sync protocol over a plain socket, no more of it than a benchmark needs.

It leaves the processors to the server. Frames are masked with zeros, which is allowed and costs nothing; compression,
fragments and reconnecting are left out, and whatever is not expected fails the benchmark.
"""

from __future__ import annotations

import base64
import socket
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

RECEIVE_BYTES = 256 * 1024
TIMEOUT_S = 30.0

Message = dict[str, Any]


class SyncSocket:
    """One session. `receive` gives the messages that have arrived; `mutate` and `subscribe` say what to send."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._requests = 0
        self._queries = 0
        self._shake_hands(host)
        self.send({"type": "Connect", "sessionId": str(uuid.uuid4()), "connectionCount": 0, "lastCloseReason": None})

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    # --- Sending -----------------------------------------------------------------------------------------------------

    def mutate(self, path: str, arguments: Message) -> int:
        """Sends the mutation; returns its request id."""
        request_id, self._requests = self._requests, self._requests + 1
        self.send({"type": "Mutation", "requestId": request_id, "udfPath": path, "args": [arguments]})
        return request_id

    def subscribe(self, path: str, arguments: Message) -> int:
        """Adds a query; returns its id."""
        return self.subscribe_all(path, [arguments])

    def subscribe_all(self, path: str, arguments: Sequence[Message]) -> int:
        """Adds a query for each of the arguments, at once; returns the id of the first. The others follow it."""
        first, self._queries = self._queries, self._queries + len(arguments)
        added = [
            {"type": "Add", "queryId": query_id, "udfPath": path, "args": [one]}
            for query_id, one in enumerate(arguments, first)
        ]
        self.send({"type": "ModifyQuerySet", "baseVersion": first, "newVersion": self._queries, "modifications": added})
        return first

    def send(self, message: Message) -> None:
        payload = orjson.dumps(message)
        length = len(payload)
        if length < 126:
            head = bytes((0x81, 0x80 | length))
        elif length < 1 << 16:
            head = bytes((0x81, 0x80 | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((0x81, 0x80 | 127)) + length.to_bytes(8, "big")
        self.socket.sendall(b"".join((head, bytes(4), payload)))

    # --- Receiving ---------------------------------------------------------------------------------------------------

    def receive(self) -> list[Message]:
        """What has arrived, after waiting for something to arrive."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        return self._taken()

    def wait_response(self, request_id: int) -> Any:
        """The result of a mutation, once a Transition covers it. Raises RuntimeError if it failed."""
        response: Message | None = None
        while True:
            for message in self.receive():
                if message["type"] == "MutationResponse" and message["requestId"] == request_id:
                    if not message["success"]:
                        raise RuntimeError(message["result"])
                    response = message
                elif message["type"] == "Transition" and response is not None and covers(message, response):
                    return response["result"]

    def wait_update(self, query_id: int, value: object = ...) -> Any:
        """The next value of a subscription, or the next one that is `value`. Raises RuntimeError for a failed query."""
        while True:
            for message in self.receive():
                for modification in message.get("modifications", ()):
                    if modification["queryId"] != query_id:
                        continue
                    if modification["type"] != "QueryUpdated":
                        raise RuntimeError(modification.get("errorMessage"))
                    if value is ... or modification["value"] == value:
                        return modification["value"]

    def query(self, path: str, arguments: Message) -> Any:
        """The query's first value. The subscription stays."""
        return self.wait_update(self.subscribe(path, arguments))

    def _taken(self) -> list[Message]:
        messages: list[Message] = []
        buffer, start = self._buffer, 0
        while len(buffer) - start >= 2:
            first, length, at = buffer[start], buffer[start + 1], start + 2
            if length >= 126:
                size = 2 if length == 126 else 8
                length, at = int.from_bytes(buffer[at : at + size], "big"), at + size
            if len(buffer) < at + length:
                break
            start = at + length
            if first == 0x81:
                messages.append(orjson.loads(buffer[at:start]))
            elif first == 0x89:
                self.socket.sendall(bytes((0x8A, 0x80 | length)) + bytes(4) + bytes(buffer[at:start]))
            else:
                raise ConnectionError(f"unexpected frame {first:#x}: {bytes(buffer[at:start])!r}")
        del buffer[:start]
        return messages

    def _shake_hands(self, host: str) -> None:
        key = base64.b64encode(bytes(16)).decode()
        lines = ("GET /api/sync HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket")
        request = "\r\n".join((*lines, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""))
        self.socket.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                break
            answer += data
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            raise ConnectionError(f"no websocket: {head.decode(errors='replace')}")
        self._buffer += rest


def covers(transition: Message, response: Message) -> bool:
    """Whether a client may complete this success, as Convex's clients do: the Transition is not older."""
    return decode_ts(transition["endVersion"]["ts"]) >= decode_ts(response["ts"])


def decode_ts(text: str) -> int:
    return int.from_bytes(base64.b64decode(text), "little")
