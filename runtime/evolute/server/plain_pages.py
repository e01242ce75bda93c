"""What tools ask for before they begin: who is there, which version, does my key fit, does a body come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from evolute.limits import Limits
from evolute.server.auth import Authenticator
from evolute.server.http_error import json_response
from evolute.server.http_request import read_body, require_admin, wait_identity

INSTANCE_NAME = "evolute"
"""What comes before the secret of an admin key, too."""


def plain_pages(version: str, authenticator: Authenticator, limits: Limits) -> list[Route]:
    def text(content: str) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            return PlainTextResponse(content)

        return page

    async def echo(request: Request) -> Response:
        bytes_max = limits.echo_bytes_max
        body = await read_body(request, bytes_max, f"The body is longer than {bytes_max} bytes (echo_bytes_max).")
        return Response(body, media_type=request.headers.get("content-type"))

    async def check_admin_key(request: Request) -> Response:
        identity = await wait_identity(request, authenticator)
        require_admin(identity)
        return json_response({"success": True, "allowedOps": ["*"], "isReadOnly": identity.is_read_only})

    return [
        Route("/version", text(version)),
        Route("/instance_version", text(version)),
        Route("/instance_name", text(INSTANCE_NAME)),
        Route("/echo", echo, methods=["POST"]),
        Route("/api/check_admin_key", check_admin_key),
    ]
