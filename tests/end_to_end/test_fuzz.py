"""Messages, frames, bodies and requests that are hardly right, made from committed ones by a seed.

Whatever comes, the server says what was wrong, closes that one connection at most, and goes on; it keeps no memory of
it, and the store is sound. `--fuzz-seconds N` makes it longer, `--seed N` another one; a failure shows what was sent.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from evolute.protocol.codec import decode_server
from tests.benchmarks.measures import private_mib
from tests.end_to_end.mutator import Mutator
from tests.end_to_end.raw_session import RawSession, post
from tests.end_to_end.server_process import ServerProcess

FOLDER = Path(__file__).parents[1]
PATIENCE_S = 20.0
GROWTH_MIB_MAX = 64.0
FUNCTIONS = {
    "m.py": """
from typing import Any
from evolute import MutationCtx, QueryCtx, internal_query, mutation

@mutation
def f(ctx: MutationCtx, /, **rest: Any) -> Any:
    ctx.db.insert("seen", {"rest": rest})
    return rest

@internal_query
def hidden(ctx: QueryCtx) -> None:
    pass
""",
    "messages.py": """
from typing import Any
from evolute import QueryCtx, query

@query
def list(ctx: QueryCtx, channel: str) -> int:
    return len(ctx.db.query("seen").take(10))
""",
    "gif.py": """
from evolute import ActionCtx, action

@action
async def send(ctx: ActionCtx) -> None:
    pass
""",
    "a/b.py": """
from evolute import QueryCtx, query

@query
def c(ctx: QueryCtx) -> str:
    return "c"
""",
}


@contextmanager
def unharmed(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that must still be all right in the end."""
    functions, data = tmp_path / "functions", tmp_path / "data"
    for name, text in FUNCTIONS.items():
        (functions / name).parent.mkdir(parents=True, exist_ok=True)
        (functions / name).write_text(text)
    with ServerProcess(functions, data, command="serve", options=["--full-errors"]) as server:
        with RawSession(server.url) as client:
            client.mutate("m:f", x=1)
        workers, before_mib = server.children(), private_mib(server.process.pid)
        yield server
        with RawSession(server.url) as client:
            assert client.mutate("m:f", x=1)["result"] == {"x": 1}
        assert post(server.url, "/api/query", {"path": "a/b:c", "args": {}})[1]["value"] == "c"
        assert server.children() == workers, "a worker has died of it"
        assert private_mib(server.process.pid) - before_mib < GROWTH_MIB_MAX
        assert "Unexpected error" not in server.output, server.output
        assert server.stop() == 0
    check = [sys.executable, "-m", "evolute", "check", "--data", str(data)]
    assert subprocess.run(check, capture_output=True, text=True).returncode == 0


@pytest.fixture
def fuzz_s(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("--fuzz-seconds")) / 2


@pytest.fixture
def fuzz_seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--seed") or 1)


# --- The websocket -------------------------------------------------------------------------------------------------


def messages() -> list[bytes]:
    vectors = json.loads((FOLDER / "wire_vectors.json").read_text())
    right = [json.dumps(text).encode() for one in vectors["client"] for text in (one["text"], *one.get("also", ()))]
    wrong = [one["text"].encode() for one in vectors["refused_by_servers"]]
    return [*right, *wrong, *(json.dumps(one["text"]).encode() for one in vectors["faults"])]


def test_messages_that_are_hardly_right(tmp_path: Path, fuzz_s: float, fuzz_seed: int) -> None:
    mutator = Mutator(fuzz_seed, messages())
    with unharmed(tmp_path) as server:
        deadline_s = time.monotonic() + fuzz_s
        while time.monotonic() < deadline_s:
            sent = [
                mutator.any() if mutator.random.random() < 0.3 else mutator.changed(mutator.any()) for _ in range(5)
            ]
            opening = {"type": "Connect", "sessionId": str(uuid.uuid4()), "connectionCount": 0}
            try:
                converse(server, [json.dumps(opening).encode(), *sent])
            except Exception as error:
                raise AssertionError(f"after {sent}") from error


def converse(server: ServerProcess, sent: list[bytes]) -> None:
    """Says all of it, and hears an answer to what is said then, or a close that is not the server's fault."""
    last = {"type": "Mutation", "requestId": 4_000_000_000, "udfPath": "m:f", "args": [{}]}
    address = "ws" + server.url.removeprefix("http") + "/api/sync"
    with connect(address, max_size=None, compression=None, close_timeout=PATIENCE_S) as client:
        try:
            for message in (*sent, json.dumps(last).encode()):
                client.send(message, text=True)
            while not is_answer(json.loads(heard := client.recv(timeout=PATIENCE_S))):
                decode_server(heard)
        except ConnectionClosed as end:
            close = end.rcvd
            assert close is not None, "the connection was cut"
            assert close.code in (1000, 1005, 1007) or close.reason == "ClientAheadOfServer", close


def is_answer(message: Any) -> bool:
    return bool(message["type"] == "MutationResponse" and message["requestId"] == 4_000_000_000)


def test_frames_that_are_hardly_right(tmp_path: Path, fuzz_s: float, fuzz_seed: int) -> None:
    texts = [Frame(Opcode.TEXT, message).serialize(mask=True) for message in messages()]
    others = [Frame(opcode, b"\x03\xe8x").serialize(mask=True) for opcode in (Opcode.CLOSE, Opcode.PING, Opcode.BINARY)]
    mutator = Mutator(fuzz_seed, [*texts, *others])
    with unharmed(tmp_path) as server:
        deadline_s, recent = time.monotonic() + fuzz_s, deque[bytes](maxlen=20)
        while time.monotonic() < deadline_s:
            recent.append(mutator.changed(mutator.any() + mutator.any()))
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as peer:
                peer.sendall(UPGRADE)
                assert peer.recv(1000).startswith(b"HTTP/1.1 101 "), recent
                peer.sendall(recent[-1])
                drain(peer)
            assert server.process.poll() is None, recent


UPGRADE = (
    b"GET /api/sync HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def drain(peer: socket.socket) -> bytes:
    """All that comes back once nothing more is said. Half a message is waited for no longer than its sender lives."""
    answer = b""
    try:
        peer.shutdown(socket.SHUT_WR)
        while data := peer.recv(64 * 1024):
            answer += data
    except ConnectionError:
        pass  # it was told already, or would not hear
    return answer


# --- HTTP ----------------------------------------------------------------------------------------------------------


def test_requests_that_are_hardly_right(tmp_path: Path, fuzz_s: float, fuzz_seed: int) -> None:
    corpus = json.loads((FOLDER / "http_corpus.json").read_text())
    bodies = [json.dumps(body).encode() for _, _, body in corpus]
    mutator = Mutator(fuzz_seed, bodies)
    with unharmed(tmp_path) as server:
        deadline_s = time.monotonic() + fuzz_s
        while time.monotonic() < deadline_s:
            method, path, body = mutator.random.choice(corpus)
            changed = b"" if body is None else mutator.changed(json.dumps(body).encode())
            request = request_of(method, path, changed)
            is_whole = mutator.random.random() < 0.7
            request = request if is_whole else mutator.changed(request)
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as peer:
                peer.sendall(request)
                answer = drain_http(peer) if is_whole else drain(peer)
            assert not answer.startswith(b"HTTP/1.1 500"), request
            if is_whole:
                check_answer(path, answer, request)


def request_of(method: str, path: str, body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def drain_http(peer: socket.socket) -> bytes:
    answer = b""
    while data := peer.recv(64 * 1024):
        answer += data
    return answer


def check_answer(path: str, answer: bytes, request: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    if path == "/echo" and status == 200:
        return
    tree = json.loads(body) if body else {}
    if status == 200:
        assert tree.keys() & {"status", "results", "ts", "openapi", "jobs"} or not body, request
    else:
        assert set(tree) == {"code", "message"}, request
