"""The endpoints that are called most, found by their address and not by a walk over all routes.

Between an ASGI server and an endpoint, Starlette's routing, its requests and its responses take longer than a cached
query. So what is called here is a look into a dict away, and is given a request that reads of the scope what it is
asked for. Endpoints do not notice: they take an `HttpRequest`, which Starlette's is, too.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from evolute.server.http_request import HttpRequest

Endpoint = Callable[[HttpRequest], Awaitable[Response]]

_KEPT_BYTES_MAX = 64


@functools.lru_cache(maxsize=256)
def _parameters_again(written: bytes) -> QueryParams:
    """Short ones are nearly always the same: none, or `format=json`."""
    return QueryParams(written)


class PlainRequest:
    """An `HttpRequest` over an ASGI scope."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self.method: str = scope["method"]
        self.receive = receive
        # Of a header that came twice the first counts, as it does for Starlette.
        headers = reversed(scope["headers"])
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}

    @property
    def query_params(self) -> Mapping[str, str]:
        written = self._scope["query_string"]
        return _parameters_again(written) if len(written) <= _KEPT_BYTES_MAX else QueryParams(written)


class HotRoutes:
    """ASGI middleware: calls the endpoint of (method, path), and leaves everything else to the application."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
        else:
            response = await endpoint(PlainRequest(scope, receive))
            await response(scope, receive, send)
