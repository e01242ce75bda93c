"""The sync endpoint, and what the ASGI server's own websocket protocol lacks: limits that clients need, a short way.

A message may be large, a frame may not: PyPI's client gives up on frames of 16 MiB, so long messages leave as several
frames. A peer that takes nothing must not hold a socket for ever, so a close that cannot be sent cuts the connection.
Most messages come and go as one short frame, round the library's state machine (`frames`), which is left where it is
between two messages. What waits together, such as a response and the Transition behind it, leaves in one write, which
costs more than both.

npm's client gives up on a connection on which no whole message has come for a minute, so a long Transition goes to it
as several messages, and to no other client, because no other one knows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.typing import BytesLike

from evolute.errors import Overloaded
from evolute.limits import Limits
from evolute.protocol.pieces import chunks_of, fragments_of, is_transition
from evolute.server.frames import text_frame, whole_text
from evolute.sync.connection import Connection
from evolute.sync.host import Host
from evolute.sync.socket import SocketGone

NO_CODE = 1005
"""Stands in ASGI for a close frame without a code; it is never sent."""

OnMessage: TypeAlias = Callable[[str | bytes | None], None]

_PROTOCOL = "evolute.protocol"
_WRITE_BYTES_MAX = 64 * 1024

_NPM_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.")
_FIRST_WITH_CHUNKS = (1, 28)


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
        connection = Connection(self._host, ProtocolSocket(scope["extensions"][_PROTOCOL], chunk_bytes))
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


class ProtocolSocket:
    """A `sync.connection.Socket` over a websocket that was accepted. Transitions longer than `chunk_bytes` go in parts.

    It goes round ASGI, which needs a task and a queue for every message and cannot say that another follows.
    """

    def __init__(self, protocol: SyncProtocol, chunk_bytes: int | None = None) -> None:
        self._protocol = protocol
        self._chunk_bytes = chunk_bytes
        protocol.short_bytes = min(protocol.fragment_bytes, chunk_bytes or protocol.fragment_bytes)
        self.listen = protocol.listen
        self.send_now = protocol.send_now
        self.pause = protocol.pause
        self.resume = protocol.resume
        self.close = protocol.end

    async def send(self, message: bytes) -> None:
        if self._chunk_bytes is not None and len(message) > self._chunk_bytes and is_transition(message):
            for chunk in chunks_of(message, self._chunk_bytes):
                await self._protocol.send_text(chunk)
        else:
            await self._protocol.send_text(message)


class _Inbox(asyncio.Queue[ASGIReceiveEvent]):
    """What has arrived and was not taken at once."""

    def __init__(self, hand_over: Callable[[ASGIReceiveEvent], bool]) -> None:
        super().__init__()
        self._hand_over = hand_over

    def put_nowait(self, item: ASGIReceiveEvent) -> None:
        if not self._hand_over(item):
            super().put_nowait(item)

    def forget(self) -> None:
        """From now on everything is kept."""
        self._hand_over = lambda event: False


@dataclass(slots=True)
class BegunMessages:
    """The bytes that all connections of one server hold of messages whose ends have not come."""

    bytes_max: int
    bytes: int = 0


class SyncProtocol(WebSocketsSansIOProtocol):
    """uvicorn's websocket protocol with fragmented sends, and an end to waiting for peers that have stopped reading.

    Until somebody listens it is as ASGI knows it; from then on messages are handed over and taken without ASGI. Use a
    subclass that `sync_protocol` made.
    """

    fragment_bytes: int
    short_bytes = 0
    close_s: float
    begun: BegunMessages
    _begun_bytes = 0
    _has_ended = False
    _heard_at = 0.0
    _on_message: OnMessage | None = None
    _is_paused = False

    def handle_connect(self, event: Request) -> None:
        self.queue = _Inbox(self._hand_over)
        super().handle_connect(event)
        if self.response.status_code == 101:
            cast(dict[str, object], self.scope["extensions"])[_PROTOCOL] = self

    # --- What arrives -----------------------------------------------------------------------------------------------

    def listen(self, on_message: OnMessage) -> None:
        """Hands everything that has arrived and will arrive to `on_message`; None is the end."""
        self._on_message = on_message
        self.resume()

    def pause(self) -> None:
        """What has been read is kept, and no more is read."""
        self._is_paused = self.read_paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        while not self._is_paused and not self.queue.empty():
            self._hand_over(self.queue.get_nowait())
        self.read_paused = self._is_paused
        if not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _hand_over(self, event: ASGIReceiveEvent) -> bool:
        """Whether `event` was taken by whoever listens."""
        if self._on_message is None or self._is_paused:
            return False
        if event["type"] == "websocket.receive":
            text = event.get("text")
            self._on_message(event.get("bytes") or b"" if text is None else text)
        else:
            on_message, self._on_message = self._on_message, _ignore
            on_message(None)
        return True

    def _take_texts(self, data: bytes) -> int:
        """Hands over the texts with which `data` begins, as long as somebody listens; returns where they end."""
        taken = 0
        if self.conn.reader.buffer or self.conn.current_size is not None:
            return taken  # the library is in the middle of a frame or a message
        while self._on_message is not None and not (self._is_paused or self.close_sent):
            if (found := whole_text(data, taken, self.config.ws_max_size)) is None:
                break
            text, taken = found
            self._on_message(text)
        return taken

    def send_receive_event_to_app(self) -> None:
        """Text that is not UTF-8 is the peer's mistake, and not worth a traceback in the log."""
        self._has_ended = True
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        try:
            text = data.decode() if self.curr_msg_data_type == "text" else None
        except UnicodeDecodeError:
            self.conn.send_close(CloseCode.INVALID_DATA)
            self.handle_parser_exception()
            return
        if self._on_message is not None and not self._is_paused:
            self._on_message(data if text is None else text)
            return
        self.queue.put_nowait(
            {"type": "websocket.receive", "bytes": data}
            if text is None
            else {"type": "websocket.receive", "text": text}
        )
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    # --- What is sent -----------------------------------------------------------------------------------------------

    def send_now(self, texts: Sequence[bytes]) -> int:
        """Sends short texts in one write, if the transport is not full; returns how many. Raises SocketGone."""
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise SocketGone
        assert not self.conn.expect_continuation_frame, "between two frames of one text there is no other"
        if not self.writable.is_set():
            return 0
        frames: list[bytes] = []
        bytes_left = _WRITE_BYTES_MAX
        for text in texts:
            if bytes_left <= 0 or len(text) > self.short_bytes:
                break
            frames.append(text_frame(text))
            bytes_left -= len(text)
        if frames:
            self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        return len(frames)

    async def send_text(self, data: bytes) -> None:
        """Returns when the transport can take more. Raises SocketGone."""
        is_first = True
        is_short = len(data) <= self.fragment_bytes
        for fragment, is_last in ((data, True),) if is_short else fragments_of(data, self.fragment_bytes):
            await self.writable.wait()
            self._send_fragment(fragment, is_first=is_first, is_last=is_last)
            is_first = False
        await self.writable.wait()

    def _send_fragment(self, data: BytesLike, *, is_first: bool, is_last: bool) -> None:
        if self.disconnected or self.close_sent:
            raise SocketGone
        try:
            if is_first:
                self.conn.send_text(data, fin=is_last)
            else:
                self.conn.send_continuation(data, fin=is_last)
        except InvalidState as error:
            raise SocketGone from error
        self._write()

    def _write(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"".join(self.conn.data_to_send()))

    # --- The end ----------------------------------------------------------------------------------------------------

    async def end(self, code: int | None, reason: str) -> None:
        """A close frame, and what follows from it. Ending twice does nothing."""
        if not self.close_sent:
            self._close(NO_CODE if code is None else code, reason)

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

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        self._has_ended = False
        if taken := self._take_texts(data):
            if taken == len(data):
                return
            data = data[taken:]
        super().data_received(data)
        unread = len(self.conn.reader.buffer)
        if unread or self.frames or self._begun_bytes:
            self._note_begun(unread if self._has_ended or not self.frames else self._begun_bytes + len(data))

    def _note_begun(self, length: int) -> None:
        """So much there is of a message whose end has not come."""
        self.begun.bytes += length - self._begun_bytes
        self._begun_bytes = length
        if self.begun.bytes > self.begun.bytes_max and length and not self.close_sent:
            self._note_begun(0)
            self.conn.fail(CloseCode.TRY_AGAIN_LATER, Overloaded.code)
            self.handle_parser_exception()

    def connection_lost(self, exc: Exception | None) -> None:
        self._note_begun(0)
        super().connection_lost(exc)
        self._let_go()

    def _let_go(self) -> None:
        """Breaks the circles that it is part of. Searching for garbage is rare, so they would stay for very long."""
        self.conn.parser.close()
        if isinstance(self.queue, _Inbox):
            self.queue.forget()
            if self.response.status_code == 101:
                cast(dict[str, object], self.scope["extensions"]).pop(_PROTOCOL, None)

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


def _ignore(message: str | bytes | None) -> None:
    """Nothing comes after the end."""


def sync_protocol(limits: Limits) -> type[SyncProtocol]:
    """The protocol class for a server with these limits; uvicorn makes the instances."""
    settings = {"fragment_bytes": limits.frame_fragment_bytes, "close_s": limits.close_ms_max / 1000}
    begun = BegunMessages(limits.messages_begun_bytes_max)
    return type("SyncProtocol", (SyncProtocol,), {**settings, "begun": begun})
