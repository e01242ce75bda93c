"""What clients trip over (protocol §14), each against the whole system: sockets, workers, store.

Traps of the message order alone have golden scripts in tests/scripts/sessions; these need functions and commits.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.server_thread import ServerThread

WAIT_S = 20
SESSION_ID = str(uuid.UUID(int=1))

FUNCTIONS = {
    "m.py": """
from typing import Any
from evolute import Document, Int64, MutationCtx, QueryCtx, internal_query, mutation, query

@query
def echo(ctx: QueryCtx, value: Any = None) -> Any:
    return value

@query
def whole(ctx: QueryCtx, n: int) -> str:
    return type(n).__name__

@query
def returns(ctx: QueryCtx, what: str) -> Any:
    return {"umlaut": {"\\u00fc": 1}, "dollar": {"$x": 1}, "surrogate": "\\ud800", "deep": deep(70)}[what]

def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else None

@internal_query
def hidden(ctx: QueryCtx) -> str:
    return "found"

@query
def total(ctx: QueryCtx) -> float:
    counter = ctx.db.query("counters").first()
    return counter["n"] if counter else 0

@query
def rows(ctx: QueryCtx) -> int:
    return len(ctx.db.query("counters").collect())

@mutation
def increment(ctx: MutationCtx) -> float:
    counter = ctx.db.query("counters").first()
    if counter is None:
        ctx.db.insert("counters", {"n": 1})
        return 1
    ctx.db.patch(counter["_id"], {"n": counter["n"] + 1})
    return counter["n"] + 1

@mutation
def fails_once(ctx: MutationCtx) -> str:
    if not ctx.db.query("flags").collect():
        raise ValueError("not yet")
    return "done"

@mutation
def raise_flag(ctx: MutationCtx) -> None:
    ctx.db.insert("flags", {})
""",
    "schema.py": """
from evolute import Document, define_schema, define_table

class Counter(Document):
    n: float

class Flag(Document):
    pass

schema = define_schema(counters=define_table(Counter), flags=define_table(Flag))
""",
    "sub/deep.py": """
from evolute import QueryCtx, query

@query
def default(ctx: QueryCtx) -> str:
    return "deep"
""",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(FUNCTIONS) as server:
        yield server


class Client:
    """Says and hears the protocol as it is written, and applies Transitions, whose versions must chain."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.version: object = {"querySet": 0, "identity": 0, "ts": "AAAAAAAAAAA="}
        self.view: dict[int, Any] = {}
        self.answers: dict[int, Any] = {}

    def say(self, kind: str, **fields: object) -> None:
        self.socket.send(orjson.dumps({"type": kind, **fields}).decode())

    def connect(self, session_id: str = SESSION_ID) -> None:
        self.say("Connect", sessionId=session_id, connectionCount=0, lastCloseReason="InitialConnect", clientTs=0)

    def mutate(self, request_id: int, path: str) -> None:
        self.say("Mutation", requestId=request_id, udfPath=path, args=[{}])

    def watch(self, *queries: tuple[str, object]) -> None:
        changes = [
            {"type": "Add", "queryId": query_id, "udfPath": path, "args": [arguments]}
            for query_id, (path, arguments) in enumerate(queries)
        ]
        self.say("ModifyQuerySet", baseVersion=0, newVersion=1, modifications=changes)

    def hear(self) -> str:
        """Takes one message; returns its type."""
        message = orjson.loads(self.socket.recv(timeout=WAIT_S))
        match message["type"]:
            case "Transition":
                assert message["startVersion"] == self.version
                self.version = message["endVersion"]
                for change in message["modifications"]:
                    self.view[change["queryId"]] = change.get("value", change.get("errorMessage"))
            case "MutationResponse":
                self.answers[message["requestId"]] = message
            case other:
                assert other == "Ping", message
        return str(message["type"])

    def answer(self, request_id: int) -> Any:
        """The answer, once a Transition has followed it."""
        while request_id not in self.answers:
            self.hear()
        while self.hear() != "Transition":
            continue
        return self.answers[request_id]

    def first_view(self) -> dict[int, Any]:
        while self.hear() != "Transition":
            continue
        return self.view


def sync(server: ServerThread) -> ClientConnection:
    return connect(f"ws://{server.address}/api/sync", max_size=None, ping_interval=None)


def test_a_mutation_that_is_sent_again_runs_once(server: ServerThread) -> None:
    """Trap 19: the original answer with the original timestamp; a failure is not kept."""
    with sync(server) as socket:
        client = Client(socket)
        client.connect()
        client.mutate(0, "m:increment")
        first = client.answer(0)
        client.mutate(1, "m:fails_once")
        assert client.answer(1)["success"] is False
        client.mutate(2, "m:raise_flag")
        client.answer(2)
    with sync(server) as socket:
        client = Client(socket)
        client.connect()
        client.mutate(0, "m:increment")
        client.mutate(1, "m:fails_once")
        again = client.answer(0)
        assert (again["result"], again["ts"]) == (first["result"], first["ts"])
        assert client.answer(1)["result"] == "done"


def test_a_client_with_a_new_session_is_a_new_client(server: ServerThread) -> None:
    """Trap 18: PyPI's client takes a new session for every connection, so what it sends again runs again."""
    results = []
    for session in (7, 8):
        with sync(server) as socket:
            client = Client(socket)
            client.connect(str(uuid.UUID(int=session)))
            client.mutate(0, "m:increment")
            results.append(client.answer(0)["result"])
    assert results[1] == results[0] + 1


def test_contention_is_nobodys_error(server: ServerThread) -> None:
    """Trap 31: everybody writes one document, and every mutation succeeds."""
    with ExitStack() as sockets:
        clients = [Client(sockets.enter_context(sync(server))) for _ in range(8)]
        for session, client in enumerate(clients):
            client.connect(str(uuid.UUID(int=100 + session)))
            client.watch(("m:total", {}), ("m:rows", {}))
        before = clients[0].first_view()[0]
        for client in clients:
            for request_id in range(5):
                client.mutate(request_id, "m:increment")
        for client in clients:
            while client.view.get(0) != before + 40:
                client.hear()
            assert client.view[1] == 1
            assert all(answer["success"] for answer in client.answers.values())
            assert sorted(client.answers) == list(range(5))


def test_functions_are_named_with_slashes(server: ServerThread) -> None:
    """Traps 26, 27 and 51."""
    with sync(server) as socket:
        client = Client(socket)
        client.connect()
        paths = ("sub/deep", "sub/deep:default", "sub/deep.js:default", "sub.deep:default", "m:hidden", "m:absent")
        client.watch(*((path, {}) for path in paths))
        view = client.first_view()
    assert [view[place] for place in range(3)] == ["deep"] * 3
    for place in (3, 4, 5):
        assert view[place].endswith(f"Could not find public function for '{paths[place]}'.")


def test_numbers_and_wrappers(server: ServerThread) -> None:
    """Traps 32 and 35 to 38."""
    integer = {"$integer": "AwAAAAAAAAA="}
    with sync(server) as socket:
        client = Client(socket)
        client.connect()
        arguments: list[tuple[str, object]] = [
            ("m:whole", {"n": 3}),
            ("m:whole", {"n": 3.0}),
            ("m:whole", {"n": integer}),
            ("m:whole", {"n": 0.5}),
            ("m:echo", {"value": integer}),
            ("m:echo", {"value": {"$float": "AAAAAAAA+H8="}}),
            ("m:echo", {"value": {"$float": "AAAAAAAA8D8="}}),
            ("m:echo", {"value": {"$integer": "AwAA"}}),
            ("m:echo", {"value": {"$integer": "AwAAAAAAAAA"}}),
            ("m:echo", {"value": {"$integer": "AwAAAAAAAAA=", "x": 1}}),
            ("m:echo", {"value": {"$set": []}}),
        ]
        client.watch(*arguments)
        view = client.first_view()
    assert [view[0], view[1]] == ["int", "int"]
    assert view[4] == integer
    assert view[5] == {"$float": "AAAAAAAA+H8="}
    for place in (2, 3, 6, 7, 8, 9, 10):
        assert str(view[place]).startswith("[Request ID: "), arguments[place]


def test_what_would_break_a_client_is_the_functions_error(server: ServerThread) -> None:
    """Trap 34."""
    with sync(server) as socket:
        client = Client(socket)
        client.connect()
        client.watch(*(("m:returns", {"what": what}) for what in ("umlaut", "dollar", "surrogate", "deep")))
        view = client.first_view()
    assert all(str(view[place]).startswith("[Request ID: ") for place in range(4)), view
