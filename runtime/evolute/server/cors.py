"""Browsers may call from anywhere: the origin is mirrored, never `*`, because requests carry credentials."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = "GET, POST, OPTIONS, PATCH, DELETE, PUT"
_MAX_AGE_S = "86400"


class Cors:
    """ASGI middleware: answers preflight requests, and lets browsers read every answer (protocol §6.3)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name == b"origin" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers["origin"]
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            response = Response(headers=_preflight_headers(origin, headers))
            await response(scope, receive, send)
            return

        async def send_readable(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["Access-Control-Allow-Origin"] = origin
                answer["Access-Control-Allow-Credentials"] = "true"
                answer.add_vary_header("Origin")
            await send(message)

        await self._app(scope, receive, send_readable)


def _preflight_headers(origin: str, headers: Headers) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", ""),
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Max-Age": _MAX_AGE_S,
        "Vary": "Origin, Access-Control-Request-Headers",
    }
