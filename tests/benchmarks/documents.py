"""Transfers among few documents and among many: the same code on two stores, which take turns.

Both stores lie in the page cache: they have just been written, and the larger one is read once more. Every transfer is
between two accounts that were drawn for it alone, so most of what it touches has not been touched before. The tree of
the larger store is deeper, more of its pages change in one commit, and fewer are in a processor's own cache.

uv run python -m tests.benchmarks.documents [--many 3000000]
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.benchmarks.measures import LEDGER, Figures, arguments_of, memory_figures, show
from tests.benchmarks.pairs import PAIRS, Pairs
from tests.benchmarks.transfer_load import SessionTeller, TransferLoad
from tests.benchmarks.transfers import BALANCE, seed, total
from tests.benchmarks.turns import Contestant, Turns, figures_of, ratio, take_turns
from tests.end_to_end.server_process import ServerProcess

OF_FEW_MIN = 0.75
STORE_BYTES_PER_ACCOUNT = 700
READ_BYTES = 1 << 22


def drawn(accounts: int, chance: random.Random) -> Pairs:
    return [(first, second) for first, second in (chance.sample(range(accounts), 2) for _ in range(PAIRS))]


def store_of(server: ServerProcess) -> Path:
    return server.data / "store" / "data.mdb"


def warm(path: Path) -> None:
    """Reads the file, and so it is in the page cache."""
    with path.open("rb") as file:
        while file.read(READ_BYTES):
            pass


def require_room(accounts: int, folder: Path) -> None:
    wanted, free = accounts * STORE_BYTES_PER_ACCOUNT, shutil.disk_usage(folder).free
    if wanted * 2 > free:
        raise SystemExit(f"{accounts} accounts take about {wanted} bytes, and {folder} has {free} left")


def contestant(name: str, server: ServerProcess, accounts: int, sessions: int) -> Contestant:
    chance = random.Random(accounts)

    def connect() -> TransferLoad:
        return TransferLoad([SessionTeller(server.port) for _ in range(sessions)], drawn(accounts, chance))

    return Contestant(name, server, connect)


def measure(options: argparse.Namespace) -> tuple[dict[str, Figures], Figures]:
    with ExitStack() as stack:
        found: dict[str, tuple[ServerProcess, int]] = {}
        figures: Figures = {}
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evolute-benchmark-")))
        for accounts in (options.few, options.many):
            data, name = folder / str(accounts), f"{accounts} documents"
            is_seeded = data.exists()
            require_room(0 if is_seeded else accounts, folder)
            server = stack.enter_context(ServerProcess(LEDGER, data, command=options.command, workers=options.workers))
            stack.callback(server.stop)
            if not is_seeded:
                begun_s = time.perf_counter()
                seed(server.port, accounts)
                figures[f"{name}: seeded/s"] = round(accounts / (time.perf_counter() - begun_s))
            warm(store_of(server))
            found[name] = server, accounts
        if options.only_seed:
            return {}, figures
        contestants = [contestant(name, *pair, options.sessions) for name, pair in found.items()]
        turns = take_turns(contestants, options.rounds, options.seconds, options.warmup, tell=options.tell)
        for name, (server, accounts) in found.items():
            sums = partial(total, server.port, accounts)
            figures[f"{name}: store MiB"] = round(store_of(server).stat().st_size / (1 << 20))
            figures[f"{name}: RssAnon server MiB"] = memory_figures(server)["RssAnon server MiB"]
            figures[f"{name}: sum of balances"] = "as seeded" if sums() == accounts * BALANCE else "WRONG"
        return {name: figures_of(own) for name, own in turns.items()}, {**ratios(turns), **figures}


def ratios(turns: Turns) -> Figures:
    few, many = turns.values()
    by_rounds = " ".join(f"{there.per_s / here.per_s:.2f}" for here, there in zip(few, many, strict=True))
    return {f"many beside few (at least {OF_FEW_MIN})": ratio(many, few), "by rounds": by_rounds}


def main() -> None:
    parser = arguments_of("Measures transfers among few documents and among many.")
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=3_000_000)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each; the median counts")
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds of each before the measurement")
    parser.add_argument("--tell", action="store_true", help="also print what happened in every turn")
    parser.add_argument("--folder", type=Path, default=None, help="where the stores lie, to be seeded once")
    parser.add_argument("--only-seed", action="store_true", help="measure nothing")
    options = parser.parse_args()
    rows, figures = measure(options)
    show(f"transfers, {options.sessions} sessions", figures, as_json=options.json, rows=rows)


if __name__ == "__main__":
    main()
