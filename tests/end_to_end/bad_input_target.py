"""A server that is thrown everything at, what tests say to it, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from evolute.clock import SystemClock
from evolute.database.database import Database
from evolute.limits import MIB, Limits
from evolute.system.check import faults
from tests.end_to_end.misbehaving_functions import write_functions
from tests.end_to_end.server_process import ServerProcess

LIMITS = {
    "http_body_bytes_max": 3 * MIB,
    "message_bytes_max": 4 * MIB,
    "arguments_bytes_max": 1 * MIB,
    "result_bytes_max": 1 * MIB,
    "documents_read_max": 1000,
    "documents_written_max": 1500,
    "read_set_intervals_max": 2000,
    "query_user_ms_max": 1000,
    "mutation_user_ms_max": 1000,
    "system_ms_max": 2000,
    "kill_grace_ms": 200,
}
WAIT_S = 20.0
SESSION_ID = "f16a2aae-fe67-48a4-9eea-6efd82f2b3b9"
CONNECT = {"type": "Connect", "sessionId": SESSION_ID, "connectionCount": 0, "lastCloseReason": None, "clientTs": 0}


class Target:
    """The server under test, and what a test says to it."""

    def __init__(self, process: ServerProcess, admin_key: str) -> None:
        self.process = process
        self.admin_key = admin_key
        self.added = 0

    # --- HTTP ------------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def refused(self, body: bytes, path: str = "/api/query", **headers: str) -> str:
        """What a request that is answered with an HTTP error is told: status, code, message."""
        given = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        status, answer = self.request("POST", path, body, given)
        tree = json.loads(answer)
        assert set(tree) == {"code", "message"}, (status, tree)
        return f"{status} {tree['code']}: {tree['message']}"

    def call(self, kind: str, path: str, args: object, headers: Mapping[str, str] | None = None) -> Any:
        body = json.dumps({"path": path, "args": args, "format": "convex_encoded_json"}).encode()
        status, answer = self.request(
            "POST", f"/api/{kind}", body, {"Content-Type": "application/json", **(headers or {})}
        )
        assert status == 200, answer
        return json.loads(answer)

    def value(self, kind: str, path: str, **args: object) -> Any:
        answer = self.call(kind, path, args)
        assert answer["status"] == "success", answer
        return answer["value"]

    def error(self, kind: str, path: str, args: object = None) -> str:
        """What the developer of a function that fails is told."""
        answer = self.call(kind, path, {} if args is None else args)
        assert answer["status"] == "error", answer
        head, _, text = answer["errorMessage"].partition("\n")
        assert head.startswith("[Request ID: ")
        assert isinstance(text, str)
        return text

    # --- Websocket -------------------------------------------------------------------------------------------------

    def sync(self) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.process.port}/api/sync"
        return connect(url, max_size=None, ping_interval=None, compression=None, close_timeout=5)

    def told(self, *frames: str | bytes) -> tuple[list[Any], int | None, str]:
        """Everything that a client hears who sends these frames and waits for the end: messages, code and reason."""
        with self.sync() as client:
            for frame in frames:
                client.send(frame)
            heard = []
            try:
                while True:
                    heard.append(json.loads(client.recv(timeout=WAIT_S)))
            except ConnectionClosed as end:
                code, reason = (None, "") if end.rcvd is None else (end.rcvd.code, end.rcvd.reason)
                return heard, code, reason

    def answer(self, kind: str, path: str, args: object) -> Any:
        """The result of one query, mutation or action over a websocket, whose socket stays open."""
        with self.sync() as client:
            client.send(json.dumps(CONNECT | {"sessionId": new_session()}))
            if kind == "query":
                add = {"type": "Add", "queryId": 0, "udfPath": path, "args": args}
                client.send(json.dumps(modify(add)))
            else:
                client.send(json.dumps({"type": kind.capitalize(), "requestId": 0, "udfPath": path, "args": args}))
            while True:
                message = json.loads(client.recv(timeout=WAIT_S))
                if message["type"] == "Transition" and message["modifications"]:
                    return message["modifications"][0]
                if message["type"] in ("MutationResponse", "ActionResponse"):
                    return message

    # --- Still there -----------------------------------------------------------------------------------------------

    def assert_serves(self) -> None:
        assert self.process.process.poll() is None, self.process.output
        assert self.request("GET", "/version")[0] == 200
        before, self.added = self.added, self.value("mutation", "well:add")
        assert self.added == before + 1
        assert self.answer("query", "well:count", [{}])["value"] == self.added


def modify(*modifications: object, base: int = 0) -> dict[str, object]:
    return {
        "type": "ModifyQuerySet",
        "baseVersion": base,
        "newVersion": base + 1,
        "modifications": list(modifications),
    }


_sessions = itertools.count(1)


def new_session() -> str:
    return f"00000000-0000-4000-8000-{next(_sessions):012d}"


@contextmanager
def running_target(folder: Path) -> Iterator[Target]:
    """A server on a data folder of its own. In the end it must stop in good order, having met nothing unexpected."""
    environment = {f"EVOLUTE_{name.upper()}": str(value) for name, value in LIMITS.items()}
    with ServerProcess(write_functions(folder), folder / "data", environment=environment) as process:
        target = Target(process, (folder / "data" / "admin_key").read_text().strip())
        yield target
        assert target.value("query", "well:rows", table="never") == 0, "a mutation that failed has written"
        assert process.stop() == 0
        for unexpected in ("Unexpected error", "unexpected error", "never retrieved", "ERROR evolute", "ERROR asyncio"):
            assert unexpected not in process.output, process.output[-4000:]
    assert check(folder / "data") == []


def check(data: Path) -> list[str]:
    """What is wrong with the store, for which nobody has it open."""

    async def opened() -> list[str]:
        database = Database(data / "store", SystemClock(), Limits())
        try:
            return database.check(faults)
        finally:
            await database.close()

    return asyncio.run(opened())
