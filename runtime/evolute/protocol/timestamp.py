"""A timestamp as text: the base64 of 8 little-endian bytes, of which clients compare no more than whether one is later.

It must fit 63 bits, as PyPI's client demands.
"""

from __future__ import annotations

import base64
import binascii
import functools

from evolute.errors import MalformedMessage

_TIMESTAMPS_MAX = 1024


@functools.lru_cache(maxsize=_TIMESTAMPS_MAX)  # a response, the Transition behind it, and the start of the next one
def encode_ts(ts: int) -> str:
    assert 0 <= ts < 2**63, ts
    return binascii.b2a_base64(ts.to_bytes(8, "little"), newline=False).decode("ascii")


def decode_ts(where: str, text: str) -> int:
    """What `encode_ts` made. Raises MalformedMessage."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    ts = int.from_bytes(data, "little")
    if len(data) != 8 or ts >= 2**63:
        raise MalformedMessage(f"{where} must be the base64 of 8 little-endian bytes, got {text[:64]!r}.")
    return ts
