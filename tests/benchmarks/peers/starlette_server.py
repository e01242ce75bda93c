"""Starlette and SQLite, one uvicorn process: a websocket that takes one transfer after the other, and GET /total."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.benchmarks.peers.accounts import Accounts, NoAccount

port, folder, count, balance = sys.argv[1:]
accounts = Accounts(Path(folder) / "accounts.db", int(count), int(balance))


async def transfers(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            order = await socket.receive_json()
            try:
                accounts.transfer(order["from_id"], order["to_id"], order["amount"])
            except NoAccount as error:
                await socket.send_json({"ok": False, "error": str(error)})
            else:
                await socket.send_json({"ok": True})
    except WebSocketDisconnect:
        pass


async def total(request: Request) -> JSONResponse:
    return JSONResponse(accounts.total())


app = Starlette(routes=[WebSocketRoute("/transfer", transfers), Route("/total", total)])
uvicorn.run(app, port=int(port), log_level="error", access_log=False)
