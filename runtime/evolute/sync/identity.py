"""Who is asking: the identity that a token stands for, as the session and the HTTP API use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from evolute.protocol.messages import Token


@dataclass(frozen=True, slots=True)
class Identity:
    """`attributes` is what `ctx.auth` shows (canonical JSON), or None; an admin may also call internal functions."""

    attributes: bytes | None = None
    is_admin: bool = False


ANONYMOUS = Identity()

IdentityOf: TypeAlias = Callable[[Token], Identity]
"""The identity of a token. Raises Unauthorized, whose text the client is told."""
