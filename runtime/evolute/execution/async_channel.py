"""The end of a channel that lives on an event loop: the server's, and the action worker's.

Frames arrive by callback, in order, in the loop turn in which their bytes arrive. What is sent is written at once. How
many frames wait is bounded by the owner, who counts requests and callbacks; how large one is, here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from evolute.errors import MalformedMessage
from evolute.execution.channel import RECEIVE_BYTES, Frame, FrameBuffer, encode_frame


async def open_channel(
    sock: socket.socket,
    *,
    on_frame: Callable[[Frame], None],
    on_closed: Callable[[Exception | None], None],
    frame_bytes_max: int,
) -> AsyncChannel:
    """Takes over the connected `sock` and closes it at the end."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    channel = AsyncChannel(on_frame, on_closed, frame_bytes_max, sock.dup())
    await loop.create_unix_connection(lambda: channel, sock=sock)
    return channel


class AsyncChannel(asyncio.Protocol):
    """Made by `open_channel`.

    `on_frame` is called synchronously for every frame. `on_closed` is called once, at the end, with the reason, or None
    if the other end or `close` ended it; a frame that cannot be read ends the channel. No frame arrives after it.
    """

    def __init__(
        self,
        on_frame: Callable[[Frame], None],
        on_closed: Callable[[Exception | None], None],
        frame_bytes_max: int,
        same_socket: socket.socket,
    ) -> None:
        self._same_socket = same_socket
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._frame_bytes_max = frame_bytes_max
        self._buffer = FrameBuffer(frame_bytes_max)
        self._transport: asyncio.Transport | None = None
        self._fault: Exception | None = None
        self.closed = False

    def send(self, frame: Frame) -> None:
        """Raises LimitReached if the frame is too large.

        On a closed channel nothing happens: whoever sends learns of the end by `on_closed`.
        """
        data = encode_frame(frame, self._frame_bytes_max)
        if self._transport is not None and not self.closed and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Closes once all has been sent. `on_closed` follows in a later loop turn."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes at once; what waits is dropped."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from it

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._buffer.feed(data)
        except MalformedMessage as error:
            self._fault = error
            self.abort()
            return
        for frame in frames:
            if self.closed:
                return
            self._on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_rest()
        self.closed = True
        self._on_closed(self._fault or exc)

    def _read_rest(self) -> None:
        """What the other end sent before it died. A write to it fails at once, and the transport then reads no more."""
        try:
            while self._fault is None and (data := self._same_socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)):
                self.data_received(data)
        except OSError:
            pass  # there is nothing left
        finally:
            self._same_socket.close()
