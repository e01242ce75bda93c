"""The channel: frames cut at any byte, the bound on a frame, the end of either side."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from evolute.errors import LimitReached, MalformedMessage
from evolute.execution.async_channel import AsyncChannel, open_channel
from evolute.execution.channel import BlockingChannel, Frame, FrameBuffer, encode_frame

MAX = 1 << 20
FRAMES: list[Frame] = [
    ("load", {"sources": {"m.py": b"\x00\xff"}, "limits": {"x": 1}}),
    ("request", 1, "text \N{SNOWMAN}", None, True, 1.5, (1, (2, b"")), [b"a"]),
    ("exit",),
]


def test_frames_are_cut_wherever_the_bytes_break() -> None:
    stream = b"".join(encode_frame(frame, MAX) for frame in FRAMES)
    for size in (1, 2, 3, 5, 7, 64, len(stream)):
        buffer = FrameBuffer(MAX)
        received = [frame for at in range(0, len(stream), size) for frame in buffer.feed(stream[at : at + size])]
        assert received == FRAMES


def test_a_frame_above_the_bound_is_refused_at_both_ends() -> None:
    with pytest.raises(LimitReached, match="frame_bytes_max"):
        encode_frame(("outcome", b"x" * 100), 100)
    with pytest.raises(MalformedMessage, match="frame_bytes_max"):
        FrameBuffer(100).feed((101).to_bytes(4, "little"))


@pytest.mark.parametrize("body", [b"", b"\xff", b"N", b"(\x02\x00\x00\x00i"])
def test_bytes_that_are_no_frame_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        FrameBuffer(MAX).feed(len(body).to_bytes(4, "little") + body)


def test_blocking_receive_returns_every_frame_that_has_arrived_and_then_the_end() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = BlockingChannel(ours, MAX), BlockingChannel(theirs, MAX)
    for frame in FRAMES:
        sender.send(frame)
    assert receiver.recv() == FRAMES
    ours.sendall(encode_frame(FRAMES[0], MAX)[:10])
    sender.close()
    with pytest.raises(EOFError):
        receiver.recv()
    receiver.close()


class End:
    """One end of a channel on a loop, and what it heard."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.closed: list[Exception | None] = []
        self.changed = asyncio.Event()

    def on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.changed.set()

    def on_closed(self, error: Exception | None) -> None:
        self.closed.append(error)
        self.changed.set()

    async def open(self, sock: socket.socket, frame_bytes_max: int = MAX) -> AsyncChannel:
        return await open_channel(
            sock, on_frame=self.on_frame, on_closed=self.on_closed, frame_bytes_max=frame_bytes_max
        )

    async def wait(self, *, frames: int = 0, closed: int = 0) -> None:
        async with asyncio.timeout(10):
            while len(self.frames) < frames or len(self.closed) < closed:
                self.changed.clear()
                await self.changed.wait()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_frames_go_both_ways_until_one_end_closes(factory: type[asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        end = End()
        channel = await end.open(ours)
        for frame in FRAMES:
            channel.send(frame)
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(None, theirs.recv, MAX)
        assert FrameBuffer(MAX).feed(data) == FRAMES
        theirs.sendall(data)
        await end.wait(frames=len(FRAMES))
        assert end.frames == FRAMES
        with pytest.raises(LimitReached):
            channel.send(("x", b"y" * MAX))
        channel.send(("last",))
        channel.close()
        await end.wait(closed=1)
        assert end.closed == [None]
        assert FrameBuffer(MAX).feed(theirs.recv(MAX)) == [("last",)]
        assert theirs.recv(MAX) == b""
        channel.send(("nobody listens",))
        theirs.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_was_sent_before_an_end_is_read_though_a_write_fails_first(
    factory: type[asyncio.AbstractEventLoop],
) -> None:
    """A worker answers and dies; the server sends it something in the same turn, before it has read the answer."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        end = End()
        channel = await end.open(ours)
        theirs.sendall(b"".join(encode_frame(frame, MAX) for frame in FRAMES))
        theirs.close()
        channel.send(("too late",))
        channel.close()
        await end.wait(closed=1)
        assert end.frames == FRAMES

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())


def test_an_unreadable_frame_ends_the_channel_with_its_reason() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        end = End()
        await end.open(ours, frame_bytes_max=1000)
        theirs.sendall(encode_frame(("first",), 1000) + (2000).to_bytes(4, "little"))
        await end.wait(closed=1)
        assert isinstance(end.closed[0], MalformedMessage)
        theirs.close()

    asyncio.run(scenario())


def test_large_frames_pass_whole_in_both_directions() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        left, right = End(), End()
        first, second = await left.open(ours, 32 * MAX), await right.open(theirs, 32 * MAX)
        frame: Frame = ("outcome", bytes(range(256)) * 4 * 8 * 1024)
        first.send(frame)
        second.send(frame)
        await left.wait(frames=1)
        await right.wait(frames=1)
        assert left.frames == right.frames == [frame]
        first.abort()
        await left.wait(closed=1)
        await right.wait(closed=1)

    asyncio.run(scenario())
