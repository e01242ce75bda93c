"""A long message in pieces: frames of one message for every client, and a Transition as several messages for npm's.

fragments_of   pieces of the text, none of which ends inside a character
chunks_of      the messages that take a Transition's place; they must arrive one behind the other, Pings in between
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

_TRANSITION = b'{"type":"Transition"'


def is_transition(message: bytes) -> bool:
    """Of a message that the codec has made."""
    return message.startswith(_TRANSITION)


def chunks_of(transition: bytes, chunk_bytes: int) -> Iterator[bytes]:
    """Messages with at most so many bytes of the Transition each, in the order in which to send them."""
    parts = [bytes(part).decode() for part, _ in fragments_of(transition, chunk_bytes)]
    for number, part in enumerate(parts):
        head = {"type": "TransitionChunk", "chunk": part, "partNumber": number, "totalParts": len(parts)}
        yield orjson.dumps({**head, "transitionId": str(len(transition))})


def fragments_of(data: bytes, fragment_bytes: int) -> Iterator[tuple[memoryview, bool]]:
    """The pieces of UTF-8 text, none of which ends inside a character, and of each whether it is the last."""
    view, start = memoryview(data), 0
    while True:
        end = min(start + fragment_bytes, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield view[start:end], end == len(data)
        if end == len(data):
            return
        start = end
