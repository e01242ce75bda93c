"""A backlog of pending jobs: what it costs a server to start with it, and to live with it, beside a server without one.

The jobs are scheduled by system transactions of a backend in this process, due in an hour; so the start finds them all
pending. The start runs from the command until the first successful GET /version.

uv run python -m tests.benchmarks.backlog
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from evolute.backend import Backend
from evolute.clock import NS_PER_MS, NS_PER_S, SystemClock
from evolute.config import Config
from evolute.database.transaction import Transaction
from evolute.limits import Limits
from evolute.system import jobs
from tests.benchmarks.measures import LEDGER, MIB, Figures, arguments_of, memory_figures, percentile, show
from tests.benchmarks.startup import start_ms
from tests.end_to_end.server_process import ServerProcess

PER_TRANSACTION_MAX = 4000
DUE_AFTER_S = 3600
SETTLE_S = 3.0


async def fill(data: Path, count: int) -> None:
    """A data folder with so many jobs."""
    limits = Limits(scheduled_per_mutation_max=PER_TRANSACTION_MAX)
    backend = Backend(Config(LEDGER, data, development=False, workers=1, action_workers=1, limits=limits))
    await backend.start()
    due_ns = SystemClock().now_ns() + DUE_AFTER_S * NS_PER_S
    try:
        for first in range(0, count, PER_TRANSACTION_MAX):
            many = range(first, min(first + PER_TRANSACTION_MAX, count))

            def schedule(transaction: Transaction, many: range = many) -> None:
                for number in many:
                    when_ns = due_ns + number * 1000
                    jobs.schedule(
                        transaction,
                        path="jobs:nothing",
                        arguments={},
                        due_ns=when_ns,
                        scheduled_ms=when_ns / NS_PER_MS,
                        arguments_bytes=2,
                    )

            await backend.executor.run_system(schedule)
    finally:
        await backend.stop()


def live(data: Path, workers: int) -> Figures:
    """The memory of a server that has been up for a while."""
    with ServerProcess(LEDGER, data, command="serve", workers=workers) as server:
        time.sleep(SETTLE_S)
        figures = memory_figures(server)
        server.stop()
    return figures


def measure(options: argparse.Namespace) -> Figures:
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as name:
        for title, count in (("without", 0), ("with", options.jobs)):
            data, begun_s = Path(name) / title, time.monotonic()
            asyncio.run(fill(data, count))
            if count:
                figures["made in s"] = time.monotonic() - begun_s
                figures["store MiB"] = sum(file.stat().st_blocks * 512 for file in data.rglob("*")) / MIB
            times_ms = [start_ms(LEDGER, data, options.workers) for _ in range(options.rounds)]
            figures[f"{title} jobs: start p50 ms"] = percentile(times_ms, 0.5)
            figures[f"{title} jobs: start max ms"] = max(times_ms)
            figures |= {f"{title} jobs: {figure}": value for figure, value in live(data, options.workers).items()}
    return {**figures, "jobs": options.jobs, "rounds": options.rounds}


def main() -> None:
    parser = arguments_of("Measures the start of a server with a backlog.")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    show("backlog of pending jobs", measure(options), as_json=options.json)


if __name__ == "__main__":
    main()
