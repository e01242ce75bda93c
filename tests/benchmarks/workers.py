"""Mutations that compute for 5 ms, with one worker and with two, beside bare processes that compute the same.

What is computed is fixed, as much as takes 5 ms here, so a processor that is slowed down by its neighbour shows. The
bare processes have no server and no client: what two of them do more than one is what this machine gives at most. The
two servers and the bare processes take turns; of each the fastest counts, for others can only make a turn slower.

uv run python -m tests.benchmarks.workers
"""

from __future__ import annotations

import argparse
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.benchmarks.ledger.work import churn
from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_times, percentile, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.benchmarks.transfers import seed
from tests.end_to_end.server_process import ServerProcess

TARGET = 1.7
BARE = """
import sys, time
from tests.benchmarks.ledger.work import churn

rounds, until_s, done = int(sys.argv[1]), time.perf_counter() + float(sys.argv[2]), 0
while time.perf_counter() < until_s:
    churn(rounds)
    done += 1
print(done)
"""


def rounds_of(work_ms: float) -> int:
    """How many rounds of `churn` take that long, when nothing comes in between."""

    def seconds(rounds: int) -> float:
        begun_s = time.thread_time()
        churn(rounds)
        return time.thread_time() - begun_s

    return round(20_000 * work_ms / 1000 / min(seconds(20_000) for _ in range(50)))


class Computing:
    """Sessions that each have one mutation in flight, every one on an account of its own."""

    def __init__(self, server: ServerProcess, sessions: int, rounds: int) -> None:
        self.server = server
        self.latencies_ms: list[float] = []
        self._rounds = rounds
        self._selector = selectors.DefaultSelector()
        self._sessions = [SyncSocket(server.port) for _ in range(sessions)]
        self._begun_s = [0.0] * sessions
        for number, session in enumerate(self._sessions):
            self._selector.register(session, selectors.EVENT_READ, number)

    def per_s(self, seconds: float) -> float:
        """How many a second, over that long and until the last one is answered."""
        begun_s, done = time.perf_counter(), 0
        running = len(self._sessions)
        for number in range(running):
            self._start(number)
        while running:
            for key, _ in self._selector.select(30):
                for message in self._sessions[key.data].receive():
                    if message["type"] != "MutationResponse":
                        continue
                    assert message["success"], message
                    done += 1
                    self.latencies_ms.append((time.perf_counter() - self._begun_s[key.data]) * 1000)
                    if time.perf_counter() - begun_s < seconds:
                        self._start(key.data)
                    else:
                        running -= 1
        return done / (time.perf_counter() - begun_s)

    def _start(self, number: int) -> None:
        self._begun_s[number] = time.perf_counter()
        self._sessions[number].mutate("work:compute", {"number": number, "rounds": self._rounds})

    def close(self) -> None:
        self._selector.close()
        for session in self._sessions:
            session.close()


def bare_per_s(processes: int, rounds: int, seconds: float) -> float:
    """What so many processes compute together, without anything around it."""
    command = [sys.executable, "-c", BARE, str(rounds), str(seconds)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(int(process.communicate()[0]) for process in started) / seconds


def measure(one: ServerProcess, two: ServerProcess, options: argparse.Namespace) -> Figures:
    rounds = rounds_of(options.work)
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        loads = [Computing(server, options.sessions, rounds) for server in (one, two)]
        for load in loads:
            seed(load.server.port, options.sessions)
            stack.callback(load.close)
            load.per_s(1.0)
            load.latencies_ms.clear()
        turns: dict[str, Callable[[], float]] = {
            "one worker, mutations/s": lambda: loads[0].per_s(options.seconds),
            "bare process, computations/s": lambda: bare_per_s(1, rounds, options.seconds / 2),
            "two workers, mutations/s": lambda: loads[1].per_s(options.seconds),
            "two bare processes, computations/s": lambda: bare_per_s(2, rounds, options.seconds / 2),
        }
        before = cpu_times(two)
        for _ in range(options.rounds):
            for name, turn in turns.items():
                rates.setdefault(name, []).append(turn())
        done = len(loads[1].latencies_ms)
        used = cpu_times(two).figures_since(before, options.rounds * options.seconds, done)
    best = {name: max(found) for name, found in rates.items()}
    one_per_s, bare_one, two_per_s, bare_two = best.values()
    return {
        **best,
        f"two workers beside one (at least {TARGET})": two_per_s / one_per_s,
        "two bare processes beside one": bare_two / bare_one,
        "by rounds": " ".join(f"{b / a:.2f}" for a, b in zip(*list(rates.values())[::2], strict=True)),
        "one worker, p50 ms": percentile(loads[0].latencies_ms, 0.5),
        "two workers, p50 ms": percentile(loads[1].latencies_ms, 0.5),
        "two: server ms each": used["server ms each"],
        "two: workers ms each": used["workers ms each"],
    }


def main() -> None:
    parser = arguments_of("Measures what a second worker is worth to mutations that compute.")
    parser.add_argument("--work", type=float, default=5.0, help="milliseconds that a mutation computes for")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each; the fastest counts")
    options = parser.parse_args()
    with ExitStack() as stack:
        options.workers = 1
        one = stack.enter_context(benchmark_server(options))
        options.workers = 2
        two = stack.enter_context(benchmark_server(options))
        figures = measure(one, two, options)
    show(f"mutations of {options.work} ms, {options.sessions} sessions", figures, as_json=options.json)


if __name__ == "__main__":
    main()
