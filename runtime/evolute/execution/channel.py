"""Frames between the server and a worker: a length of 4 bytes, little endian, then the marshal of a tuple.

The first item of the tuple names the frame:

    to the worker    ("load", {…})  ("request", FunctionRequest)  ("cancel", request_id)
                     ("reply", callback_id, ok, payload)  ("ping",)  ("exit",)
    to the server    ("loaded", report)  ("load_failed", [text, …])  ("outcome", FunctionOutcome)
                     ("callback", request_id, callback_id, operation, payload)  ("pong",)
    and only between the server and the worker that looks at rows: ("examine", n, RowsRequest)
                     ("examined", n, RowsExamined)  ("examination_failed", n, traceback)

marshal is safe here because both ends are the same interpreter and trust each other, and it builds no objects of ours.
Workers without an event loop import this module, which therefore knows no asyncio; the server's end is in
`async_channel`.
"""

from __future__ import annotations

import marshal
import select
import socket
from typing import Any, TypeAlias

from evolute.errors import LimitReached, MalformedMessage

Frame: TypeAlias = tuple[Any, ...]

LENGTH_BYTES = 4
RECEIVE_BYTES = 64 * 1024


def encode_frame(frame: Frame, frame_bytes_max: int) -> bytes:
    """Raises LimitReached if the frame is larger than `frame_bytes_max`."""
    body = marshal.dumps(frame)
    if len(body) > frame_bytes_max:
        raise LimitReached(
            f"A frame of {len(body)} bytes between server and worker is too large "
            f"(limit: {frame_bytes_max} bytes; the setting is frame_bytes_max)"
        )
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


class FrameBuffer:
    """Cuts a stream of bytes into frames."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Takes what was received and returns the frames that are complete now. Raises MalformedMessage."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start, end = 0, len(buffer)
        with memoryview(buffer) as view:
            while end - start >= LENGTH_BYTES:
                length = int.from_bytes(view[start : start + LENGTH_BYTES], "little")
                if length > self._frame_bytes_max:
                    raise MalformedMessage(f"A frame of {length} bytes exceeds frame_bytes_max")
                after = start + LENGTH_BYTES + length
                if after > end:
                    break
                frames.append(_decode(view[start + LENGTH_BYTES : after]))
                start = after
        del buffer[:start]
        return frames


def _decode(body: memoryview) -> Frame:
    try:
        frame = marshal.loads(body)
    except (EOFError, ValueError, TypeError) as error:
        raise MalformedMessage(f"A frame between server and worker cannot be read: {error}") from error
    if not isinstance(frame, tuple) or not frame:
        raise MalformedMessage("A frame between server and worker is not a tuple with a name")
    return frame


class BlockingChannel:
    """A worker's end, where it needs no event loop. Not for use from several threads."""

    def __init__(self, sock: socket.socket, frame_bytes_max: int) -> None:
        self._socket = sock
        self._frame_bytes_max = frame_bytes_max
        self._buffer = FrameBuffer(frame_bytes_max)

    def recv(self) -> list[Frame]:
        """Waits for at least one frame and returns all that have arrived. Raises EOFError when the other end closed."""
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise EOFError("the server closed the channel")
            frames = self._buffer.feed(data)
            if frames:
                return frames

    def wait_readable(self, timeout_s: float) -> bool:
        """Whether within `timeout_s` something has come for `recv`, the end included."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def send(self, frame: Frame) -> None:
        """Raises LimitReached, before anything is sent, if it is too large."""
        self._socket.sendall(encode_frame(frame, self._frame_bytes_max))

    def close(self) -> None:
        self._socket.close()
