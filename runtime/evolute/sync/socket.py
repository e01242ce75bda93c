"""The message socket that a connection is on: what `connection` needs of it, and `server/websocket` offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class SocketGone(Exception):
    """The socket is closed; nothing can be sent."""


class Socket(Protocol):
    """A message socket, which one connection listens to and sends on."""

    def listen(self, on_message: Callable[[str | bytes | None], None]) -> None:
        """From now on every message, text or binary, is handed over as it arrives, and None once, when it is closed."""
        ...

    def pause(self) -> None:
        """Nothing is handed over until `resume`."""
        ...

    def resume(self) -> None: ...

    def send_now(self, messages: Sequence[bytes]) -> int:
        """Sends the first of these messages, together; returns how many, 0 if it must wait. Raises SocketGone."""
        ...

    async def send(self, message: bytes) -> None:
        """Returns when the transport can take more. Raises SocketGone."""
        ...

    async def close(self, code: int | None, reason: str) -> None:
        """Sends a close frame, without a code if there is none. Closing twice does nothing."""
        ...
