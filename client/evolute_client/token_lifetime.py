"""How long a token lives, by its own account: the server checks it, the client only plans with it."""

from __future__ import annotations

import base64
import binascii
import math

import orjson

LIFETIME_S_MIN = 2.0
"""Nobody can keep up with tokens that live no longer."""


def lifetime_s(token: str) -> float | None:
    """`exp` less `iat` of a JWT in seconds; None if it does not say, or lives too short a time to plan with."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    if not isinstance(claims, dict):
        return None
    issued, expires = claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int | float) or not isinstance(expires, int | float):
        return None
    lifetime = float(expires) - float(issued)
    return lifetime if lifetime > LIFETIME_S_MIN and math.isfinite(lifetime) else None
