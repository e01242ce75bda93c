"""Websocket frames as nearly all of them are: one text of one message, in one frame.

The websockets library reads frames with generators, because any of them may be cut anywhere, and makes an object of
each; that is most of what a short message costs. So what is whole and simple is read and written here, and whatever is
not (fragments, control frames, a frame of which the end has not come, one that breaks the protocol) is left to it.
"""

from __future__ import annotations

import struct

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the compiled one, where there is one

_TEXT = 0x81  # the first and last frame of a text, with no bit set for an extension
_MASKED = 0x80
_LENGTH_16 = 126
_LENGTH_64 = 127

_SHORT_HEADS = tuple(bytes((_TEXT, length)) for length in range(_LENGTH_16))
_head_16 = struct.Struct("!BBH").pack
_head_64 = struct.Struct("!BBQ").pack


def text_frame(text: bytes) -> bytes:
    """A server's frame, which is not masked."""
    length = len(text)
    if length < _LENGTH_16:
        return _SHORT_HEADS[length] + text
    if length < 1 << 16:
        return _head_16(_TEXT, _LENGTH_16, length) + text
    return _head_64(_TEXT, _LENGTH_64, length) + text


def whole_text(data: bytes, start: int, bytes_max: int) -> tuple[str, int] | None:
    """The text of the client's frame that begins at `start`, and where the frame ends.

    None if it is anything else than a whole text of at most `bytes_max` bytes, and less than 64 KiB.
    """
    if len(data) < start + 6 or data[start] != _TEXT:
        return None
    length = data[start + 1] ^ _MASKED  # of a frame that is not masked this is too much
    mask_at = start + 2
    if length == _LENGTH_16:
        length = data[mask_at] << 8 | data[mask_at + 1]
        mask_at += 2
    elif length > _LENGTH_16:
        return None
    text_at = mask_at + 4
    end = text_at + length
    if end > len(data) or length > bytes_max:
        return None
    try:
        return apply_mask(data[text_at:end], data[mask_at:text_at]).decode(), end
    except UnicodeDecodeError:
        return None
