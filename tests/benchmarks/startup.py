"""How long a developer waits: `evolute dev` until it answers, and a saved file until its code is served.

The start runs from the command until the first successful GET /version, on a new data folder and on one that was used
before. A save runs from writing the file until a subscribed client has the new code's result.

uv run python -m tests.benchmarks.startup
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measures import LEDGER, ROOT, Figures, arguments_of, percentile, show
from tests.benchmarks.sockets import free_port
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

START_S_MAX = 20.0
POLL_S = 0.002
PAUSE_S = 0.5
VERSION_REQUEST = b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
MODULE = """\
from evolute import QueryCtx, query


@query
def number(ctx: QueryCtx) -> int:
    return {number}
"""


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=START_S_MAX) as client:
            client.sendall(VERSION_REQUEST)
            return client.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def start_ms(functions: Path, data: Path, workers: int) -> float:
    port, begun_s = free_port(), time.perf_counter()
    server = ServerProcess(functions, data, port=port, workers=workers)
    try:
        while not answers(port):
            if time.perf_counter() - begun_s > START_S_MAX:
                raise TimeoutError(server.output)
            time.sleep(POLL_S)
        return (time.perf_counter() - begun_s) * 1000
    finally:
        server.stop()


def saves_ms(folder: Path, rounds: int, workers: int) -> list[float]:
    functions = folder / "functions"
    shutil.copytree(LEDGER, functions, ignore=shutil.ignore_patterns("__pycache__"))
    (functions / "saved.py").write_text(MODULE.format(number=0))
    times_ms: list[float] = []
    with ServerProcess(functions, folder / "saves", workers=workers) as server:
        client = SyncSocket(server.port)
        query_id = client.subscribe("saved:number", {})
        client.wait_update(query_id, 0)
        for number in range(1, rounds + 1):
            time.sleep(PAUSE_S)
            begun_s = time.perf_counter()
            (functions / "saved.py").write_text(MODULE.format(number=number))
            client.wait_update(query_id, number)
            times_ms.append((time.perf_counter() - begun_s) * 1000)
        client.close()
        server.stop()
    return times_ms


def measure(options: argparse.Namespace) -> Figures:
    rounds, workers = options.rounds, options.workers
    with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as name:
        folder = Path(name)
        new = [start_ms(options.functions, folder / f"new-{number}", workers) for number in range(rounds)]
        used = [start_ms(options.functions, folder / "new-0", workers) for _ in range(rounds)]
        saves = saves_ms(folder, rounds, workers)
    figures: Figures = {}
    for name, times_ms in (("start, new data", new), ("start, used data", used), ("save to push", saves)):
        figures[f"{name} p50 ms"] = percentile(times_ms, 0.5)
        figures[f"{name} max ms"] = max(times_ms)
    return {**figures, "rounds": rounds}


def main() -> None:
    parser = arguments_of("Measures starts of the development server and reloads.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--functions", type=Path, default=ROOT / "functions", help="the folder to start with")
    options = parser.parse_args()
    show("startup and reload", measure(options), as_json=options.json)


if __name__ == "__main__":
    main()
