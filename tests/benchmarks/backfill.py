"""A new index over a table that has rows: how fast it is built when nobody else writes, and beside transfers.

The folder is served by `evolute dev`; saving its schema with one more index is what begins the change. Idle, it is
timed from the save until the reload. Under load the rows that have got their entries are counted in the store, while
the same transfers run as before the save: what they keep is told beside what they did without it, in the same run.

uv run python -m tests.benchmarks.backfill [--rows 200000] [--data FOLDER, to be seeded once] [--only idle]
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from evolute.database.index_work import IndexWork, work_from
from evolute.limits import Limits
from evolute.storage.keyspace import INDEX_WORK_RANGE
from evolute.storage.lmdb_engine import LmdbEngine
from tests.benchmarks.measures import LEDGER, Figures, arguments_of, cpu_times, percentile, show
from tests.benchmarks.pairs import uniform
from tests.benchmarks.transfer_load import Transfers
from tests.benchmarks.transfers import seed, total
from tests.end_to_end.server_process import ServerProcess

BUILT_S_MAX = 600.0
LOOK_S = 0.02
INDEX = 'define_table(Account).index("by_kind", ["kind", "number"])'
LOOSE = "class Account(Document):\n    kind: NotRequired[str]\n"


class Developer:
    """Saves the schema of a ledger, with the index and without."""

    def __init__(self, folder: Path) -> None:
        self.functions = folder / "functions"
        shutil.copytree(LEDGER, self.functions, dirs_exist_ok=True)
        text = (LEDGER / "schema.py").read_text()
        text = text.replace("from evolute import", "from typing import NotRequired\n\nfrom evolute import", 1)
        self._plain = text.replace("class Account(Document):\n", LOOSE)
        self._indexed = self._plain.replace("define_table(Account)", INDEX)
        assert self._indexed != self._plain != text
        self.save(indexed=False)

    def save(self, *, indexed: bool) -> None:
        (self.functions / "schema.py").write_text(self._indexed if indexed else self._plain)


class Progress:
    """What the store says of backfills and drops, while a server has it open."""

    def __init__(self, data: Path) -> None:
        self._engine = LmdbEngine(data / "store", Limits(), read_only=True)

    def rows(self) -> int | None:
        """The rows that have their entries; None if there is no backfill."""
        return max((work.rows for work in self._works() if not work.dropping), default=None)

    def is_dropping(self) -> bool:
        return any(work.dropping for work in self._works())

    def _works(self) -> list[IndexWork]:
        reader = self._engine.reader()
        try:
            return [work_from(value) for _, value in reader.scan(*INDEX_WORK_RANGE)]
        finally:
            reader.close()

    def close(self) -> None:
        self._engine.close()


def reloaded(server: ServerProcess, developer: Developer, *, indexed: bool) -> float:
    """Saves, and returns how many seconds later the folder was served."""
    before, begun_s = len(server.output), time.perf_counter()
    developer.save(indexed=indexed)
    server.wait_for(r"reloaded: \d+ functions", after=before, seconds=BUILT_S_MAX)
    return time.perf_counter() - begun_s


def wait_dropped(progress: Progress) -> float:
    begun_s = time.perf_counter()
    while progress.is_dropping():
        time.sleep(LOOK_S)
    return time.perf_counter() - begun_s


def measure_idle(server: ServerProcess, developer: Developer, progress: Progress, rows: int) -> Figures:
    built_s = reloaded(server, developer, indexed=True)
    size = server_bytes(server)
    plain_s = reloaded(server, developer, indexed=False)
    dropped_s = wait_dropped(progress)
    return {
        "idle rows/s": rows / built_s,
        "idle s, from save to reload": built_s,
        "of these a reload takes s": plain_s,
        "dropped entries/s": rows / (plain_s + dropped_s),
        "store MiB": size / 2**20,
    }


def server_bytes(server: ServerProcess) -> int:
    return (server.data / "store" / "data.mdb").stat().st_blocks * 512


def measure_load(
    server: ServerProcess, developer: Developer, progress: Progress, options: argparse.Namespace
) -> Figures:
    transfers = Transfers(server.port, options.sessions, uniform(options.rows))
    transfers.run(options.warmup)
    plain = measured(server, transfers, options.seconds)
    developer.save(indexed=True)
    while progress.rows() is None:  # the new workers start, beside the transfers
        transfers.run(LOOK_S)
    before, begun_s = progress.rows(), time.perf_counter()
    beside = measured(server, transfers, options.seconds)
    after, elapsed_s = progress.rows(), time.perf_counter() - begun_s
    transfers.close()
    assert not transfers.failures, transfers.failures[0]
    reloaded(server, developer, indexed=False)
    if after is None:
        raise SystemExit("the index was built before the time was over: take more --rows or fewer --seconds")
    assert before is not None
    kept = 100 * float(str(beside["transfers/s"])) / float(str(plain["transfers/s"]))
    balances = total(server.port, options.rows)
    return {
        "backfilled rows/s beside transfers": (after - before) / elapsed_s,
        "transfers kept %": kept,
        **{f"without: {name}": value for name, value in plain.items()},
        **{f"beside: {name}": value for name, value in beside.items()},
        "sum of balances": "as seeded" if balances == options.rows * 1000 else f"WRONG: {balances}",
    }


def measured(server: ServerProcess, transfers: Transfers, seconds: float) -> Figures:
    transfers.latencies_ms.clear()
    before = cpu_times(server)
    elapsed_s = transfers.run(seconds)
    latencies_ms = transfers.latencies_ms
    return {
        "transfers/s": len(latencies_ms) / elapsed_s,
        "p50 ms": percentile(latencies_ms, 0.5),
        "p99 ms": percentile(latencies_ms, 0.99),
        "max ms": max(latencies_ms),
        **cpu_times(server).figures_since(before, elapsed_s, len(latencies_ms)),
    }


@contextlib.contextmanager
def seeded_server(options: argparse.Namespace) -> Iterator[tuple[ServerProcess, Developer, Progress]]:
    with tempfile.TemporaryDirectory(prefix="evolute-backfill-") as folder:
        developer = Developer(Path(folder))
        data = Path(folder) / "data" if options.data is None else Path(options.data)
        is_seeded = (data / "seeded").exists()
        with ServerProcess(developer.functions, data, command="dev", workers=options.workers) as server:
            if not is_seeded:
                seed(server.port, options.rows)
                (data / "seeded").write_text(str(options.rows))
            assert int((data / "seeded").read_text()) == options.rows, "the folder was seeded with other --rows"
            progress = Progress(data)
            try:
                yield server, developer, progress
            finally:
                progress.close()
            server.stop()


def main() -> None:
    parser = arguments_of("Backfill of one index, idle and beside transfers.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each phase under load")
    parser.add_argument("--warmup", type=float, default=3.0)
    parser.add_argument("--data", default=None, help="a folder to be seeded once and used again")
    parser.add_argument("--only", choices=("seed", "idle", "load"), default=None)
    options = parser.parse_args()
    figures: Figures = {}
    with seeded_server(options) as (server, developer, progress):
        if options.only in (None, "idle"):
            figures |= measure_idle(server, developer, progress, options.rows)
        if options.only in (None, "load"):
            figures |= measure_load(server, developer, progress, options)
    if figures:
        show(f"backfill of one index over {options.rows} rows", figures, as_json=options.json)


if __name__ == "__main__":
    main()
