"""Who is asking: the identity that a token stands for, as the session and the HTTP API use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from evolute.protocol.messages import Token


@dataclass(frozen=True, slots=True)
class Identity:
    """`attributes` is what `ctx.auth` shows (canonical JSON), or None; an admin may also call internal functions.

    A user's is good until `expires_ns`.
    """

    attributes: bytes | None = None
    is_admin: bool = False
    expires_ns: int | None = None

    def has_expired(self, now_ns: int) -> bool:
        return self.expires_ns is not None and self.expires_ns <= now_ns


ANONYMOUS = Identity()

IdentityOf: TypeAlias = Callable[[Token], Identity | Awaitable[Identity]]
"""The identity of a token, now or later. Raises, or lets the Awaitable raise, Unauthorized, whose text the client is
told, or Retry."""
