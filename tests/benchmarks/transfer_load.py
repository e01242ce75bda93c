"""Connections over which transfers are asked for, one class for each way to ask, and the load that they make."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.benchmarks.http_socket import HttpConnection, post_request
from tests.benchmarks.load import Connection, Load, Refused
from tests.benchmarks.pairs import Pairs
from tests.benchmarks.sync_socket import Message, SyncSocket, covers
from tests.benchmarks.web_socket import WebSocket

SUCCESS = b'{"status":"success","value":null}'
ORDER = b'{"from_id":%d,"to_id":%d,"amount":1}'
CALL = b'{"path":"accounts:transfer","args":{"from_id":%d,"to_id":%d,"amount":1}}'


class Teller(Connection, Protocol):
    def transfer(self, source: int, target: int) -> None: ...


class TransferLoad(Load[Teller]):
    def __init__(self, tellers: Sequence[Teller], pairs: Pairs) -> None:
        following = itertools.cycle(pairs).__next__
        super().__init__(tellers, lambda teller: teller.transfer(*following()))


class Transfers(TransferLoad):
    """The transfers of so many sessions of evolute's."""

    def __init__(self, port: int, sessions: int, pairs: Pairs) -> None:
        super().__init__([SessionTeller(port) for _ in range(sessions)], pairs)


class SessionTeller:
    """A session of the sync protocol: its answer is whole when a client's promise would resolve."""

    def __init__(self, port: int) -> None:
        self._socket = SyncSocket(port)
        self._response: Message | None = None
        self.fileno, self.close = self._socket.fileno, self._socket.close

    def transfer(self, source: int, target: int) -> None:
        self._socket.mutate("accounts:transfer", {"from_id": source, "to_id": target, "amount": 1})

    def receive(self) -> bool:
        is_whole = False
        refusal: object = None
        for message in self._socket.receive():
            if message["type"] == "MutationResponse":
                if message["success"]:
                    self._response = message
                else:
                    refusal = message["result"]
            elif self._response is not None and message["type"] == "Transition" and covers(message, self._response):
                self._response = None
                is_whole = True
        if refusal is not None:
            raise Refused(str(refusal))
        return is_whole


class HttpTeller(HttpConnection):
    """POST `path` with `body`, into which the accounts are filled."""

    def __init__(self, port: int, path: str, body: bytes, check: Callable[[bytes], bool]) -> None:
        super().__init__(port, check)
        self._path = path
        self._body = body

    def transfer(self, source: int, target: int) -> None:
        self.send(post_request(self._path, self._body % (source, target)))


class SocketTeller(WebSocket):
    """One text for each transfer, and one that answers it."""

    def __init__(self, port: int, check: Callable[[bytes], bool]) -> None:
        super().__init__(port, "/transfer")
        self._check = check

    def transfer(self, source: int, target: int) -> None:
        self.send_text(ORDER % (source, target))

    def receive(self) -> bool:
        texts = self.receive_texts()
        if not texts:
            return False
        if len(texts) > 1 or not self._check(texts[0]):
            raise Refused(f"unexpected answer {texts!r}")
        return True


def is_success(body: bytes) -> bool:
    return body == SUCCESS


def is_done(body: bytes) -> bool:
    """Of a peer."""
    return body in (b'{"ok":true}', b'{"ok": true}')


def is_echo(body: bytes) -> bool:
    return body.startswith(b'{"from_id":')
