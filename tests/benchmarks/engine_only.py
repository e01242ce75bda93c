"""Transfers without sockets, and in turns with them the same over websockets and HTTP: what the wire costs.

The engine is a process of its own (engine_process.py), with its workers, and a store of its own.

uv run python -m tests.benchmarks.engine_only
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.benchmarks import transfers
from tests.benchmarks.measures import ROOT, Figures, show
from tests.benchmarks.turns import Contestant, figures_of, ratio, take_turns
from tests.end_to_end.server_process import children_of

STOP_S_MAX = 30.0


class Engine:
    """The process, while the block runs."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        numbers = (options.accounts, transfers.BALANCE, options.sessions, options.workers)
        command = [sys.executable, "-m", "tests.benchmarks.engine_process", str(folder), *map(str, numbers)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the engine has ended with {self.process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """It ends with its input; its workers, too."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(STOP_S_MAX)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


class EngineLoad:
    """What a Load is to a server."""

    def __init__(self, engine: Engine, alpha: float) -> None:
        self._engine = engine
        self._alpha = alpha
        self.latencies_ms: Sequence[float] = ()
        self.failures: Sequence[str] = ()

    def run(self, seconds: float) -> float:
        found = self._engine.ask(f"run {seconds} {self._alpha}")
        self.latencies_ms, self.failures = found["latencies_ms"], found["failures"]
        elapsed_s: float = found["elapsed_s"]
        return elapsed_s

    def close(self) -> None:
        pass


def measure(options: argparse.Namespace) -> tuple[dict[str, Figures], Figures]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="evolute-benchmark-"))
        engine = stack.enter_context(Engine(Path(folder) / "data", options))
        engine.ask("total")  # it has been seeded
        ways, missing = transfers.all_ways(stack, options)
        contestants: list[Contestant] = []
        names: list[tuple[str, str]] = []
        for alpha in options.zipf:
            mine = transfers.distributed("engine", alpha)
            contestants.append(Contestant(mine, engine, partial(EngineLoad, engine, alpha)))
            for way in ways:
                contestants.append(way.contestant(alpha, options))
                names.append((mine, contestants[-1].name))
        turns = take_turns(contestants, options.rounds, options.seconds, options.warmup, tell=options.tell)
        totals = {"engine": round(engine.ask("total")), **transfers.totals_of(ways)}
        return {name: figures_of(own) for name, own in turns.items()}, {
            **{f"{name} / {mine}": ratio(turns[name], turns[mine]) for mine, name in names},
            **transfers.sums(totals, options.accounts * transfers.BALANCE),
            **missing,
        }


def main() -> None:
    options = transfers.parser("Transfers without sockets, and beside it with them.").parse_args()
    rows, figures = measure(options)
    show(
        f"engine only, {options.accounts} accounts, {options.sessions} clients",
        figures,
        as_json=options.json,
        rows=rows,
    )


if __name__ == "__main__":
    main()
