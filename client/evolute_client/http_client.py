"""Single calls over HTTP, with nothing but the standard library: for scripts and command lines.

Each call is a request of its own. A mutation that is repeated after an error may run twice; `Client` does not have that
problem.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from evolute.protocol.messages import AdminToken, Failure, Success
from evolute.values import wire_codec
from evolute_client.authentication import admin_token
from evolute_client.errors import RequestRefused
from evolute_client.opened import log, opened
from evolute_client.state_machine import LogLines
from evolute_client.transport import CLIENT_NAME, unreachable

TIMEOUT_S = 660.0
"""Longer than an action may run."""


class HttpClient:
    """Calls functions of the server at `address`, as the user whose `token` it is given.

    With `admin_key` it may also call internal ones (`run`), and take on the identity `acting_as`.

    Raises ConvexError, FunctionError, ConnectionLost (no server), RequestRefused (a wrong key or request).
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        admin_key: str | None = None,
        acting_as: Mapping[str, object] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Raises ValueError if `address` is none, or for what does not go together."""
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's address looks like http://127.0.0.1:3210, got {address!r}")
        self._address, self._parts = address, parts
        self._authorization = authorization(token, admin_token(token, admin_key, acting_as))
        self._timeout_s = timeout_s

    def query(self, path: str, /, **arguments: object) -> Any:
        return self._call("/api/query", path, arguments)

    def mutation(self, path: str, /, **arguments: object) -> Any:
        return self._call("/api/mutation", path, arguments)

    def action(self, path: str, /, **arguments: object) -> Any:
        return self._call("/api/action", path, arguments)

    def run(self, path: str, /, **arguments: object) -> Any:
        """A function of any kind, internal ones included. Needs the admin key."""
        return self._call("/api/function", path, arguments)

    def admin(self, operation: str, /, **fields: object) -> dict[str, Any]:
        """An operation of the admin API (`jobs/list`), and what it answers, as JSON. Needs the admin key."""
        return self._post(f"/api/admin/{operation}", orjson.dumps(fields))

    def _call(self, endpoint: str, path: str, arguments: dict[str, object]) -> Any:
        encoded = orjson.Fragment(wire_codec.encode(arguments))
        body = orjson.dumps({"path": path, "args": encoded, "format": "convex_encoded_json"})
        answer = self._post(endpoint, body)
        lines = answer.get("logLines", ())
        if lines:
            log(LogLines(path, tuple(lines)))
        if answer.get("status") == "success":
            return opened(Success(orjson.dumps(answer["value"])))
        data = orjson.dumps(answer["errorData"]) if "errorData" in answer else None
        return opened(Failure(str(answer.get("errorMessage", "")), data))

    def _post(self, endpoint: str, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Convex-Client": CLIENT_NAME}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        connection = self._connection()
        try:
            connection.request("POST", self._parts.path.rstrip("/") + endpoint, body, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(self._address, error) from error
        finally:
            connection.close()
        return _checked(response.status, text)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname, self._parts.port
        assert host is not None
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)


def authorization(token: str | None, admin: AdminToken | None) -> str | None:
    if admin is None:
        return None if token is None else f"Bearer {token}"
    acting_as = "" if admin.acting_as is None else f":{base64.b64encode(admin.acting_as).decode()}"
    return f"Convex {admin.value}{acting_as}"


def _checked(status: int, text: bytes) -> dict[str, Any]:
    """The object that the server answered with. Raises RequestRefused if it is none, or not one of success."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        answer = None
    if isinstance(answer, dict) and status == http.client.OK:
        return answer
    if isinstance(answer, dict) and "code" in answer:
        raise RequestRefused(str(answer.get("message", "")), code=str(answer["code"]), status=status)
    shown = text[:200].decode("utf-8", "replace")
    raise RequestRefused(f"the server answered {status}: {shown}", code="UnexpectedAnswer", status=status)
