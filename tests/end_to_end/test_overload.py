"""More than the server can run: what waits is bounded, what is refused had no effect, and then all is as before.

One worker stands at a gate, so nothing of what arrives is run before the test wants it; so it is known what waits.
"""

from __future__ import annotations

import http.client
import os
import re
import selectors
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from tests.benchmarks.measures import private_mib
from tests.benchmarks.sync_socket import SyncSocket
from tests.benchmarks.web_socket import Closed
from tests.end_to_end.app_under_test import APP, Gates, write_functions
from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess

TIMEOUT_S = 60.0
QUEUE = 20
WAITING = QUEUE + 1
"""One more is with the worker already, behind the one at the gate."""
SESSION_MUTATIONS = 200
BEGUN_MIB = 8
MIB = 1024 * 1024
NOT_SENT = MIB // 16
QUIET_S = 0.5
GROWTH_MIB_MAX = 60
"""Of the server. What is sent to it in vain is 160 MiB."""
BOUNDS = {
    "requests_per_worker_max": 2,
    "call_queue_length_max": QUEUE,
    "http_calls_max": 50,
    "http_calls_bytes_max": 8 * MIB,
    "session_mutations_max": SESSION_MUTATIONS,
    "session_calls_bytes_max": 2 * MIB,
    "messages_begun_bytes_max": BEGUN_MIB * MIB,
}
NOTES = """
from evolute import MutationCtx, QueryCtx, mutation, query
from functions.schema import Message

@mutation
def once(ctx: MutationCtx, key: str, padding: str = "") -> int:
    # Every call inserts, so one that ran twice is seen.
    ctx.db.insert(Message, {"body": key})
    return len(padding)
"""


class Overloaded:
    """A server with one worker, which stands at a gate."""

    def __init__(self, server: ServerProcess, gates: Gates) -> None:
        self.server = server
        self._gates = gates
        self._admin_key = (server.data / "admin_key").read_text().strip()
        self._at_the_gate: SyncSocket | None = None

    def close_gate(self) -> None:
        """From here on nothing is run. There are no messages."""
        with RawSession(self.server.url) as session:
            assert session.mutate("messages:clear")["success"]
        self._gates.close(0)
        self._at_the_gate = SyncSocket(self.server.port)
        self._at_the_gate.mutate("gated:mutate", {"gate": 0})
        self._gates.wait_reached(0)

    def open_gate(self) -> None:
        assert self._at_the_gate is not None
        self._gates.open(0)
        self._at_the_gate.wait_response(0)
        self._at_the_gate.close()

    def metric(self, name: str) -> float:
        reply = self.get("/metrics", {"Authorization": f"Convex {self._admin_key}"})
        found = re.search(rf"^evolute_{name} (\S+)$", reply.decode(), re.MULTILINE)
        assert found is not None, name
        return float(found.group(1))

    def get(self, path: str, headers: dict[str, str]) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().read()
        finally:
            connection.close()

    def effects(self) -> list[str]:
        """The keys of all calls that had an effect, one for each effect."""
        with RawSession(self.server.url) as session:
            rows: list[str] = session.result(session.add("messages:list"))["value"]
            return sorted(rows)

    def assert_serves(self) -> None:
        """As if nothing had been."""
        with RawSession(self.server.url) as session:
            assert session.mutate("messages:clear")["success"]
            assert session.mutate("notes:once", key="after")["success"]
        status, answer = Post(self.server.port, key="after too").answer()
        assert (status, answer["status"]) == (200, "success")
        assert self.effects() == ["after", "after too"]
        assert self.metric("worker_requests_queued") == 0
        assert self.metric("calls_running") == 0


class Post:
    """A mutation over HTTP, sent and not waited for."""

    def __init__(self, port: int, **arguments: object) -> None:
        body = orjson.dumps({"path": "notes:once", "args": arguments})
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json", "Origin": "http://page"}
        self._connection.request("POST", "/api/mutation", body, headers)

    def fileno(self) -> int:
        return self._connection.sock.fileno()

    def answer(self) -> tuple[int, Any]:
        response = self._connection.getresponse()
        assert response.headers["Access-Control-Allow-Origin"] == "http://page", "a page could not read it"
        assert response.headers["Retry-After"] == ("1" if response.status == 503 else None)
        answer = orjson.loads(response.read())
        self._connection.close()
        return response.status, answer


@contextmanager
def overloaded(tmp_path: Path) -> Iterator[Overloaded]:
    gates = Gates(tmp_path)
    functions = write_functions(tmp_path / "functions", {**APP, "notes.py": NOTES})
    environment = {**gates.environment, **{f"EVOLUTE_{name.upper()}": str(bound) for name, bound in BOUNDS.items()}}
    with ServerProcess(functions, tmp_path / "data", workers=1, environment=environment) as server:
        yield Overloaded(server, gates)
        assert server.stop() == 0


def first_ready(waiting: Mapping[str, Any], count: int) -> list[str]:
    """The names of the first `count` of these that have something to read."""
    ready: list[str] = []
    with selectors.DefaultSelector() as selector:
        for name, one in waiting.items():
            selector.register(one, selectors.EVENT_READ, name)
        while len(ready) < count:
            found = selector.select(TIMEOUT_S)
            assert found, f"{len(ready)} of {count} were told anything"
            for key, _ in found:
                selector.unregister(key.fileobj)
                ready.append(key.data)
    return ready


def test_of_a_flood_a_bounded_part_waits_and_the_rest_has_no_effect(tmp_path: Path) -> None:
    with overloaded(tmp_path) as it:
        flood_over_http(it, "", 200, WAITING)  # fifty are let in, of which the queue takes what it may
        it.assert_serves()
        flood_over_http(it, "x" * MIB, 40, 7)  # so many of a MiB, and what is around it, are not more than eight
        it.assert_serves()
        flood_of_sessions(it, 100)
        it.assert_serves()
        flood_of_one_session(it, 500)
        it.assert_serves()


def flood_over_http(it: Overloaded, padding: str, count: int, waiting: int) -> None:
    it.close_gate()
    posts = {f"{number}": Post(it.server.port, key=f"{number}", padding=padding) for number in range(count)}
    refused = first_ready(posts, count - waiting)
    for key in refused:
        status, answer = posts[key].answer()
        assert (status, answer["code"]) == (503, "Overloaded"), answer
        assert re.search("call_queue_length_max|http_calls_max|http_calls_bytes_max", answer["message"])
    assert it.metric("worker_requests_queued") == waiting - 1
    it.open_gate()
    accepted = {key: post.answer() for key, post in posts.items() if key not in refused}
    assert {(status, answer["status"]) for status, answer in accepted.values()} == {(200, "success")}
    assert it.effects() == sorted(accepted)


def flood_of_sessions(it: Overloaded, count: int) -> None:
    """Each has one mutation. Who is refused connects again and sends it again, and everything has happened once."""
    it.close_gate()
    names = [str(uuid4()) for _ in range(count)]
    sessions = {name: SyncSocket(it.server.port, session=name) for name in names}
    for name, session in sessions.items():
        session.mutate("notes:once", {"key": name})
    refused = first_ready(sessions, count - WAITING)
    for name in refused:
        with pytest.raises(Closed, match="1013 Overloaded"):
            sessions[name].receive()
    assert it.metric("worker_requests_queued") == QUEUE
    it.open_gate()
    accepted = set(names) - set(refused)
    for name in accepted:
        sessions[name].wait_response(0)
    assert it.effects() == sorted(accepted)
    for name, session in sessions.items():
        session.close()
        again = SyncSocket(it.server.port, session=name)
        again.wait_response(again.mutate("notes:once", {"key": name}))
        again.close()
    assert it.effects() == sorted(names)


def flood_of_one_session(it: Overloaded, count: int) -> None:
    """It sends all at once, is cut off, and sends them again as a client of ours does: no more than half at a time."""
    it.close_gate()
    name, keys = str(uuid4()), [f"{number:04}" for number in range(count)]
    session = SyncSocket(it.server.port, session=name)
    for key in keys:
        session.mutate("notes:once", {"key": key})
    with pytest.raises(Closed, match="1013 TooManyConcurrentMutations"):
        session.receive()
    session.close()
    it.open_gate()
    assert set(it.effects()) <= {keys[0]}, "what had not begun never will"
    again = SyncSocket(it.server.port, session=name)
    for first in range(0, count, SESSION_MUTATIONS // 2):
        sent = [again.mutate("notes:once", {"key": key}) for key in keys[first : first + SESSION_MUTATIONS // 2]]
        again.wait_response(sent[-1])
    again.close()
    assert it.effects() == keys


def test_what_waits_takes_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    with overloaded(tmp_path) as it:
        before_mib = private_mib(it.server.process.pid)
        large_calls_of_one_session(it, 100)
        messages_without_ends(it, 60)
        assert private_mib(it.server.process.pid) - before_mib < GROWTH_MIB_MAX
        it.assert_serves()


def large_calls_of_one_session(it: Overloaded, count: int) -> None:
    """What the server does not take waits with the client; nothing is refused, and all happens in its order."""
    it.close_gate()
    keys = [f"{number:04}" for number in range(count)]
    calls = b"".join(frame_of(mutation(number, key, MIB)) for number, key in enumerate(keys))
    session = SyncSocket(it.server.port)
    with socket.socket(fileno=os.dup(session.fileno())) as raw:
        left = send_what_is_taken(raw, memoryview(calls))
        assert len(left) > len(calls) / 3, "the rest is what the buffers of two sockets may be"
        it.open_gate()
        raw.setblocking(True)
        raw.sendall(left)
    session.wait_response(count - 1)
    session.close()
    assert it.effects() == keys


def send_what_is_taken(raw: socket.socket, data: memoryview) -> memoryview:
    """Returns the rest, once nothing has been taken for a while."""
    raw.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(raw, selectors.EVENT_WRITE)
        while data and selector.select(QUIET_S):
            data = data[raw.send(data[: 1 << 18]) :]
    return data


def messages_without_ends(it: Overloaded, count: int) -> None:
    """Each nearly all of a MiB. Whose is too much is cut off, and the others come to their ends."""
    sessions = {f"{number:04}": SyncSocket(it.server.port) for number in range(count)}
    frames = {key: frame_of(mutation(0, key, MIB)) for key in sessions}
    it.close_gate()
    for key, session in sessions.items():
        with socket.socket(fileno=os.dup(session.fileno())) as raw:
            raw.sendall(frames[key][:-NOT_SENT])
    refused = first_ready(sessions, count - BEGUN_MIB)
    for key in refused:
        with pytest.raises(Closed, match="1013 Overloaded"):
            sessions[key].receive()
    it.open_gate()
    accepted = sorted(sessions.keys() - set(refused))
    for key in accepted:
        with socket.socket(fileno=os.dup(sessions[key].fileno())) as raw:
            raw.sendall(frames[key][-NOT_SENT:])
        sessions[key].wait_response(0)
    assert it.effects() == accepted
    for session in sessions.values():
        session.close()


def mutation(request_id: int, key: str, padding: int) -> bytes:
    arguments = {"key": key, "padding": "x" * padding}
    return orjson.dumps({"type": "Mutation", "requestId": request_id, "udfPath": "notes:once", "args": [arguments]})


def frame_of(text: bytes) -> bytes:
    """A masked frame, the mask of which is zero."""
    assert len(text) >= 1 << 16
    return b"\x81\xff" + len(text).to_bytes(8, "big") + bytes(4) + text
