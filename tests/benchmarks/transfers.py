"""Transfers between accounts: 64 sessions, each with one mutation in flight, and the disk synced for every batch.

A transfer reads two accounts through an index and patches both. It has ended when a client's promise would resolve:
with the first Transition that is not older than its response. In the end the balances must add up to what they were.

uv run python -m tests.benchmarks.transfers [--zipf 1.5] [--seconds 180 --interval 15]
"""

from __future__ import annotations

import argparse
import itertools
import random
import selectors
import time
from bisect import bisect_left
from collections.abc import Callable

from tests.benchmarks.measures import (
    Figures,
    arguments_of,
    benchmark_server,
    cpu_times,
    memory_figures,
    percentile,
    show,
)
from tests.benchmarks.sync_socket import SyncSocket, covers
from tests.end_to_end.server_process import ServerProcess

BALANCE = 1000
SEED_COUNT = 2000
SUM_COUNT = 10_000
CLIENTS_OF_SEEDING = 4
PICKS = 100_000

Pick = Callable[[], int]


class Transfers:
    """The load: one loop over all sessions."""

    def __init__(self, port: int, sessions: int, pick: Pick) -> None:
        self._pick = pick
        self._selector = selectors.DefaultSelector()
        self._sessions = [SyncSocket(port) for _ in range(sessions)]
        for session in self._sessions:
            self._selector.register(session, selectors.EVENT_READ, session)
        self._started_s: dict[SyncSocket, float] = {}
        self._responses: dict[SyncSocket, dict[str, object]] = {}
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    def run(self, seconds: float) -> float:
        """Keeps every session busy for that long, waits for the last ones, and returns how long it took."""
        begun_s = time.perf_counter()
        until_s = begun_s + seconds
        for session in self._sessions:
            self._start(session)
        while self._started_s:
            ready = self._selector.select(timeout=30)
            if not ready:
                raise TimeoutError(f"{len(self._started_s)} mutations have had no answer for 30 s")
            for key, _ in ready:
                self._receive(key.data, until_s)
        return time.perf_counter() - begun_s

    def _receive(self, session: SyncSocket, until_s: float) -> None:
        for message in session.receive():
            self._hear(session, message)
        if session not in self._started_s and time.perf_counter() < until_s:
            self._start(session)

    def close(self) -> None:
        self._selector.close()
        for session in self._sessions:
            session.close()

    def _start(self, session: SyncSocket) -> None:
        source = target = self._pick()
        while target == source:
            target = self._pick()
        self._started_s[session] = time.perf_counter()
        session.mutate("accounts:transfer", {"from_id": source, "to_id": target, "amount": 1})

    def _hear(self, session: SyncSocket, message: dict[str, object]) -> None:
        if message["type"] == "MutationResponse":
            if message["success"]:
                self._responses[session] = message
            else:
                self.failures.append(str(message["result"]))
                del self._started_s[session]
            return
        response = self._responses.get(session)
        if message["type"] == "Transition" and response is not None and covers(message, response):
            del self._responses[session]
            self.latencies_ms.append((time.perf_counter() - self._started_s.pop(session)) * 1000)


def uniform(accounts: int) -> Pick:
    return iter_of(lambda: random.choices(range(accounts), k=PICKS))


def zipf(accounts: int, alpha: float) -> Pick:
    """Account n is as likely as 1 / (n + 1) ** alpha."""
    sums = list(itertools.accumulate((number + 1) ** -alpha for number in range(accounts)))
    return iter_of(lambda: [bisect_left(sums, random.random() * sums[-1]) for _ in range(PICKS)])


def iter_of(batch: Callable[[], list[int]]) -> Pick:
    """Picks made many at a time, between two of which nothing is computed."""
    return itertools.chain.from_iterable(iter(batch, [])).__next__


def seed(port: int, accounts: int) -> None:
    sessions = [SyncSocket(port) for _ in range(CLIENTS_OF_SEEDING)]
    waiting: list[tuple[SyncSocket, int]] = []
    for first, session in zip(range(0, accounts, SEED_COUNT), itertools.cycle(sessions), strict=False):
        if len(waiting) == len(sessions):
            earlier, request_id = waiting.pop(0)
            earlier.wait_response(request_id)
        count = min(SEED_COUNT, accounts - first)
        waiting.append((session, session.mutate("accounts:seed", {"first": first, "count": count, "balance": BALANCE})))
    for session, request_id in waiting:
        session.wait_response(request_id)
    for session in sessions:
        session.close()


def total(port: int, accounts: int) -> int:
    session = SyncSocket(port)
    try:
        firsts = range(0, accounts, SUM_COUNT)
        return sum(int(session.query("accounts:total", {"first": first, "count": SUM_COUNT})) for first in firsts)
    finally:
        session.close()


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    seeded_s = time.perf_counter()
    seed(server.port, options.accounts)
    seeded_s = time.perf_counter() - seeded_s
    pick = uniform(options.accounts) if options.zipf is None else zipf(options.accounts, options.zipf)
    transfers = Transfers(server.port, options.sessions, pick)
    transfers.run(options.warmup)
    transfers.latencies_ms.clear()
    before, elapsed_s, done = cpu_times(server), 0.0, 0
    while elapsed_s < options.seconds:
        elapsed_s += transfers.run(min(options.interval or options.seconds, options.seconds - elapsed_s))
        if options.interval:
            count, done = len(transfers.latencies_ms) - done, len(transfers.latencies_ms)
            memory = ", ".join(f"{name} {value}" for name, value in memory_figures(server).items())
            print(f"  {elapsed_s:6.1f} s  {count} transfers  {memory}", flush=True)
    cpu = cpu_times(server).figures_since(before, elapsed_s, len(transfers.latencies_ms))
    latencies_ms = transfers.latencies_ms
    transfers.close()
    balances, expected = total(server.port, options.accounts), options.accounts * BALANCE
    return {
        "transfers/s": len(latencies_ms) / elapsed_s,
        "p50 ms": percentile(latencies_ms, 0.5),
        "p99 ms": percentile(latencies_ms, 0.99),
        "max ms": max(latencies_ms),
        "failed": len(transfers.failures),
        **cpu,
        **memory_figures(server),
        "sum of balances": f"{balances} ({'as seeded' if balances == expected else f'WRONG, {expected} expected'})",
        "transfers": len(latencies_ms),
        "seeded accounts/s": options.accounts / seeded_s,
        **({"first failure": transfers.failures[0]} if transfers.failures else {}),
    }


def main() -> None:
    parser = arguments_of("Transfers between accounts over websockets.")
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds before the measurement")
    parser.add_argument("--zipf", type=float, default=None, help="the exponent of a Zipf distribution of the accounts")
    parser.add_argument("--interval", type=float, default=None, help="also print what happened every so many seconds")
    options = parser.parse_args()
    with benchmark_server(options) as server:
        figures = measure(server, options)
    distribution = "uniform" if options.zipf is None else f"Zipf {options.zipf}"
    show(
        f"transfers, {options.accounts} accounts, {options.sessions} sessions, {distribution}",
        figures,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
