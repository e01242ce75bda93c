"""uvicorn's HTTP protocol, whose answers leave in one write.

It writes the head of an answer and then the body, each of which would be a call of the system and a packet of its own,
and wake the client up twice. What is written in one turn of the event loop is joined here, and leaves in the next.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedWrites(asyncio.Transport):
    """A transport for a protocol that writes little by little. Closing it sends what was written before."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.whole = transport
        self._loop = loop
        self._written: list[bytes] = []

    def write(self, data: Any) -> None:
        if not self._written:
            self._loop.call_soon(self._flush)
        self._written.append(data)

    def close(self) -> None:
        self._flush()
        self.whole.close()

    def is_closing(self) -> bool:
        return self.whole.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.whole.get_extra_info(name, default)

    def _flush(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self.whole.write(b"".join(written))


class HttpProtocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.transport = JoinedWrites(transport, self.loop)

    def handle_websocket_upgrade(self) -> None:
        assert isinstance(self.transport, JoinedWrites)
        self.transport = self.transport.whole  # it belongs to another protocol now
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]  # as uvicorn does at the end: it holds this protocol
