"""What all benchmarks share: a server of their own, what its processes use, percentiles, and the table at the end."""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.end_to_end.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
LEDGER = Path(__file__).parent / "ledger"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024

Figures = dict[str, object]


def arguments_of(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--workers", type=int, default=2, help="transaction workers")
    parser.add_argument("--command", choices=("serve", "dev"), default="serve", help="how the server is started")
    return parser


@contextmanager
def benchmark_server(options: argparse.Namespace, functions: Path = LEDGER) -> Iterator[ServerProcess]:
    """A server on a data folder of its own, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as folder:
        command, workers = options.command, options.workers
        with ServerProcess(functions, Path(folder) / "data", command=command, workers=workers) as server:
            yield server
            server.stop()


def show(title: str, figures: Figures, *, as_json: bool, rows: Mapping[str, Figures] | None = None) -> None:
    """`rows` are a table of their own, with the same columns in each; in JSON they are figures among the others."""
    if as_json:
        flat = {f"{row}: {name}": value for row, own in (rows or {}).items() for name, value in own.items()}
        print(json.dumps({"benchmark": title, **flat, **figures}))
        return
    print(title)
    if rows:
        print("\n".join(table(rows)))
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        print(f"  {name:{width}}  {spelt(value)}")


def table(rows: Mapping[str, Figures]) -> list[str]:
    """Its lines. A row that lacks a column has nothing there."""
    names = list(dict.fromkeys(name for own in rows.values() for name in own))
    cells = [["", *names], *([row, *(spelt(own.get(name, "")) for name in names)] for row, own in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells
    ]


def spelt(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    assert values, "there is nothing to take a percentile of"
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


# --- Processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of processor time since the start of each process: this one, the server, its workers together."""

    client_s: float
    server_s: float
    workers_s: float

    def since(self, earlier: CpuTimes) -> CpuTimes:
        return CpuTimes(
            self.client_s - earlier.client_s, self.server_s - earlier.server_s, self.workers_s - earlier.workers_s
        )

    @classmethod
    def sum_of(cls, times: Sequence[CpuTimes]) -> CpuTimes:
        client_s = sum(one.client_s for one in times)
        return cls(client_s, sum(one.server_s for one in times), sum(one.workers_s for one in times))

    def figures(self, elapsed_s: float, operations: int) -> Figures:
        """Shares of one processor (two are 200 %), and what one operation took of it on a machine that others use."""
        return {
            "CPU server %": round(100 * self.server_s / elapsed_s),
            "CPU workers %": round(100 * self.workers_s / elapsed_s),
            "CPU client %": round(100 * self.client_s / elapsed_s),
            "client ms each": round(1000 * self.client_s / operations, 3),
            "server ms each": round(1000 * self.server_s / operations, 3),
            "workers ms each": round(1000 * self.workers_s / operations, 3),
        }

    def figures_since(self, earlier: CpuTimes, elapsed_s: float, operations: int) -> Figures:
        return self.since(earlier).figures(elapsed_s, operations)


class Running(Protocol):
    """A server that runs, as a process with children."""

    @property
    def process(self) -> subprocess.Popen[Any]: ...

    def children(self) -> list[int]: ...


def cpu_times(server: Running) -> CpuTimes:
    own = resource.getrusage(resource.RUSAGE_SELF)
    workers_s = sum(cpu_s(pid) for pid in server.children())
    return CpuTimes(own.ru_utime + own.ru_stime, cpu_s(server.process.pid), workers_s)


def cpu_s(pid: int) -> float:
    """The processor time of one process, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def private_mib(pid: int) -> float:
    """RssAnon: memory that the process shares with nobody, the mapped store left out."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / MIB
    raise RuntimeError(f"/proc/{pid}/status has no RssAnon")


def memory_figures(server: Running) -> Figures:
    """Of the server and of its largest worker."""
    return {
        "RssAnon server MiB": round(private_mib(server.process.pid), 1),
        "RssAnon worker max MiB": round(max(map(private_mib, server.children())), 1),
    }
