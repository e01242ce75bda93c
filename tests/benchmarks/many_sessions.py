"""A thousand sessions of one query: what an idle one costs, how fast all hear of a commit, and how they come back.

    memory     of the server process (RSS), more with the sessions than without, for each of them
    fan-out    from before a mutation is sent until the last session has its effect
    restart    the server is killed and started again; from the moment it listens until every session, which comes back
               at once with what it has seen, has been shown the present

The client's part, a thousand sockets in one process, is in all of these times.

uv run python -m tests.benchmarks.many_sessions
"""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.measures import LEDGER, MIB, Figures, arguments_of, cpu_times, percentile, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

NOTE = "fan-out"
KIB = 1024


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


class Crowd:
    """Sessions that watch one note."""

    def __init__(self, port: int, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._sessions = [SyncSocket(port) for _ in range(count)]
        for session in self._sessions:
            self._selector.register(session, selectors.EVENT_READ, session)
            session.subscribe("notes:read", {"name": NOTE})

    def wait_all_see(self, body: str | None) -> None:
        """Returns when every session has been shown `body`."""
        left = set(self._sessions)
        while left:
            for key, _ in self._selector.select(60):
                if body in shown(key.data):
                    left.discard(key.data)

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        self._selector.close()


def shown(session: SyncSocket) -> Collection[object]:
    """The values in what has arrived."""
    return [modification["value"] for message in session.receive() for modification in message.get("modifications", ())]


@contextmanager
def crowd(port: int, count: int) -> Iterator[Crowd]:
    found = Crowd(port, count)
    try:
        yield found
    finally:
        found.close()


def measure_crowd(server: ServerProcess, options: argparse.Namespace) -> Figures:
    writer = SyncSocket(server.port)
    writer.wait_response(writer.mutate("notes:write", {"name": NOTE, "body": "first"}))
    with crowd(server.port, options.sessions // 10) as few:  # what is allocated once, is
        few.wait_all_see("first")
    time.sleep(options.pause)
    before = rss_bytes(server.process.pid)
    with crowd(server.port, options.sessions) as sessions:
        sessions.wait_all_see("first")
        time.sleep(options.pause)
        idle = rss_bytes(server.process.pid)
        times_ms: list[float] = []
        used = cpu_times(server)
        for number in range(options.mutations):
            begun_s = time.perf_counter()
            writer.mutate("notes:write", {"name": NOTE, "body": str(number)})
            sessions.wait_all_see(str(number))
            times_ms.append((time.perf_counter() - begun_s) * 1000)
            writer.receive()
        now_used = cpu_times(server)
        after = rss_bytes(server.process.pid)
    writer.close()
    return {
        "KiB per idle session (< 64)": (idle - before) / KIB / options.sessions,
        "KiB per session after the mutations": (after - before) / KIB / options.sessions,
        "all have it, p50 ms (150)": percentile(times_ms, 0.5),
        "all have it, max ms": max(times_ms),
        "CPU ms of the server each": 1000 * (now_used.server_s - used.server_s) / options.mutations,
        "CPU ms of the client each": 1000 * (now_used.client_s - used.client_s) / options.mutations,
        "server RSS MiB": after / MIB,
    }


def measure_restart(server: ServerProcess, options: argparse.Namespace) -> Figures:
    """`server` is a new one on the data folder and the port of one that was killed, and listens."""
    begun_s = time.perf_counter()
    with crowd(server.port, options.sessions) as sessions:
        sessions.wait_all_see(str(options.mutations - 1))
        elapsed_s = time.perf_counter() - begun_s
    return {"all are back, s (5)": elapsed_s}


def main() -> None:
    parser = arguments_of("Measures a crowd of sessions that watch one query.")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--mutations", type=int, default=20)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds for which the sessions are idle")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as folder:
        data = Path(folder) / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with ServerProcess(LEDGER, data, command=options.command, port=port, workers=options.workers) as server:
            figures = measure_crowd(server, options)
            server.kill()
        with ServerProcess(LEDGER, data, command=options.command, port=port, workers=options.workers) as server:
            figures |= measure_restart(server, options)
            server.stop()
    show(f"{options.sessions} sessions of one query", figures, as_json=options.json)


if __name__ == "__main__":
    main()
