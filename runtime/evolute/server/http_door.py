"""The door of HTTP: how many requests are begun in one turn of the event loop, and when a call is turned away.

    request ──► BEGUN_PER_TURN a turn, first come first served ──► a call, and too many are under way ──► 503 Overloaded
                                                               └──► the application

A loop that takes in all who have come before it hears its workers again gives them a handful of calls every time, and
the more come, the less is done. So those who come together are begun over several turns. Refusing costs a tenth of a
call and is done here, before there is a task; otherwise a server that is overloaded would do little else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any

import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from evolute.errors import Overloaded
from evolute.limits import Limits
from evolute.server.http_error import RETRY_AFTER_S
from evolute.server.http_protocol import HttpProtocol

BEGUN_PER_TURN = 32

_CALLS = frozenset(f"/api/{name}" for name in ("query", "mutation", "action", "function", "query_at_ts", "query_batch"))
_CALLS_BY_ADDRESS = "/api/run/"


class Door:
    """Shared by all connections of one server, on its event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._calls = 0
        self._bytes = 0
        self._left_in_turn = BEGUN_PER_TURN
        self._is_turning = False
        self._waiting: deque[tuple[GuardedProtocol, RequestResponseCycle, ASGI3Application]] = deque()

    def enter(self, protocol: GuardedProtocol, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begins the request, in this turn or in one of the next."""
        if not self._is_turning:
            self._is_turning = True
            protocol.loop.call_soon(self._turn, protocol.loop)
        if self._left_in_turn:
            self._left_in_turn -= 1
            self._begin(protocol, cycle, app)
        else:
            self._waiting.append((protocol, cycle, app))

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_turning = bool(self._waiting)
        if self._is_turning:
            loop.call_soon(self._turn, loop)
        self._left_in_turn = max(BEGUN_PER_TURN - len(self._waiting), 0)
        for _ in range(min(BEGUN_PER_TURN, len(self._waiting))):
            self._begin(*self._waiting.popleft())

    def _begin(self, protocol: GuardedProtocol, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.disconnected:
            return
        if not _is_call(cycle.scope["path"]):
            protocol.begin(cycle, app)
            return
        length, limits = self._length(cycle.scope["headers"]), self._limits
        if self._calls >= limits.http_calls_max:
            protocol.refuse(cycle, f"{self._calls} calls over HTTP are under way; the setting is http_calls_max")
        elif self._bytes + length > limits.http_calls_bytes_max and self._calls:
            text = f"Calls over HTTP of {self._bytes} bytes are under way, and {length} more would be too many"
            protocol.refuse(cycle, f"{text}; the setting is http_calls_bytes_max")
        else:
            self._calls += 1
            self._bytes += length
            protocol.begin(cycle, app).add_done_callback(partial(self._on_ended, length))

    def _on_ended(self, length: int, task: asyncio.Task[None]) -> None:
        self._calls -= 1
        self._bytes -= length

    def _length(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        """Of the body: what it says of itself, or as much as it may be. The application reads no more."""
        bytes_max = self._limits.http_body_bytes_max
        for name, value in headers:
            if name == b"content-length" and value.isdigit() and len(value) < 16:
                return min(int(value), bytes_max)
            if name == b"transfer-encoding":
                return bytes_max
        return 0


def _is_call(path: str) -> bool:
    return path in _CALLS or path.startswith(_CALLS_BY_ADDRESS)


class GuardedProtocol(HttpProtocol):
    """With a door. Use what `guarded_protocol` gives."""

    def __init__(self, *arguments: Any, door: Door, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._door = door

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._door.enter(self, cycle, app)

    def begin(self, cycle: RequestResponseCycle, app: ASGI3Application) -> asyncio.Task[None]:
        """As uvicorn does."""
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        return task

    def refuse(self, cycle: RequestResponseCycle, why: str) -> None:
        """Answers as the application answers Overloaded. What is left of the body is taken and dropped."""
        body = orjson.dumps({"code": Overloaded.code, "message": why})
        lines = [
            b"HTTP/1.1 503 Service Unavailable",
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"retry-after: " + RETRY_AFTER_S.encode(),
        ]
        origin = next((value for name, value in cycle.scope["headers"] if name == b"origin"), None)
        if origin is not None:  # as Cors does: else a browser's page could not read it
            lines += [b"access-control-allow-origin: " + origin, b"access-control-allow-credentials: true"]
            lines.append(b"vary: Origin")
        # Who waits for a 100 may or may not send the body now: nobody knows where the next request begins.
        stays = cycle.keep_alive and not cycle.waiting_for_100_continue
        if not stays:
            lines.append(b"connection: close")
        is_head = cycle.scope["method"] == "HEAD"
        self.transport.write(b"\r\n".join((*lines, b"", b"" if is_head else body)))
        cycle.response_started = cycle.response_complete = True
        cycle.body.clear()
        if not stays:
            self.transport.close()
        self.on_response_complete()


def guarded_protocol(limits: Limits) -> Any:
    """What makes the protocols of a server with these limits; uvicorn calls it for every connection."""
    return partial(GuardedProtocol, door=Door(limits))
