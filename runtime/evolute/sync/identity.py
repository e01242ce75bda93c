"""Who is asking: the identity that a token stands for, as the session and the HTTP API use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from evolute.execution.request import Kind
from evolute.protocol.messages import Token

_A = {"mutation": "a mutation", "action": "an action"}


@dataclass(frozen=True, slots=True)
class Identity:
    """`attributes` is what `ctx.auth` shows (canonical JSON), or None; an admin may also call internal functions.

    A user's is good until `expires_ns`. An admin's key has a name, unless it is that of the data folder; with one that
    is read-only nothing is changed.
    """

    attributes: bytes | None = None
    is_admin: bool = False
    expires_ns: int | None = None
    key_name: str | None = None
    is_read_only: bool = False

    def has_expired(self, now_ns: int) -> bool:
        return self.expires_ns is not None and self.expires_ns <= now_ns

    def refusal(self, kind: Kind) -> str | None:
        """Why it may not run a function of that kind."""
        if not self.is_read_only or kind == "query":
            return None
        return f"The admin key {self.key_name!r} is read-only: it runs queries, and this is {_A[kind]}."


ANONYMOUS = Identity()

IdentityOf: TypeAlias = Callable[[Token], Identity | Awaitable[Identity]]
"""The identity of a token, now or later. Raises, or lets the Awaitable raise, Unauthorized, whose text the client is
told, or Retry."""
