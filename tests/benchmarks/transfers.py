"""Transfers between accounts: 64 clients, each with one mutation in flight, and the disk synced for every batch.

A transfer reads two accounts through an index and patches both. Over a websocket it has ended when a client's promise
would resolve: with the first Transition that is not older than its response. In the end the balances must add up to
what they were.

With `--peers` the same transfers are done beside it, in turns, by what a user would pick instead (peers/accounts.py:
SQLite in WAL mode, every commit synced, behind FastAPI or a Starlette websocket), and their requests are sent back by
a raw ASGI application, which is the ceiling. The load is one loop for all; its share of the processors is in the table.

uv run python -m tests.benchmarks.transfers --zipf 0 1.5 --peers
uv run python -m tests.benchmarks.transfers --over websocket --rounds 20 --seconds 30 --tell
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.measures import Figures, Running, arguments_of, benchmark_server, memory_figures, show
from tests.benchmarks.pairs import zipf
from tests.benchmarks.peers.environment import Unavailable, install
from tests.benchmarks.peers.server import PeerServer
from tests.benchmarks.sync_socket import SyncSocket
from tests.benchmarks.transfer_load import (
    CALL,
    ORDER,
    HttpTeller,
    SessionTeller,
    SocketTeller,
    Teller,
    TransferLoad,
    is_done,
    is_echo,
    is_success,
)
from tests.benchmarks.turns import Contestant, Turns, figures_of, ratio, take_turns, with_turns

BALANCE = 1000
SEED_COUNT = 2000
SUM_COUNT = 10_000
CLIENTS_OF_SEEDING = 4

PEERS = ("starlette", "fastapi", "echo")
OURS = ("websocket", "HTTP")
BESIDE = {
    "websocket": ("Starlette + SQLite", "websocket echo"),
    "Starlette + SQLite": ("", "websocket echo"),
    "HTTP": ("FastAPI + SQLite", "HTTP echo"),
    "FastAPI + SQLite": ("", "HTTP echo"),
}
WANTED = {"of peer": "at least 1.5", "of alpha 0": "at least 0.8", "p99 / p50": "under 10"}


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


# --- Who takes part ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """To ask for transfers: who serves them, what a client is, and how the sum of the balances is asked for."""

    name: str
    server: Running
    teller: Callable[[], Teller]
    total: Callable[[], int] | None = None

    def contestant(self, alpha: float, options: argparse.Namespace) -> Contestant:
        pairs, sessions = zipf(options.accounts, alpha), options.sessions
        name = distributed(self.name, alpha)
        return Contestant(name, self.server, lambda: TransferLoad([self.teller() for _ in range(sessions)], pairs))


def our_ways(stack: ExitStack, options: argparse.Namespace) -> Iterator[Way]:
    server = stack.enter_context(benchmark_server(options))
    seed(server.port, options.accounts)
    sum_of = partial(total, server.port, options.accounts)
    if "websocket" in options.over:
        yield Way("websocket", server, partial(SessionTeller, server.port), sum_of)
    if "http" in options.over:
        path = "/api/mutation?format=json"
        yield Way("HTTP", server, partial(HttpTeller, server.port, path, CALL, is_success), sum_of)


def peers_ways(stack: ExitStack, options: argparse.Namespace, name: str) -> Iterator[Way]:
    """Only FastAPI has to be installed; the others run on what evolute itself needs. Raises Unavailable."""
    if name == "echo":
        echo = stack.enter_context(PeerServer("echo_server"))
        if "websocket" in options.over:
            yield Way("websocket echo", echo, partial(SocketTeller, echo.port, is_echo))
        if "http" in options.over:
            yield Way("HTTP echo", echo, partial(HttpTeller, echo.port, "/", ORDER, is_echo))
        return
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evolute-peer-")))
    python = install(name, folder / "environment") if name == "fastapi" else Path(sys.executable)
    server = PeerServer(f"{name}_server", folder, options.accounts, BALANCE, python=python)
    port = stack.enter_context(server).port
    sum_of = partial(peers_total, port)
    if name == "starlette":
        yield Way("Starlette + SQLite", server, partial(SocketTeller, port, is_done), sum_of)
    else:
        yield Way("FastAPI + SQLite", server, partial(HttpTeller, port, "/transfer", ORDER, is_done), sum_of)


def peers_total(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/total")
        return int(connection.getresponse().read())
    finally:
        connection.close()


def all_ways(stack: ExitStack, options: argparse.Namespace) -> tuple[list[Way], Figures]:
    """And why some are missing."""
    ways, missing = list(our_ways(stack, options)), Figures()
    for name in peers_of(options):
        try:
            ways += peers_ways(stack, options, name)
        except Unavailable as error:
            missing[name] = f"not installed: {error}"
    return ways, missing


def peers_of(options: argparse.Namespace) -> list[str]:
    if options.peers is None:
        return []
    beside = {"websocket": "starlette", "http": "fastapi"}
    return options.peers or [*(beside[over] for over in options.over), "echo"]


# --- The figures ------------------------------------------------------------------------------------------------------


def distributed(name: str, alpha: float) -> str:
    return f"{name}, Zipf {alpha:g}" if alpha else name


def rows_of(ways: Sequence[Way], alphas: Sequence[float], turns: Turns) -> dict[str, Figures]:
    """The table: each with its peer, with what it echoes, and with the same without contention, as far as they ran."""
    rows: dict[str, Figures] = {}
    for alpha in alphas:
        for way in ways:
            name, (peer, echo) = distributed(way.name, alpha), BESIDE.get(way.name, ("", ""))
            others = {"of peer": distributed(peer, alpha), "of echo": distributed(echo, alpha)}
            if alpha:
                others["of alpha 0"] = way.name
            ratios = {column: ratio(turns[name], turns[other]) for column, other in others.items() if other in turns}
            rows[name] = {**figures_of(turns[name]), **ratios}
    return rows


def wanted(rows: Mapping[str, Figures], alphas: Sequence[float]) -> Figures:
    """What is to be reached, and what was."""
    figures: Figures = {}
    for name, alpha in itertools.product(OURS, alphas):
        row = rows.get(distributed(name, alpha), {})
        for column, limit in WANTED.items():
            if column in row:
                figures[f"{distributed(name, alpha)}, {column} ({limit})"] = row[column]
    return figures


def totals_of(ways: Sequence[Way]) -> dict[str, int]:
    return {way.name: way.total() for way in ways if way.total is not None}


def sums(totals: Mapping[str, int], expected: int) -> Figures:
    return {
        f"{name}, sum of balances": "as seeded" if found == expected else f"WRONG: {found}, not {expected}"
        for name, found in totals.items()
    }


def measure(options: argparse.Namespace) -> tuple[dict[str, Figures], Figures]:
    """The rows of the table, and what stands beneath it."""
    with ExitStack() as stack:
        ways, missing = all_ways(stack, options)
        contestants = [way.contestant(alpha, options) for alpha in options.zipf for way in ways]
        turns = take_turns(contestants, options.rounds, options.seconds, options.warmup, tell=options.tell)
        rows = rows_of(ways, options.zipf, turns)
        failures = [failure for own in turns.values() for turn in own for failure in turn.failures]
        return rows, {
            **wanted(rows, options.zipf),
            **sums(totals_of(ways), options.accounts * BALANCE),
            **memory_figures(ways[0].server),
            **missing,
            **({"first failure": failures[0]} if failures else {}),
        }


def parser(description: str) -> argparse.ArgumentParser:
    parser = arguments_of(description)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--sessions", type=int, default=64, help="clients, with one transfer in flight each")
    parser.add_argument("--over", nargs="+", choices=("websocket", "http"), default=["websocket", "http"])
    parser.add_argument("--zipf", type=float, nargs="+", default=[0.0], help="exponents of distributions of accounts")
    parser.add_argument("--peers", nargs="*", choices=PEERS, metavar="PEER", help="all, or those named")
    return with_turns(parser, seconds=5.0, warmup=1.0)


def main() -> None:
    options = parser("Transfers between accounts, over websockets and over HTTP.").parse_args()
    rows, figures = measure(options)
    show(
        f"transfers, {options.accounts} accounts, {options.sessions} clients", figures, as_json=options.json, rows=rows
    )


if __name__ == "__main__":
    main()
