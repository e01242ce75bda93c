"""The engine without a wire: everything behind the sockets, and the clients as tasks of the same event loop.

`python -m tests.benchmarks.engine_process FOLDER ACCOUNTS BALANCE CLIENTS WORKERS` seeds a data folder, and then takes
one command a line from its standard input and answers with one line of JSON:

    run SECONDS ALPHA     transfers, one in flight for each client
    total                 the sum of the balances

It ends with its input. What the clients cost is in its share of the processors: a call and a future each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from functools import cache
from pathlib import Path

import uvloop

from evolute import garbage_collector
from evolute.backend import Backend
from evolute.config import Config
from evolute.execution.request import Call, Outcome
from tests.benchmarks.measures import LEDGER, Figures
from tests.benchmarks.pairs import Pairs, zipf

SEED_COUNT = 2000
SUM_COUNT = 10_000
ARGUMENTS = b'{"amount":1,"from_id":%d,"to_id":%d}'  # canonical, as the session layer makes them


async def transfers(backend: Backend, seconds: float, pairs: Pairs, clients: int) -> Figures:
    following = itertools.cycle(pairs).__next__
    clock, mutate = time.perf_counter, backend.executor.mutate
    latencies_ms: list[float] = []
    failures: list[str] = []
    begun_s = clock()
    until_s = begun_s + seconds

    async def client() -> None:
        now_s = clock()
        while now_s < until_s:
            started_s = now_s
            outcome = await mutate(Call("accounts:transfer", ARGUMENTS % following(), "mutation"))
            now_s = clock()
            if outcome.error is None:
                latencies_ms.append((now_s - started_s) * 1000)
            else:
                failures.append(outcome.error.message)

    await asyncio.gather(*(client() for _ in range(clients)))
    return {"elapsed_s": clock() - begun_s, "latencies_ms": latencies_ms, "failures": failures}


async def seed(backend: Backend, accounts: int, balance: int) -> None:
    for first in range(0, accounts, SEED_COUNT):
        arguments = {"balance": balance, "count": min(SEED_COUNT, accounts - first), "first": first}
        opened(await backend.executor.mutate(Call("accounts:seed", json.dumps(arguments).encode(), "mutation")))


async def total(backend: Backend, accounts: int) -> float:
    balances = 0.0
    for first in range(0, accounts, SUM_COUNT):
        arguments = json.dumps({"count": SUM_COUNT, "first": first}).encode()
        balances += json.loads(opened(await backend.executor.query(Call("accounts:total", arguments, "query"))))
    return balances


def opened(outcome: Outcome) -> bytes:
    if outcome.error is not None or outcome.value is None:
        raise RuntimeError(str(outcome.error))
    return outcome.value


async def main(folder: Path, accounts: int, balance: int, clients: int, workers: int) -> None:
    backend = Backend(Config(LEDGER, folder, workers=workers, development=False))
    await backend.start()
    try:
        await seed(backend, accounts, balance)
        pairs_of = cache(lambda alpha: zipf(accounts, float(alpha)))
        garbage_collector.search_seldom()
        while command := (await asyncio.to_thread(sys.stdin.readline)).split():
            if command[0] == "total":
                answer: object = await total(backend, accounts)
            else:
                _, seconds, alpha = command
                answer = await transfers(backend, float(seconds), pairs_of(alpha), clients)
            print(json.dumps(answer), flush=True)
    finally:
        await backend.stop()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[2:]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), *given))
