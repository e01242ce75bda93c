"""Transfers for ten minutes, minute by minute: whether they become slower, and whether memory or the store grow.

Before every interval it is measured how fast this machine computes; `of the machine` is the throughput divided by
that, the first interval being 1. So a machine that others slow down can be told from a server that slows down.

uv run python -m tests.benchmarks.endurance [--intervals 10 --seconds 60]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from contextlib import closing

from tests.benchmarks.documents import drawn, store_of
from tests.benchmarks.ledger.work import churn
from tests.benchmarks.measures import (
    Figures,
    arguments_of,
    benchmark_server,
    cpu_times,
    memory_figures,
    percentile,
    show,
)
from tests.benchmarks.transfer_load import SessionTeller, TransferLoad
from tests.benchmarks.transfers import BALANCE, seed, total
from tests.end_to_end.server_process import ServerProcess

CALIBRATION_S = 1.0
CHURN_ROUNDS = 2000


def churned_per_s() -> float:
    """How fast one processor of this machine computes now."""
    until_s, done = time.perf_counter() + CALIBRATION_S, 0
    while time.perf_counter() < until_s:
        churn(CHURN_ROUNDS)
        done += 1
    return done / CALIBRATION_S


def interval(server: ServerProcess, load: TransferLoad, seconds: float) -> Figures:
    machine, before = churned_per_s(), cpu_times(server)
    elapsed_s = load.run(seconds)
    done = len(load.latencies_ms)
    used = cpu_times(server).figures_since(before, elapsed_s, done)
    latencies_ms, failures = load.latencies_ms[:], load.failures[:]
    load.latencies_ms.clear()
    load.failures.clear()
    return {
        "machine": round(machine),
        "per s": round(done / elapsed_s),
        "of the machine": done / elapsed_s / machine,
        "p50 ms": percentile(latencies_ms, 0.5),
        "p99 ms": percentile(latencies_ms, 0.99),
        "failed": len(failures),
        "server ms each": used["server ms each"],
        **memory_figures(server),
        "store MiB": store_of(server).stat().st_size / (1 << 20),
    }


def measure(server: ServerProcess, options: argparse.Namespace) -> tuple[dict[str, Figures], Figures]:
    seed(server.port, options.accounts)
    pairs, rows = drawn(options.accounts, random.Random(options.accounts)), dict[str, Figures]()
    # The same sessions all the time: of each the answers of its newest mutations are kept.
    with closing(TransferLoad([SessionTeller(server.port) for _ in range(options.sessions)], pairs)) as load:
        for number in range(options.intervals):
            row = interval(server, load, options.seconds)
            rows[f"{(number + 1) * options.seconds:.0f} s"] = row
            print(row, file=sys.stderr, flush=True)
    scale = float(str(next(iter(rows.values()))["of the machine"]))
    for row in rows.values():
        row["of the machine"] = float(str(row["of the machine"])) / scale
    balances = total(server.port, options.accounts)
    return rows, {"sum of balances": "as seeded" if balances == options.accounts * BALANCE else f"WRONG: {balances}"}


def main() -> None:
    parser = arguments_of("Measures transfers for a long while.")
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each interval")
    parser.add_argument("--intervals", type=int, default=10)
    options = parser.parse_args()
    with benchmark_server(options) as server:
        rows, figures = measure(server, options)
    show(f"transfers, {options.accounts} accounts", figures, as_json=options.json, rows=rows)


if __name__ == "__main__":
    main()
