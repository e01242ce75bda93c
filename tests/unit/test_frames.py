"""Frames that are written and read here are, byte by byte, those of the websockets library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from evolute.server.frames import text_frame, whole_text

LENGTHS = (0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537, 200_000)
BYTES_MAX = 1 << 20


def written(side_text: bytes, *, mask: bool, fin: bool = True, opcode: Opcode = Opcode.TEXT) -> bytes:
    return Frame(opcode, side_text, fin).serialize(mask=mask)


@pytest.mark.parametrize("length", [*range(130), *LENGTHS])
def test_a_server_s_frame_is_the_library_s(length: int) -> None:
    text = b"x" * length
    assert text_frame(text) == written(text, mask=False)


@given(st.text())
def test_clients_read_what_is_written(text: str) -> None:
    client = Protocol(CLIENT)
    client.receive_data(text_frame(text.encode()) * 2)
    assert [(event.opcode, event.data) for event in client.events_received() if isinstance(event, Frame)] == [
        (Opcode.TEXT, text.encode())
    ] * 2


@pytest.mark.parametrize("length", LENGTHS)
def test_a_client_s_frame_is_read_wherever_it_stands(length: int) -> None:
    """From 64 KiB on it is the library's, and no call of a function is like that."""
    text = "ü" * (length // 2) + "x" * (length % 2)
    frame = written(text.encode(), mask=True)
    expected = text if length < 1 << 16 else None
    for before, behind in ((b"", b""), (b"before", b""), (b"", b"behind"), (b"x", b"\x81\x81")):
        found = whole_text(before + frame + behind, len(before), BYTES_MAX)
        assert found == (None if expected is None else (expected, len(before) + len(frame)))


@given(st.text(max_size=300), st.data())
def test_what_is_cut_anywhere_is_left_to_the_library(text: str, data: st.DataObject) -> None:
    frame = written(text.encode(), mask=True)
    cut = frame[: data.draw(st.integers(0, len(frame) - 1))]
    assert whole_text(cut, 0, BYTES_MAX) is None


def test_what_is_not_a_whole_text_is_left_to_the_library() -> None:
    text = b"text"
    others = [
        written(text, mask=True, fin=False),
        written(text, mask=True, opcode=Opcode.CONT),
        written(text, mask=True, opcode=Opcode.BINARY),
        written(text, mask=True, opcode=Opcode.PING),
        written(b"", mask=True, opcode=Opcode.CLOSE),
        written(text, mask=False),
        written(b"x" * 126, mask=False),
        written(b"\xff", mask=True),
        b"\xc1" + written(text, mask=True)[1:],
    ]
    for frame in others:
        assert whole_text(frame + b"behind", 0, BYTES_MAX) is None


def test_a_text_longer_than_it_may_be_is_left_to_the_library() -> None:
    frame = written(b"x" * 100, mask=True)
    assert whole_text(frame, 0, 100) == ("x" * 100, len(frame))
    assert whole_text(frame, 0, 99) is None


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.data())
def test_what_is_taken_is_what_the_library_would_have_taken(pieces: list[bytes], data: st.DataObject) -> None:
    """Any bytes, some of them frames: if something is taken, the library takes the same."""
    frames = [written(piece, mask=True) if data.draw(st.booleans()) else piece for piece in pieces]
    stream = b"".join(frames)
    found = whole_text(stream, 0, BYTES_MAX)
    if found is not None:
        text, end = found
        server = Protocol(SERVER)
        server.receive_data(stream[:end])
        (event,) = server.events_received()
        assert isinstance(event, Frame)
        assert (event.opcode, event.fin, bytes(event.data).decode()) == (Opcode.TEXT, True, text)
