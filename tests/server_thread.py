"""The real server, backend and workers, on a thread of the test's process."""

from __future__ import annotations

import asyncio
import http.client
import socket
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from starlette.applications import Starlette

from evolute.backend import Backend
from evolute.clock import NS_PER_S, SystemClock
from evolute.config import Config
from evolute.limits import Limits
from evolute.server.app import build_server, create_app
from evolute.server.auth import read_or_create_admin_key

START_S_MAX = 30


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class ShiftedClock(SystemClock):
    """The machine's clock, which a test may put forward."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def now_ns(self) -> int:
        return super().now_ns() + int(self.shift_s * NS_PER_S)


class ServerThread:
    """Serves `sources` (file name to text) while the `with` block runs."""

    app: Starlette
    backend: Backend

    def __init__(self, sources: Mapping[str, str], limits: Limits | None = None, *, redact: bool = False) -> None:
        self.clock = ShiftedClock()
        self._folder = tempfile.TemporaryDirectory(prefix="evolute-test-")
        functions = Path(self._folder.name) / "functions"
        functions.mkdir()
        for name, text in sources.items():
            (functions / name).parent.mkdir(exist_ok=True)
            (functions / name).write_text(text)
        self.config = Config(
            functions,
            Path(self._folder.name) / "data",
            workers=1,
            limits=limits or Limits(),
            redact_errors=redact,
        )
        self.admin_key = ""
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="server")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One HTTP request. A body that is bytes is sent as it is, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S_MAX)
        try:
            data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
            given = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, data, {**given, **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            connection.close()

    def save(self, name: str, text: str) -> None:
        """Writes a file of the functions folder, and returns when it is served. Raises DefinitionError."""
        (self.config.functions_folder / name).write_text(text)
        deploying = self.backend.deployer.deploy(self.config.functions_folder)
        asyncio.run_coroutine_threadsafe(deploying, self._loop).result(START_S_MAX)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(START_S_MAX), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._folder.cleanup()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        backend = self.backend = Backend(self.config, self.clock)
        fault = await backend.start()
        assert fault is None, fault
        try:
            self.admin_key = read_or_create_admin_key(backend.data_folder.admin_key_path)
            self.app = create_app(backend, self.admin_key)
            server = build_server(self.app, self.config)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                self.port = listener.getsockname()[1]
                serving = self._loop.create_task(server.serve(sockets=[listener]))
                self._ready.set()
                await self._stopping.wait()
                server.should_exit = True
                await serving
        finally:
            await backend.stop()
