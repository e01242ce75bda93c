"""What an idle server costs: the private memory (RssAnon) of each process, a while after the start.

uv run python -m tests.benchmarks.memory
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.benchmarks.measures import ROOT, Figures, arguments_of, benchmark_server, private_mib, show
from tests.end_to_end.server_process import ServerProcess


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    time.sleep(options.seconds)
    workers = {f"worker {pid} MiB": round(private_mib(pid), 1) for pid in sorted(server.children())}
    return {"server MiB": round(private_mib(server.process.pid), 1), **workers}


def main() -> None:
    parser = arguments_of("Measures the private memory of an idle server and its workers.")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long the server has been idle")
    parser.add_argument("--functions", type=Path, default=ROOT / "functions", help="the folder to serve")
    options = parser.parse_args()
    with benchmark_server(options, options.functions) as server:
        figures = measure(server, options)
    show("private memory, idle", figures, as_json=options.json)


if __name__ == "__main__":
    main()
