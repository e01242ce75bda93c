"""A lean client: the sync protocol over a lean websocket, no more of it than a benchmark needs."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from tests.benchmarks.web_socket import WebSocket

Message = dict[str, Any]


class SyncSocket(WebSocket):
    """One session. `receive` gives the messages that have arrived; `mutate` and `subscribe` say what to send."""

    def __init__(self, port: int, host: str = "127.0.0.1", *, session: str | None = None) -> None:
        super().__init__(port, "/api/sync", host)
        self._requests = 0
        self._queries = 0
        opening = {"type": "Connect", "connectionCount": 0, "lastCloseReason": None}
        self.send({**opening, "sessionId": session or str(uuid.uuid4())})

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
        self.send_text(orjson.dumps(message))

    # --- Receiving ---------------------------------------------------------------------------------------------------

    def receive(self) -> list[Message]:
        """What has arrived, after waiting for something to arrive."""
        return [orjson.loads(text) for text in self.receive_texts()]

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


def covers(transition: Message, response: Message) -> bool:
    """Whether a client may complete this success, as Convex's clients do: the Transition is not older."""
    return decode_ts(transition["endVersion"]["ts"]) >= decode_ts(response["ts"])


def decode_ts(text: str) -> int:
    return int.from_bytes(base64.b64decode(text), "little")
