"""How late jobs are: many that do nothing, each due at a random time, on a server that has nothing else to do.

A job's lateness runs from its time to the end of its function, as its row says it, so that it holds the run as well.

uv run python -m tests.benchmarks.lateness
"""

from __future__ import annotations

import argparse
import random
import time

from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_times, percentile, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

PER_MUTATION_MAX = 1000
FIRST_AFTER_S = 2.0
LAST_S_MAX = 10.0


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    session = SyncSocket(server.port)
    session.wait_response(session.mutate("jobs:enqueue", {"count": 10}))  # the first use of everything
    time.sleep(0.5)
    chance = random.Random(options.seed)
    begun_ms = time.time() * 1000
    first_ms = begun_ms + FIRST_AFTER_S * 1000
    due_ms = [first_ms + chance.uniform(0, options.seconds * 1000) for _ in range(options.jobs)]
    for first in range(0, options.jobs, PER_MUTATION_MAX):
        session.wait_response(session.mutate("jobs:scatter", {"due_ms": due_ms[first : first + PER_MUTATION_MAX]}))
    time.sleep(max(first_ms / 1000 - time.time(), 0))
    before, begun_s = cpu_times(server), time.monotonic()
    time.sleep(options.seconds)
    cpu = cpu_times(server).figures_since(before, time.monotonic() - begun_s, options.jobs)
    late_ms = wait_lateness(server.port, begun_ms)
    session.close()
    assert len(late_ms) == options.jobs, f"{len(late_ms)} of {options.jobs} jobs"
    figures: Figures = {f"lateness p{share * 100:g} ms": percentile(late_ms, share) for share in (0.5, 0.9, 0.99)}
    return {**figures, "lateness max ms": max(late_ms), "jobs": options.jobs, "over s": options.seconds, **cpu}


def wait_lateness(port: int, since_ms: float) -> list[float]:
    until_s = time.monotonic() + LAST_S_MAX
    while time.monotonic() < until_s:
        session = SyncSocket(port)
        late_ms: list[float] = session.query("jobs:lateness_ms", {"since_ms": since_ms})
        session.close()
        if late_ms:
            return late_ms
        time.sleep(0.2)
    raise TimeoutError(f"some jobs had not ended {LAST_S_MAX:.0f} s after the last was due")


def main() -> None:
    parser = arguments_of("Measures how late jobs start.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="over which they are spread")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with benchmark_server(options) as server:
        figures = measure(server, options)
    show("lateness of scheduled mutations", figures, as_json=options.json)


if __name__ == "__main__":
    main()
