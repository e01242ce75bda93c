"""The sync protocol as a client speaks it, with nothing between a test and the JSON on the socket.

A RawSession checks what every client relies on, in all that it hears: that versions chain from zero and never go back,
that numbers of the protocol are integers, and that no Transition is older than an answer before it.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

Message = dict[str, Any]
PATIENCE_S = 60.0
ZERO_TS = "AAAAAAAAAAA="


def ts_of(text: str) -> int:
    data = base64.b64decode(text, validate=True)
    assert len(data) == 8
    return int.from_bytes(data, "little")


class RawSession:
    """`heard` is every message in order, pings left out; `results` the latest modification of each query."""

    def __init__(
        self,
        url: str,
        *,
        path: str = "/api/1.48.0/sync",
        session: str | None = None,
        opening: Mapping[str, object] | None = None,
    ) -> None:
        self.session = session or str(uuid.uuid4())
        self.heard: list[Message] = []
        self.results: dict[int, Message] = {}
        self.answers: dict[int, Message] = {}
        self.version: Message = {"querySet": 0, "identity": 0, "ts": ZERO_TS}
        self._query_set = self._identity = self._queries = self._requests = 0
        address = "ws" + url.removeprefix("http") + path
        self._stack = ExitStack()
        self._socket = self._stack.enter_context(connect(address, max_size=None, compression=None, close_timeout=5))
        self.send("Connect", **{"sessionId": self.session, "connectionCount": 0, "clientTs": 0, **(opening or {})})

    # --- Saying ----------------------------------------------------------------------------------------------------

    def send(self, kind: str, **fields: object) -> None:
        self._socket.send(json.dumps({"type": kind, **fields}))

    def modify(self, *modifications: Message) -> None:
        base, self._query_set = self._query_set, self._query_set + 1
        self.send("ModifyQuerySet", baseVersion=base, newVersion=self._query_set, modifications=list(modifications))

    def add(self, path: str, /, **arguments: object) -> int:
        """Subscribes; returns the query's id."""
        added = self.added(path, **arguments)
        self.modify(added)
        return int(added["queryId"])

    def added(self, path: str, /, **arguments: object) -> Message:
        """An Add for `modify`."""
        query_id, self._queries = self._queries, self._queries + 1
        return {"type": "Add", "queryId": query_id, "udfPath": path, "args": [arguments]}

    def remove(self, query_id: int) -> None:
        self.modify({"type": "Remove", "queryId": query_id})

    def authenticate(self, **token: object) -> None:
        base, self._identity = self._identity, self._identity + 1
        self.send("Authenticate", baseVersion=base, **token)

    def request(self, kind: str, path: str, /, **arguments: object) -> int:
        """Sends a Mutation or an Action; returns the request's id."""
        request_id, self._requests = self._requests, self._requests + 1
        return self.repeat(request_id, kind, path, **arguments)

    def repeat(self, request_id: int, kind: str, path: str, /, **arguments: object) -> int:
        """Sends a request under an id of the test's choice, as a client does after a reconnect."""
        self.send(kind, requestId=request_id, udfPath=path, args=[arguments])
        return request_id

    def mutate(self, path: str, /, **arguments: object) -> Message:
        """Runs the mutation until a Transition covers it, as every client does; returns the response."""
        return self.covered(self.request("Mutation", path, **arguments))

    # --- Hearing ---------------------------------------------------------------------------------------------------

    def next(self) -> Message:
        """The next message that is no Ping. Raises ConnectionClosed, and TimeoutError after `PATIENCE_S`."""
        deadline = time.monotonic() + PATIENCE_S
        while (message := self._message(deadline))["type"] == "Ping":
            pass
        self.heard.append(message)
        if message["type"] == "Transition":
            self._check_transition(message)
        elif message["type"] in ("MutationResponse", "ActionResponse"):
            self._check_answer(message)
        return message

    def until(self, done: Callable[[], object]) -> None:
        while not done():
            self.next()

    def ping(self) -> None:
        """The next message, which must be a Ping."""
        message = self._message(time.monotonic() + PATIENCE_S)
        assert message == {"type": "Ping"}, message

    def transition(self) -> Message:
        """The next message, which must be a Transition."""
        message = self.next()
        assert message["type"] == "Transition", message
        return message

    def answer(self, request_id: int) -> Message:
        self.until(lambda: request_id in self.answers)
        return self.answers[request_id]

    def covered(self, request_id: int) -> Message:
        """The answer to a mutation, when the Transition that clients wait for has come."""
        answer = self.answer(request_id)
        at = self.heard.index(answer)
        ts = ts_of(answer["ts"]) if answer["success"] else 0
        self.until(lambda: any(m["type"] == "Transition" and end_ts(m) >= ts for m in self.heard[at + 1 :]))
        return answer

    def result(self, query_id: int) -> Message:
        """Waits for the query's first result, and returns the latest."""
        self.until(lambda: query_id in self.results)
        return self.results[query_id]

    def value(self, query_id: int, expected: object) -> None:
        """Waits until the query's value is the expected one."""
        self.until(lambda: self.results.get(query_id, {}).get("value", self) == expected)

    def closed(self) -> tuple[int | None, str]:
        """Waits for the server's close frame; its code and reason, None if it has none."""
        try:
            while True:
                self.next()
        except ConnectionClosed as end:
            return (None, "") if end.rcvd is None else (end.rcvd.code, end.rcvd.reason)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def large_text(self) -> tuple[str, list[int]]:
        """The next message that is no Ping, with the sizes of its frames."""
        watchdog = threading.Timer(PATIENCE_S, self._socket.socket.close)
        watchdog.start()
        try:
            while True:
                frames = list(self._socket.recv_streaming(decode=False))
                text = b"".join(frames).decode()
                if text != '{"type":"Ping"}':
                    return text, [len(frame) for frame in frames]
        finally:
            watchdog.cancel()

    def _message(self, deadline: float) -> Message:
        text = self._socket.recv(timeout=deadline - time.monotonic())
        assert isinstance(text, str), "messages are text"
        message: Message = json.loads(text, parse_constant=_no_number)
        return message

    def _check_transition(self, message: Message) -> None:
        start, end = message["startVersion"], message["endVersion"]
        assert start == self.version, f"{start} does not follow {self.version}"
        for version in (start, end):
            assert all(type(version[name]) is int for name in ("querySet", "identity")), version
        for name in ("clientClockSkew", "serverTs"):
            assert type(message.get(name, 0)) is int, message
        assert ts_of(end["ts"]) >= ts_of(start["ts"])
        assert start["querySet"] <= end["querySet"] <= self._query_set
        assert start["identity"] <= end["identity"] <= self._identity
        for answer in self.answers.values():
            assert answer.get("ts") is None or ts_of(answer["ts"]) <= ts_of(end["ts"]), "older than an answer before it"
        self.version = end
        for modification in message["modifications"]:
            self._check_modification(modification)
            self.results[modification["queryId"]] = modification

    def _check_modification(self, modification: Message) -> None:
        assert type(modification["queryId"]) is int
        if modification["type"] == "QueryRemoved":
            return
        assert isinstance(modification["logLines"], list)
        assert modification["journal"] is None or isinstance(modification["journal"], str)
        if modification["type"] == "QueryUpdated":
            assert "value" in modification
        else:
            assert modification["type"] == "QueryFailed"
            assert isinstance(modification["errorMessage"], str)
        assert modification.get("errorData", "") is not None

    def _check_answer(self, message: Message) -> None:
        assert type(message["requestId"]) is int
        assert isinstance(message["logLines"], list)
        assert message.get("errorData", "") is not None
        assert message["requestId"] not in self.answers
        self.answers[message["requestId"]] = message


def end_ts(transition: Message) -> int:
    return ts_of(transition["endVersion"]["ts"])


def _no_number(text: str) -> float:
    raise AssertionError(f"{text} is not JSON")


def post(url: str, path: str, body: object, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """One HTTP request; bytes are sent as they are, anything else as JSON. Returns the status and the JSON answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
