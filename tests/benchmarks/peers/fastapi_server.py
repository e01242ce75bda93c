"""FastAPI and SQLite, one uvicorn process: POST /transfer, GET /total."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from tests.benchmarks.peers.accounts import Accounts, NoAccount

port, folder, count, balance = sys.argv[1:]
accounts = Accounts(Path(folder) / "accounts.db", int(count), int(balance))


class Transfer(BaseModel):
    from_id: int
    to_id: int
    amount: int


async def transfer(order: Transfer) -> dict[str, bool]:
    try:
        accounts.transfer(order.from_id, order.to_id, order.amount)
    except NoAccount as error:
        raise HTTPException(404, str(error)) from error
    return {"ok": True}


async def total() -> int:
    return accounts.total()


app: Any = FastAPI()
app.add_api_route("/transfer", transfer, methods=["POST"])
app.add_api_route("/total", total)
uvicorn.run(app, port=int(port), log_level="error", access_log=False)
