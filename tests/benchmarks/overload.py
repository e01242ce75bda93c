"""Transfers that arrive twice as fast as they can be run: an open loop, which waits for no answer to send more.

    sustainable   what 64 clients get that each wait for their answer; the measure of what follows
    before        half of that arrives
    overload      twice that arrives: the queue fills, latency grows until it is full, and the excess is refused
    after         half again, from one second to the next

A call's latency counts from when it was due. Who is refused is gone: over HTTP with a 503 of `Overloaded`, over the
websocket with a close frame of that reason, and its session is opened again three seconds later, as clients do. A call
that finds all of this program's connections busy is not sent at all. The longest queue is made short, so that a few
seconds fill it. In the end the balances must add up.

uv run python -m tests.benchmarks.overload [--over websocket]
"""

from __future__ import annotations

import argparse
import itertools
import math
import queue
import selectors
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.benchmarks.http_socket import post_request
from tests.benchmarks.measures import LEDGER, Figures, arguments_of, cpu_times, percentile, private_mib, show
from tests.benchmarks.pairs import Pairs, uniform
from tests.benchmarks.sync_socket import SyncSocket
from tests.benchmarks.transfers import BALANCE, seed, total
from tests.benchmarks.web_socket import Closed
from tests.end_to_end.server_process import ServerProcess

REOPEN_S = 3.0
CLOSED_LOOP = 64
RECOVERED = 2.0
BUCKET_S = 0.25


class Idle(Exception):
    """The server has closed a connection that was idle for five seconds, perhaps as a request was on its way."""


class Client(Protocol):
    """A connection with at most one transfer under way."""

    def fileno(self) -> int: ...

    def start(self, source: int, target: int) -> None: ...

    def ended(self) -> bool | None:
        """Takes what has arrived: whether the transfer was run (True) or refused (False); None if neither is known.

        Raises Closed if it was refused and the connection with it, and Idle. Whatever else is said fails the benchmark.
        """

    def close(self) -> None: ...


class HttpClient:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, source: int, target: int) -> None:
        body = b'{"path":"accounts:transfer","args":{"from_id":%d,"to_id":%d,"amount":1}}' % (source, target)
        self._socket.sendall(post_request("/api/mutation", body))

    def ended(self) -> bool | None:
        data = self._socket.recv(64 * 1024)
        if not data:
            raise Idle
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        if not body.endswith(b"}"):
            return None
        received, self._received = self._received, b""
        if body == b'{"status":"success","value":null}':
            return True
        if head.startswith(b"HTTP/1.1 503") and b'"code":"Overloaded"' in body:
            return False
        raise RuntimeError(f"unexpected answer {received!r}")

    def close(self) -> None:
        self._socket.close()


class SocketClient:
    def __init__(self, port: int) -> None:
        self._session = SyncSocket(port)

    def fileno(self) -> int:
        return self._session.fileno()

    def start(self, source: int, target: int) -> None:
        self._session.mutate("accounts:transfer", {"from_id": source, "to_id": target, "amount": 1})

    def ended(self) -> bool | None:
        for message in self._session.receive():
            if message["type"] == "MutationResponse":
                assert message["success"], message
                return True
        return None

    def close(self) -> None:
        self._session.close()


class Reopening:
    """Opens connections anew, on a thread, because each waits for the server."""

    def __init__(self, open_one: Callable[[], Client]) -> None:
        self._open_one = open_one
        self._due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self.opened: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def later(self) -> None:
        self._due.put(time.perf_counter() + REOPEN_S)

    def close(self) -> None:
        """Ends the thread; call it while the server runs."""
        self._is_closing = True
        self._due.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (due_s := self._due.get()) is not None:
            if not self._is_closing:
                time.sleep(max(due_s - time.perf_counter(), 0.0))
                self.opened.put(self._open_one())


@dataclass(frozen=True)
class Call:
    """When it was due and when it ended, and whether it was run."""

    due_s: float
    ended_s: float
    was_run: bool

    @property
    def latency_ms(self) -> float:
        return (self.ended_s - self.due_s) * 1000


class Load:
    """All connections of one kind, and what became of each call."""

    def __init__(self, open_one: Callable[[], Client], clients: int, pairs: Pairs) -> None:
        self._pairs = itertools.cycle(pairs)
        self._selector = selectors.DefaultSelector()
        self._open_one = open_one
        self._reopening = Reopening(open_one)
        self._idle: deque[Client] = deque()
        self._due_s: dict[Client, float] = {}
        self._to_open = 0
        for _ in range(clients):
            self._add(open_one())
        self.calls: list[Call] = []
        self.not_sent: list[float] = []

    def closed_loop(self, clients: int, seconds: float) -> float:
        """How many are run a second if so many clients have one under way each."""
        begun_s, before = time.perf_counter(), len(self.calls)
        while (now_s := time.perf_counter()) < begun_s + seconds:
            for _ in range(clients - len(self._due_s)):
                self._start(now_s)
            self._receive(1.0)
        self.wait_all()
        return (len(self.calls) - before) / (time.perf_counter() - begun_s)

    def open_loop(self, per_s: float, seconds: float, on_second: Callable[[], None]) -> None:
        """So many are due every second, however many are under way."""
        begun_s = time.perf_counter()
        next_s, second_s = begun_s, begun_s + 1
        while (now_s := time.perf_counter()) < begun_s + seconds:
            while next_s <= now_s:
                self._start(next_s)
                next_s += 1 / per_s
            if now_s >= second_s:
                on_second()
                second_s += 1
            self._receive(max(next_s - time.perf_counter(), 0.0))

    def wait_all(self) -> None:
        while self._due_s:
            self._receive(30.0)

    def close(self) -> None:
        self._reopening.close()
        self._selector.close()
        for client in self._idle:
            client.close()

    def _add(self, client: Client) -> None:
        self._selector.register(client, selectors.EVENT_READ, client)
        self._idle.append(client)

    def _start(self, due_s: float) -> None:
        if not self._idle and self._to_open:
            self._to_open -= 1
            self._add(self._open_one())
        if not self._idle:
            self.not_sent.append(due_s)
            return
        client = self._idle.popleft()  # the one that was used longest ago, for those that are idle for long are closed
        self._due_s[client] = due_s
        client.start(*next(self._pairs))

    def _receive(self, timeout_s: float) -> None:
        while not self._reopening.opened.empty():
            self._add(self._reopening.opened.get())
        for key, _ in self._selector.select(timeout_s):
            client: Client = key.data
            try:
                was_run = client.ended()
            except Closed as closed:
                if (closed.code, closed.reason) != (1013, "Overloaded"):
                    raise
                self.calls.append(Call(self._due_s.pop(client), time.perf_counter(), False))
                self._selector.unregister(client)
                client.close()
                self._reopening.later()
                continue
            except Idle:
                if client in self._due_s:
                    self.not_sent.append(self._due_s.pop(client))
                else:
                    self._idle.remove(client)
                self._selector.unregister(client)
                client.close()
                self._to_open += 1
                continue
            if was_run is not None:
                self.calls.append(Call(self._due_s.pop(client), time.perf_counter(), was_run))
                self._idle.append(client)


def latencies_ms(calls: list[Call]) -> list[float]:
    return [call.latency_ms for call in calls if call.was_run]


def medians_ms(calls: list[Call], since_s: float, until_s: float) -> list[float]:
    """The median latency of what was due in each quarter of a second; infinite if one was refused."""
    found: list[float] = []
    for number in range(int((until_s - since_s) / BUCKET_S)):
        from_s = since_s + number * BUCKET_S
        due = [call for call in calls if from_s <= call.due_s < from_s + BUCKET_S]
        found.append(percentile(latencies_ms(due), 0.5) if due and all(call.was_run for call in due) else math.inf)
    return found


def recovered_s(load: Load, before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """How long after the overload the medians were, and stayed, at most twice the worst one before it."""
    usual_ms = max(medians_ms(load.calls, *before))
    late = [number for number, ms in enumerate(medians_ms(load.calls, *after)) if ms > RECOVERED * usual_ms]
    recovered = (late[-1] + 1) * BUCKET_S if late else 0.0
    return recovered if recovered + BUCKET_S < after[1] - after[0] else None


def measure(server: ServerProcess, over: str, options: argparse.Namespace) -> Figures:
    seed(server.port, options.accounts)
    kind = HttpClient if over == "http" else SocketClient
    load = Load(lambda: kind(server.port), options.clients, uniform(options.accounts))
    load.closed_loop(CLOSED_LOOP, 2.0)
    sustainable = load.closed_loop(CLOSED_LOOP, options.seconds / 3)
    memory: list[float] = [private_mib(server.process.pid)]
    seen = 0

    def on_second() -> None:
        nonlocal seen
        found, seen = load.calls[seen:], len(load.calls)
        memory.append(private_mib(server.process.pid))
        run = latencies_ms(found)
        if not options.json:
            p50, p99 = (percentile(run, share) if run else float("nan") for share in (0.5, 0.99))
            refused = len(found) - len(run)
            text = f"  {over}: run {len(run):5}  refused {refused:5}  p50 {p50:6.0f} ms  p99 {p99:6.0f} ms"
            print(f"{text}  RssAnon {memory[-1]:.1f} MiB", flush=True)

    usual, begun_s = 0.5 * sustainable, time.perf_counter()
    load.open_loop(usual, options.seconds / 3, on_second)
    overload_s, before = time.perf_counter(), cpu_times(server)
    load.open_loop(options.factor * sustainable, options.seconds, on_second)
    after_s, used = time.perf_counter(), cpu_times(server)
    load.open_loop(usual, options.seconds / 2, on_second)
    end_s = time.perf_counter()
    load.wait_all()
    load.close()
    phases = [(begun_s, overload_s), (overload_s, after_s), (after_s, end_s)]
    quiet, crowded, later = ([call for call in load.calls if low <= call.due_s < high] for low, high in phases)
    served = [call for call in load.calls if overload_s <= call.ended_s < after_s and call.was_run]
    recovery_s = recovered_s(load, phases[0], phases[2])
    balances, expected = total(server.port, options.accounts), options.accounts * BALANCE
    cpu = used.figures_since(before, after_s - overload_s, max(len(served), 1))
    return {
        "sustainable/s": sustainable,
        "before: p50 ms": percentile(latencies_ms(quiet), 0.5),
        "before: p99 ms": percentile(latencies_ms(quiet), 0.99),
        "overload: due/s": (len(crowded) + len(load.not_sent)) / (after_s - overload_s),
        "overload: run/s": len(served) / (after_s - overload_s),
        "overload: refused": sum(not call.was_run for call in crowded),
        "overload: not sent": len(load.not_sent),
        "overload: p50 ms": percentile(latencies_ms(crowded), 0.5),
        "overload: p99 ms": percentile(latencies_ms(crowded), 0.99),
        "overload: max ms": max(latencies_ms(crowded)),
        "overload: CPU server %": cpu["CPU server %"],
        "overload: CPU client %": cpu["CPU client %"],
        "after: as before after s": "not in time" if recovery_s is None else recovery_s,
        "after: p99 ms": percentile(latencies_ms(later), 0.99),
        "RssAnon MiB: before, most, in the end": f"{memory[0]:.1f}, {max(memory):.1f}, {memory[-1]:.1f}",
        "sum of balances": f"{balances} ({'as seeded' if balances == expected else f'WRONG, {expected} expected'})",
    }


def main() -> None:
    parser = arguments_of("Measures what becomes of calls that arrive faster than they can be run.")
    parser.add_argument("--over", choices=("http", "websocket"), default=None, help="both, if it is not given")
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=3000, help="connections of this program")
    parser.add_argument("--queue", type=int, default=1000, help="EVOLUTE_CALL_QUEUE_LENGTH_MAX of the server")
    parser.add_argument("--factor", type=float, default=2.0, help="of the sustainable load that arrives")
    parser.add_argument("--seconds", type=float, default=9.0, help="of overload")
    options = parser.parse_args()
    for over in ("http", "websocket") if options.over is None else (options.over,):
        with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as folder:
            names = ("EVOLUTE_CALL_QUEUE_LENGTH_MAX", "EVOLUTE_HTTP_CALLS_MAX")
            environment = dict.fromkeys(names, str(options.queue))
            data = Path(folder) / "data"
            with ServerProcess(
                LEDGER, data, command=options.command, workers=options.workers, environment=environment
            ) as server:
                figures = measure(server, over, options)
                server.stop()
        show(f"overload over {over}, {options.queue} calls may wait", figures, as_json=options.json)


if __name__ == "__main__":
    main()
