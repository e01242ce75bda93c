"""One websocket to the server; the only module that knows the websockets library.

Its errors leave here as ConnectionLost, whose text is the reason that the server is told on the next connection.
"""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from evolute.limits import Limits
from evolute_client.errors import ConnectionLost

CLIENT_NAME = f"evolute-{version('evolute')}"
OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def sync_url(address: str) -> str:
    """`http://host:port/prefix/` becomes `ws://host:port/prefix/api/sync`. Raises ValueError."""
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"a server's address looks like http://127.0.0.1:3210, got {address!r}")
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path.rstrip("/") + "/api/sync", "", ""))


class ClosedByServer(ConnectionLost):
    """The server has closed the connection; the text is its reason."""


class Transport:
    """Open until a method raises ConnectionLost or `close` returns. One task may send while another receives."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    @classmethod
    async def open(cls, address: str, limits: Limits) -> Transport:
        """Raises ConnectionLost if nobody answers there, or not with a websocket."""
        url = sync_url(address)
        try:
            socket = await connect(
                url,
                additional_headers={"Convex-Client": CLIENT_NAME},
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,  # the server keeps the connection alive; `wait_message` notices when it does not
                max_size=limits.message_bytes_max,
            )
        except (OSError, WebSocketException) as error:
            raise unreachable(address, error) from error
        return cls(socket)

    async def send(self, message: bytes) -> None:
        """One text message. Raises ConnectionLost."""
        try:
            await self._socket.send(message.decode("utf-8"))
        except ConnectionClosed as error:
            raise _lost(error) from error

    async def wait_message(self, silence_s_max: float) -> str | bytes:
        """Raises ConnectionLost, also when the server has said nothing for `silence_s_max`."""
        try:
            async with asyncio.timeout(silence_s_max):
                return await self._socket.recv()
        except TimeoutError as error:
            raise ConnectionLost("InactiveServer") from error
        except ConnectionClosed as error:
            raise _lost(error) from error

    async def close(self) -> None:
        """Says goodbye and waits for it a short time. Safe to call twice."""
        await self._socket.close()


def unreachable(address: str, error: Exception) -> ConnectionLost:
    reason = "connection refused" if isinstance(error, ConnectionRefusedError) else str(error) or type(error).__name__
    return ConnectionLost(f"cannot reach {address}: {reason}")


def _lost(error: ConnectionClosed) -> ConnectionLost:
    if error.rcvd is None:
        return ConnectionLost("the connection broke without a close frame")
    return ClosedByServer(error.rcvd.reason or f"closed with code {error.rcvd.code}")
