"""The load of every benchmark of throughput: one loop that keeps all connections busy, each with one request under way.

The loop is the same for whoever is measured, and knows nothing of what is asked: a connection sends a request when it
is asked to, and says when the answer is whole.
"""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from tests.benchmarks.sockets import TIMEOUT_S


class Connection(Protocol):
    def fileno(self) -> int: ...

    def receive(self) -> bool:
        """Takes what has arrived; whether the answer is whole. Raises Refused if it is whole and says no."""

    def close(self) -> None: ...


class Refused(RuntimeError):
    """The answer is one, and not that which was wanted."""


C = TypeVar("C", bound=Connection)


class Load(Generic[C]):
    """`ask` lets a connection send its next request. Closes the connections when it is closed."""

    def __init__(self, connections: Sequence[C], ask: Callable[[C], object]) -> None:
        self._connections = {connection.fileno(): connection for connection in connections}
        self._ask = ask
        self._epoll = select.epoll()
        for number in self._connections:
            self._epoll.register(number, select.EPOLLIN)
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    def run(self, seconds: float) -> float:
        """Keeps every connection busy for that long, waits for the last ones, and returns how long it took."""
        gc.collect()
        gc.disable()  # a search of all that has been collected here would be in the latencies
        try:
            return self._run(seconds)
        finally:
            gc.enable()

    def _run(self, seconds: float) -> float:
        clock, wait, ask, connections = time.perf_counter, self._epoll.poll, self._ask, self._connections
        started_s: dict[int, float] = {}
        begun_s = clock()
        until_s = begun_s + seconds
        for number, connection in connections.items():
            started_s[number] = clock()
            ask(connection)
        while started_s:
            ready = wait(TIMEOUT_S)
            if not ready:
                raise TimeoutError(f"{len(started_s)} requests have had no answer for {TIMEOUT_S} s")
            for number, _ in ready:
                connection = connections[number]
                try:
                    if not connection.receive():
                        continue
                    now_s = clock()
                    self.latencies_ms.append((now_s - started_s[number]) * 1000)
                except Refused as refused:
                    now_s = clock()
                    self.failures.append(str(refused))
                if now_s < until_s:
                    started_s[number] = now_s
                    ask(connection)
                else:
                    del started_s[number]
        return clock() - begun_s

    def close(self) -> None:
        self._epoll.close()
        for connection in self._connections.values():
            connection.close()
