"""What live subscriptions cost that a commit does not touch, and what each of them takes of the server's memory.

    commit    one client writes a note that nobody watches, one mutation after the other, while so many other notes are
              watched: the processor time of the server for each, more than that of a server that has no subscriptions,
              and what the client waits. The servers take turns, because the machine is not equally fast all the time.
    stab      the part of it that asks the subscriptions, called by itself in this process with read sets of that shape
    memory    of the server process (RssAnon), more with the subscriptions than without, for each of them: what the
              session keeps of the query that it watches is in it

uv run python -m tests.benchmarks.invalidation [--subscriptions 100000]
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscriptions, Token
from evolute.database.write_log import new_write_log
from evolute.limits import Limits
from evolute.storage.keyspace import DEPLOYMENT, document_key, index_prefix, prefix_range, session_record_key, table_key
from evolute.values.key_codec import encode_key
from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_s, percentile, private_mib, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

ADDED_US_MAX = 40
BYTES_MAX = 2048
PER_SESSION = 1000
STABS = 20_000
UNWATCHED = "an unwatched note"


class Watched:
    """A server of which so many notes are watched, and a client that writes another one."""

    def __init__(self, server: ServerProcess, subscriptions: int) -> None:
        self._pid = server.process.pid
        self.subscriptions = subscriptions
        self._writer = SyncSocket(server.port)
        self.latencies_ms: list[float] = []
        self.cpu_s = 0.0
        self.write(200)  # what is allocated once, is
        before = private_mib(self._pid)
        self._sessions = [
            _watching(server.port, first, min(PER_SESSION, subscriptions - first))
            for first in range(0, subscriptions, PER_SESSION)
        ]
        time.sleep(0.5)
        self.memory_bytes = (private_mib(self._pid) - before) * 1024 * 1024

    def write(self, count: int) -> None:
        """Adds to `latencies_ms`, and to `cpu_s` what the server has used of the processors."""
        begun_s = cpu_s(self._pid)
        for number in range(count):
            sent_s = time.perf_counter()
            self._writer.wait_response(self._writer.mutate("notes:write", {"name": UNWATCHED, "body": str(number)}))
            self.latencies_ms.append((time.perf_counter() - sent_s) * 1000)
        self.cpu_s += cpu_s(self._pid) - begun_s

    @property
    def cpu_us(self) -> float:
        """Of one mutation."""
        return self.cpu_s / len(self.latencies_ms) * 1e6

    def forget(self) -> None:
        self.latencies_ms, self.cpu_s = [], 0.0

    def close(self) -> None:
        for session in (self._writer, *self._sessions):
            session.close()


def _watching(port: int, first: int, count: int) -> SyncSocket:
    session = SyncSocket(port)
    session.subscribe_all("notes:read", [{"name": f"note {number:06}"} for number in range(first, first + count)])
    session.wait_update(count - 1)
    return session


def measure(stack: ExitStack, options: argparse.Namespace) -> Figures:
    found: list[Watched] = []
    for subscriptions in (0, *options.subscriptions):
        watched = Watched(stack.enter_context(benchmark_server(options)), subscriptions)
        stack.callback(watched.close)
        watched.forget()
        found.append(watched)
    for _ in range(options.rounds):
        for watched in found:
            watched.write(options.mutations)
    none = found[0]
    figures: Figures = {}
    for watched in found:
        name = f"{watched.subscriptions:,}"
        figures[f"{name}: a commit, server CPU us"] = watched.cpu_us
        if watched is not none:
            figures[f"{name}: more than with none, us (< {ADDED_US_MAX})"] = watched.cpu_us - none.cpu_us
            figures[f"{name}: of it stab, us"] = stab_us(watched.subscriptions)
            figures[f"{name}: bytes each (< {BYTES_MAX})"] = round(watched.memory_bytes / watched.subscriptions)
        figures[f"{name}: a commit, p50 ms"] = percentile(watched.latencies_ms, 0.5)
    return figures


def stab_us(count: int) -> float:
    """`Subscriptions.publish` with what such a mutation touches, the fastest of some rounds."""
    log, _ = new_write_log(0, Limits())
    subscriptions = Subscriptions(log, Limits())
    for number in range(count):
        read_set = ReadSet()
        read_set.add_point(DEPLOYMENT)
        read_set.add_point(table_key("notes"))
        read_set.add_range(*prefix_range(index_prefix(7, encode_key((f"note {number:06}",)))))
        subscriptions.subscribe(Token(read_set, 0), lambda ts: None)
    note = bytes(16)
    by_name, by_creation = (index_prefix(7, encode_key((UNWATCHED,))), index_prefix(6, encode_key((1e12,))))
    touched = [document_key(3, note), by_name + note, by_creation + note, session_record_key("session", 1)]
    best_s = float("inf")
    for number in range(5):
        begun_s = time.perf_counter()
        for ts in range(STABS):
            subscriptions.publish(number * STABS + ts + 1, touched)
        best_s = min(best_s, time.perf_counter() - begun_s)
    return best_s / STABS * 1e6


def main() -> None:
    parser = arguments_of("Measures what subscriptions cost that no commit touches.")
    parser.add_argument("--subscriptions", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--mutations", type=int, default=300, help="of each turn")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each server")
    options = parser.parse_args()
    with ExitStack() as stack:
        figures = measure(stack, options)
    show("subscriptions that no commit touches", figures, as_json=options.json)


if __name__ == "__main__":
    main()
