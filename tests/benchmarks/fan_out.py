"""One mutation and all who must hear of it: N sessions of one query, and N queries of which it touches one.

    one query       from before a mutation is sent until the last of N sessions has been sent its effect
    many queries    the same until the only one of N sessions hears of it whose query was touched; each of the others
                    watches another note. Its session may watch many: so many more of which none is touched.

The client looks for the new text in what arrives, which leaves as much of the processors to the server as a client in
Python can; its share is in the table.

uv run python -m tests.benchmarks.fan_out [--sessions 1000]
"""

from __future__ import annotations

import argparse
import resource
import selectors
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_times, percentile, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

P99_MS_MAX = 60
TARGET_SESSIONS = 1000
NOTE = "fan-out"
WAIT_S = 60.0


class Watchers:
    """Sockets that have subscribed. What arrives is searched and not read."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._tails: dict[SyncSocket, bytes] = {}

    def add(self, session: SyncSocket) -> None:
        self._tails[session] = b""
        self._selector.register(session, selectors.EVENT_READ)

    def wait_seen(self, text: str, count: int) -> None:
        """Returns when so many have been sent `text`."""
        needle = text.encode()
        left = count
        while left > 0:
            found = self._selector.select(WAIT_S)
            assert found, f"{left} of {count} sessions have not been sent {text!r}"
            for key, _ in found:
                session = key.fileobj
                assert isinstance(session, SyncSocket)
                seen = self._tails[session] + session.receive_bytes()
                if needle in seen:
                    left -= 1
                    seen = b""
                self._tails[session] = seen[-len(needle) :]

    def close(self) -> None:
        self._selector.close()


@contextmanager
def watching(port: int, names: list[str], more: int = 0) -> Iterator[Watchers]:
    """A session for each name; the first has so many other queries beside it."""
    sessions: list[SyncSocket] = []
    watchers = Watchers()
    try:
        for place, name in enumerate(names):
            session = SyncSocket(port)
            sessions.append(session)
            others = [{"name": f"beside {number}"} for number in range(more)] if place == 0 else []
            last = session.subscribe_all("notes:read", [{"name": name}, *others]) + len(others)
            session.wait_update(last)
            watchers.add(session)
        yield watchers
    finally:
        for session in sessions:
            session.close()
        watchers.close()


def measure(server: ServerProcess, names: list[str], seeing: int, options: argparse.Namespace, more: int) -> Figures:
    writer = SyncSocket(server.port)
    writer.wait_response(writer.mutate("notes:write", {"name": NOTE, "body": "first"}))
    times_ms: list[float] = []
    with watching(server.port, names, more) as watchers:
        for number in range(-options.warm_up, options.mutations):
            if number == 0:
                used = cpu_times(server)
            text = f"text {number + options.warm_up:06}."
            begun_s = time.perf_counter()
            writer.mutate("notes:write", {"name": NOTE, "body": text})
            watchers.wait_seen(text, seeing)
            times_ms.append((time.perf_counter() - begun_s) * 1000)
            writer.receive()
            time.sleep(options.pause)
        now_used = cpu_times(server)
    writer.close()
    del times_ms[: options.warm_up]
    return {
        "p50 ms": percentile(times_ms, 0.5),
        "p99 ms": percentile(times_ms, 0.99),
        "CPU server ms": 1000 * (now_used.server_s - used.server_s) / options.mutations,
        "CPU client ms": 1000 * (now_used.client_s - used.client_s) / options.mutations,
    }


def main() -> None:
    parser = arguments_of("Measures how fast a mutation reaches those who watch what it changes.")
    parser.add_argument("--sessions", type=int, nargs="+", default=[100, TARGET_SESSIONS, 5000])
    parser.add_argument("--mutations", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=10, help="mutations before")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between two of them")
    parser.add_argument("--beside", type=int, default=1000, help="queries of the session that is touched")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: Figures = {}
    for count in options.sessions:
        target = f" (< {P99_MS_MAX})" if count == TARGET_SESSIONS else ""
        with benchmark_server(options) as server:
            for name, value in measure(server, [NOTE] * count, count, options, 0).items():
                figures[f"one query, {count:,} sessions: {name}{target if name == 'p99 ms' else ''}"] = value
            different = [NOTE, *(f"note {number}" for number in range(count - 1))]
            for more in (0, options.beside):
                title = f"{count:,} queries, one is touched" + (f", {more:,} beside it" if more else "")
                for name, value in measure(server, different, 1, options, more).items():
                    figures[f"{title}: {name}"] = value
    show("fan-out", figures, as_json=options.json)


if __name__ == "__main__":
    main()
