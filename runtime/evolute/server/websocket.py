"""The sync endpoint, and the one thing that the ASGI server's own websocket protocol lacks: limits that clients need.

A message may be large, a frame may not: PyPI's client gives up on frames of 16 MiB, so long messages leave as several
frames. A peer that takes nothing must not hold a socket for ever, so a close that cannot be sent cuts the connection.
What waits together, such as a response and the Transition behind it, leaves in one write, which costs more than both.

npm's client gives up on a connection on which no whole message has come for a minute, so a long Transition goes to it
as several messages, and to no other client, because no other one knows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable

from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode
from websockets.http11 import Request

from evolute.limits import Limits
from evolute.protocol.pieces import chunks_of, fragments_of, is_transition
from evolute.sync.connection import Connection, Host, SocketGone

NO_CODE = 1005
"""Stands in ASGI for a close frame without a code; it is never sent."""

_MORE = "evolute.more"
_SEND_NOW = "evolute.send_now"
_UNWRITTEN_BYTES_MAX = 64 * 1024
_SHORT_BYTES_MAX = 32 * 1024

_NPM_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.")
_FIRST_WITH_CHUNKS = (1, 28)


SendNow = Callable[[bytes, bool], bool]
"""Sends a text, unless it is long, must wait or cannot be sent; whether it did. The flag is that of `Socket.send`."""


class SyncEndpoint:
    """An ASGI application for websockets: one Connection each."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._connections: set[Connection] = set()
        self._finishing = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def finish(self, timeout_ms: int) -> None:
        """Every connection answers and shows what runs, and closes, so that its client connects to the next server.

        Returns when all are closed, or after `timeout_ms`.
        """
        self._finishing = True
        for connection in list(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._empty.wait()

    def key_revoked(self, name: str) -> None:
        """The sessions of that admin key end."""
        for connection in list(self._connections):
            connection.key_revoked(name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opening = await receive()
        if opening["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        chunk_bytes = self._host.limits.transition_chunk_bytes if _takes_chunks(scope) else None
        send_now = scope.get("extensions", {}).get(_SEND_NOW)
        connection = Connection(self._host, AsgiSocket(receive, send, chunk_bytes, send_now))
        self._connections.add(connection)
        self._empty.clear()
        try:
            if self._finishing:
                connection.finish()
            await connection.run()
        finally:
            self._connections.remove(connection)
            if not self._connections:
                self._empty.set()


def _takes_chunks(scope: Scope) -> bool:
    """Whether it is npm's client, which has its version in the address, and new enough. Others are dialled without."""
    found = _NPM_VERSION.match(scope["path_params"].get("version", ""))
    return found is not None and tuple(map(int, found.groups())) >= _FIRST_WITH_CHUNKS


class AsgiSocket:
    """A `sync.connection.Socket` over an accepted ASGI websocket. Transitions longer than `chunk_bytes` go in parts.

    `send_now` is `SyncProtocol`'s, which spares what it can send the way through the application's layers.
    """

    def __init__(
        self, receive: Receive, send: Send, chunk_bytes: int | None = None, send_now: SendNow | None = None
    ) -> None:
        self._receive = receive
        self._send = send
        self._chunk_bytes = chunk_bytes
        self._send_now = send_now
        self._is_closed = False

    async def receive(self) -> str | bytes | None:
        if self._is_closed:
            return None
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._is_closed = True
            return None
        text: str | None = message.get("text")
        binary: bytes = message.get("bytes") or b""
        return text if text is not None else binary

    async def send(self, message: bytes, *, more: bool = False) -> None:
        if self._chunk_bytes is not None and len(message) > self._chunk_bytes and is_transition(message):
            for chunk in chunks_of(message, self._chunk_bytes):
                await self._send_text(chunk)
        elif self._is_closed or self._send_now is None or not self._send_now(message, more):
            await self._send_text(message, more=more)

    async def _send_text(self, message: bytes, *, more: bool = False) -> None:
        if self._is_closed:
            raise SocketGone
        try:
            await self._send({"type": "websocket.send", "text": message.decode(), _MORE: more})
        except OSError as error:
            self._is_closed = True
            raise SocketGone from error

    async def close(self, code: int | None, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._send({"type": "websocket.close", "code": NO_CODE if code is None else code, "reason": reason})
        except OSError as error:
            raise SocketGone from error


class SyncProtocol(WebSocketsSansIOProtocol):
    """uvicorn's websocket protocol with fragmented sends, and an end to waiting for peers that have stopped reading.

    Use a subclass that `sync_protocol` made.
    """

    fragment_bytes: int
    close_s: float
    _heard_at = 0.0
    _unwritten_bytes = 0

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.handshake_complete:  # it was not refused
            self.scope["extensions"] = {**self.scope["extensions"], _SEND_NOW: self._send_now}

    def _send_now(self, data: bytes, more: bool) -> bool:
        """So little that the transport takes it without asking to wait. That asks above 64 KiB of its own."""
        is_open = self.handshake_complete and not self.close_sent and not self.disconnected
        is_short = self._unwritten_bytes + len(data) <= min(_SHORT_BYTES_MAX, self.fragment_bytes)
        if not is_open or not is_short or self.transport.get_write_buffer_size() > 0:
            return False
        try:
            self.conn.send_text(data)
        except InvalidState:
            return False
        self._unwritten_bytes += len(data)
        if not more or self._unwritten_bytes > _UNWRITTEN_BYTES_MAX:
            self._write()
        return True

    async def send(self, message: ASGISendEvent) -> None:
        """Returns when the transport can take more. Raises ClientDisconnected."""
        if self.close_sent and self.handshake_complete:  # by this protocol, for what the peer has sent
            if message["type"] == "websocket.close":
                return
            raise ClientDisconnected
        is_open = self.handshake_complete and self.initial_response is None
        if is_open and message["type"] == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason") or "")
            return
        text = message.get("text") if message["type"] == "websocket.send" else None
        if not is_open or not isinstance(text, str):
            await super().send(message)
        else:
            await self._send_text(text.encode(), more=bool(message.get(_MORE)))
        if not self.writable.is_set():
            await self.writable.wait()

    async def _send_text(self, data: bytes, *, more: bool) -> None:
        is_first = True
        is_short = len(data) <= self.fragment_bytes
        for fragment, is_last in ((data, True),) if is_short else fragments_of(data, self.fragment_bytes):
            if not self.writable.is_set():
                await self.writable.wait()
            if self.disconnected:
                raise ClientDisconnected
            try:
                if is_first:
                    self.conn.send_text(fragment, fin=is_last)
                else:
                    self.conn.send_continuation(fragment, fin=is_last)
            except InvalidState as error:
                raise ClientDisconnected from error
            self._unwritten_bytes += len(fragment)
            if not more or self._unwritten_bytes > _UNWRITTEN_BYTES_MAX:
                self._write()
            is_first = False

    def _write(self) -> None:
        self._unwritten_bytes = 0
        if not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))

    def _close(self, code: int, reason: str) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.close_sent = True
        if not self.writable.is_set() or self.conn.expect_continuation_frame:
            self.transport.abort()
            return
        if self.transport.is_closing():
            return
        try:
            self.conn.send_close(None if code == NO_CODE else code, "" if code == NO_CODE else reason)
        except InvalidState:
            return
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_s, self.transport.abort)

    def send_receive_event_to_app(self) -> None:
        """Text that is not UTF-8 is the peer's mistake, and not worth a traceback in the log."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(CloseCode.INVALID_DATA)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)

    def handle_parser_exception(self) -> None:
        """The peer broke the protocol, perhaps in the middle of a long message.

        The rest of that is taken and dropped: closing with bytes unread would cut off the frame that says why.
        """
        assert self.conn.close_sent is not None
        if self.close_sent:
            return
        code, reason = self.conn.close_sent.code, self.conn.close_sent.reason
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.close_sent = True
        self._write()
        self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.close_s, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """The pong is late. A peer that is in the middle of a long message is alive all the same."""
        assert self.ping_timeout is not None
        silent_s = self.loop.time() - self._heard_at
        if silent_s < self.ping_timeout:
            self.pong_timer = self.loop.call_later(self.ping_timeout - silent_s, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.transport.abort()


def sync_protocol(limits: Limits) -> type[SyncProtocol]:
    """The protocol class for a server with these limits; uvicorn makes the instances."""
    settings = {"fragment_bytes": limits.frame_fragment_bytes, "close_s": limits.close_ms_max / 1000}
    return type("SyncProtocol", (SyncProtocol,), settings)
