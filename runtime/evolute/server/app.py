"""The ASGI application over a Backend, and the server that listens for it.

Slashes ──► Cors ──► Faults ──► HotRoutes ──► routes ──► SyncEndpoint, HttpApi, AdminApi, FunctionLogs, Metrics, …
                                    │            └───► static files, or the front page
                                    └───► HttpApi
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evolute.auth.fetch import HttpFetcher
from evolute.auth.token_verifier import TokenVerifier
from evolute.backend import Backend
from evolute.clock import random_bytes
from evolute.config import Config
from evolute.errors import EvoluteError, ShuttingDown
from evolute.server.admin_api import AdminApi
from evolute.server.auth import Authenticator
from evolute.server.cors import Cors
from evolute.server.front_page import front_page
from evolute.server.function_logs import FunctionLogs
from evolute.server.hot_routes import HotRoutes
from evolute.server.http_api import HttpApi
from evolute.server.http_door import guarded_protocol
from evolute.server.http_error import HttpError, response_to_error
from evolute.server.metrics import Metrics
from evolute.server.openapi import OpenApi
from evolute.server.plain_pages import plain_pages
from evolute.server.static_files import StaticFiles
from evolute.server.websocket import SyncEndpoint, sync_protocol
from evolute.server.withheld import log_withheld
from evolute.sync.host import Host
from evolute.sync.intake import Intake
from evolute.sync.transition import Disclosure

logger = logging.getLogger("evolute.server")

CUT_OFF_S = 1

VERSION = version("evolute")


def create_app(backend: Backend, admin_key: str) -> Starlette:
    """The application; its `state.sync` is the SyncEndpoint.

    The backend must have started, and must not stop before the last request has ended.
    """
    limits, redact = backend.config.limits, backend.config.redact_errors
    verifier = TokenVerifier(
        lambda: backend.report.auth_providers, backend.clock, limits, HttpFetcher(limits).get, redact=redact
    )
    authenticator = Authenticator(admin_key, backend.key_ring.find, verifier)

    def published_ts() -> int:
        return backend.database.log.published_ts

    async def root(request: Request) -> Response:
        return HTMLResponse(front_page(VERSION, backend.report))

    disclosure = Disclosure(redact, lambda: random_bytes(8).hex(), log_withheld)
    host = Host(
        executor=backend.executor,
        clock=backend.clock,
        limits=limits,
        published_ts=published_ts,
        identity_of=authenticator.identity_of,
        disclosure=disclosure,
        intake=Intake(limits),
        stages=backend.database.stages,
    )
    sync = SyncEndpoint(host)
    backend.key_ring.on_revoked(sync.key_revoked)
    api = HttpApi(backend.executor, backend.past_queries, limits, authenticator, published_ts, disclosure)
    routes = [
        WebSocketRoute("/api/sync", sync),
        WebSocketRoute("/api/{version}/sync", sync),
        Route("/api/query", api.query, methods=["GET", "POST"]),
        Route("/api/mutation", api.mutation, methods=["POST"]),
        Route("/api/action", api.action, methods=["POST"]),
        Route("/api/function", api.function, methods=["POST"]),
        Route("/api/run/{path:path}", api.run, methods=["POST"]),
        Route("/api/query_ts", api.query_ts, methods=["POST"]),
        Route("/api/query_at_ts", api.query_at_ts, methods=["POST"]),
        Route("/api/query_batch", api.query_batch, methods=["POST"]),
        Route("/api/openapi.json", OpenApi(VERSION, lambda: backend.report).page),
        Route("/api/stream_function_logs", FunctionLogs(backend, authenticator).page),
        *plain_pages(VERSION, authenticator, limits),
        *AdminApi(backend, authenticator).routes(),
        Route("/metrics", Metrics(backend, authenticator).page),
    ]
    static_folder = backend.config.static_folder
    if static_folder is None:
        routes.append(Route("/", root))
    hot = {("POST", "/api/query"): api.query, ("POST", "/api/mutation"): api.mutation}
    middleware = [Middleware(Slashes), Middleware(Cors), Middleware(Faults), Middleware(HotRoutes, hot)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _no_such_endpoint})
    if static_folder is not None:
        app.router.default = StaticFiles(static_folder, otherwise=app.router.not_found)
    app.state.sync = sync
    return app


def build_server(app: Starlette, config: Config) -> uvicorn.Server:
    """A server for `serve(sockets=[…])`. It touches neither signal handlers nor the configuration of logging."""
    limits = config.limits
    silence_s = limits.socket_silence_ms_max / 1000
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=guarded_protocol(limits),
        ws=sync_protocol(limits),
        ws_max_size=limits.message_bytes_max,
        ws_ping_interval=silence_s / 4,
        ws_ping_timeout=silence_s * 3 / 4,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CUT_OFF_S,  # whoever stops the server has waited for what runs
    )
    return _Server(settings)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the command line's."""
        yield


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    """400 under /api: the command line of npm takes a 404 for something that will come if it tries again."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and request.url.path.startswith("/api/"):
        return HttpError(400, "UnknownEndpoint", f"There is no endpoint {request.method} {request.url.path}.").response
    code = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "BadRequest")
    response = HttpError(error.status_code, code, f"{error.detail}: {request.method} {request.url.path}").response
    response.headers.update(error.headers or {})
    return response


class Slashes:
    """ASGI middleware: `//api/query` is `/api/query`, as clients ask for if their address ends with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "//" in scope.get("path", ""):
            scope = {**scope, "path": re.sub("/+", "/", scope["path"])}
        await self._app(scope, receive, send)


class Faults:
    """ASGI middleware: errors that routes raise become answers, and what is unexpected goes to the log, not out.

    Requests are cancelled only by the end of the server, if it cannot wait any longer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            with suppress(asyncio.CancelledError):
                await self._app(scope, receive, send)
            return
        has_started = False

        async def send_noting(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except (Exception, asyncio.CancelledError) as error:
            response = _response_to(error if isinstance(error, Exception) else ShuttingDown(), scope["path"])
            if not has_started:
                await response(scope, receive, send)


def _response_to(error: Exception, path: str) -> Response:
    if isinstance(error, HttpError):
        return error.response
    known = response_to_error(error) if isinstance(error, EvoluteError) else None
    if known is not None:
        return known
    logger.error("Unexpected error while answering %s", path, exc_info=error)
    return HttpError(500, "InternalServerError", "Your request couldn't be completed. Try again later.").response
