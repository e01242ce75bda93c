"""What a caller of the client can meet, apart from `ConvexError`, which is the application's own.

FunctionError   the function failed, or there is none of that name: the message is the server's text
ConnectionLost  the server cannot be reached, or the connection went while an action ran
RequestRefused  the server refused the request itself: a wrong admin key, a malformed body
ClientClosed    the client was closed before the answer came
"""

from __future__ import annotations


class FunctionError(Exception):
    """The server's text; in development it holds the frames of the author's files."""


class ConnectionLost(Exception):
    """There is no connection. For an action that was running, it is unknown how far it came."""


class RequestRefused(Exception):
    """The server did not take the request. `code` is its short name, `status` the HTTP status if there is one."""

    def __init__(self, message: str, *, code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class ClientClosed(Exception):
    """The client is closed."""

    def __init__(self) -> None:
        super().__init__("The client is closed. Use it inside its `with` block.")
