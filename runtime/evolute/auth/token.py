"""A JSON Web Token taken apart, before anything in it is believed: three parts of base64url with dots between.

header . claims . signature        the first two are JSON objects; what is signed are their bytes as they came
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

import orjson

from evolute.errors import InvalidAuthHeader
from evolute.limits import Limits

_TYPES = ("jwt", "at+jwt")
_SHOWN_CHARACTERS_MAX = 100


class UnverifiedToken(NamedTuple):
    """Everything but the length is the bearer's word."""

    algorithm: str
    key_id: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def parse(token: str, limits: Limits) -> UnverifiedToken:
    """Raises InvalidAuthHeader, which says what is wrong and repeats nothing that could be used."""
    if len(token) > limits.token_bytes_max:
        raise InvalidAuthHeader(f"The token is longer than {limits.token_bytes_max} bytes (token_bytes_max).")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise InvalidAuthHeader("The token is no JSON Web Token: it does not have three parts of base64url.")
    header, claims = _object("header", parts[0]), _object("payload", parts[1])
    if "crit" in header:
        raise InvalidAuthHeader("The header of the token has extensions (crit), and none are known here.")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise InvalidAuthHeader(f"The token is of the type {brief(kind)}, not JWT or at+jwt.")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise InvalidAuthHeader("The header of the token names no algorithm (alg).")
    if key_id is not None and not isinstance(key_id, str):
        raise InvalidAuthHeader("The `kid` in the header of the token must be a text.")
    return UnverifiedToken(algorithm, key_id, claims, f"{parts[0]}.{parts[1]}".encode(), _bytes("signature", parts[2]))


def brief(tree: object) -> str:
    """The beginning of what a token says, for messages."""
    try:
        text = repr(tree)
    except RecursionError:
        return "what is too deep to be shown"
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…"


def _object(name: str, part: str) -> dict[str, Any]:
    try:
        tree = orjson.loads(_bytes(name, part))
    except orjson.JSONDecodeError:
        raise InvalidAuthHeader(f"Could not parse JWT {name}. It is not JSON.") from None
    if not isinstance(tree, dict):
        raise InvalidAuthHeader(f"Could not parse JWT {name}. It is not a JSON object.")
    return tree


def _bytes(name: str, part: str) -> bytes:
    """Strictly: what is decoded is encoded as it came, so that no two tokens are one."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise InvalidAuthHeader(f"Could not parse JWT {name}. It is not base64url.")
    return data
