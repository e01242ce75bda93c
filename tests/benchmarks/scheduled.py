"""Scheduled jobs: thousands of mutations that do nothing, all due at the same moment, drained by the scheduler.

They are enqueued by a few mutations and come due together a little later, so that enqueueing and draining are measured
apart. A job has ended with the commit that says so; the last one's time is read from its row.

With `--peers` other schedulers are measured by the same jobs in the same invocation: peers/run.py. Here every job is
durable: LMDB's own synchronous commits, which many jobs share, and a job's end is in the commit of its effects.

uv run python -m tests.benchmarks.scheduled --peers
"""

from __future__ import annotations

import argparse
import time

from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_times, show
from tests.benchmarks.peers.run import PEERS, peer_figures
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

PER_MUTATION_MAX = 1000
POLL_S = 0.1
DRAIN_S_MAX = 120.0


def enqueue(session: SyncSocket, jobs: int, due_ms: float | None) -> str:
    """Returns the id of the job that was scheduled last."""
    last = ""
    for first in range(0, jobs, PER_MUTATION_MAX):
        arguments: dict[str, object] = {"count": min(PER_MUTATION_MAX, jobs - first)}
        if due_ms is not None:
            arguments["due_ms"] = due_ms
        last = session.wait_response(session.mutate("jobs:enqueue", arguments))
    return last


def wait_drained(port: int, last: str, since_ms: float) -> dict[str, float]:
    """What became of the jobs. One short query every so often: the processors are the server's."""
    until_s = time.monotonic() + DRAIN_S_MAX
    while time.monotonic() < until_s:
        time.sleep(POLL_S)
        session = SyncSocket(port)
        try:
            if session.query("jobs:has_ended", {"job": last}):
                outcome: dict[str, float] = session.query("jobs:outcome", {"since_ms": since_ms})
                if outcome["open"] == 0:
                    return outcome
        finally:
            session.close()
    raise TimeoutError(f"the jobs were not drained within {DRAIN_S_MAX:.0f} s")


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    session = SyncSocket(server.port)
    enqueue(session, 10, None)  # the first use of everything
    time.sleep(0.5)

    begun_ms = time.time() * 1000
    due_ms = begun_ms + options.enqueue_seconds * 1000
    last = enqueue(session, options.jobs, due_ms)
    enqueued_ms = time.time() * 1000
    if enqueued_ms > due_ms:
        raise RuntimeError(f"enqueueing took longer than {options.enqueue_seconds} s; give --enqueue-seconds")
    time.sleep(max(due_ms - time.time() * 1000, 0) / 1000)
    before, drained_s = cpu_times(server), time.monotonic()
    together = wait_drained(server.port, last, begun_ms)
    drained_s = time.monotonic() - drained_s
    cpu = cpu_times(server).figures_since(before, drained_s, options.jobs)

    begun_at_once_ms = time.time() * 1000
    at_once = wait_drained(server.port, enqueue(session, options.jobs, None), begun_at_once_ms)
    session.close()
    return {
        "drained jobs/s": options.jobs * 1000 / (together["last_ms"] - due_ms),
        "enqueued jobs/s": options.jobs * 1000 / (enqueued_ms - begun_ms),
        "enqueued and drained jobs/s": options.jobs * 1000 / (at_once["last_ms"] - begun_at_once_ms),
        "succeeded": f"{together['success'] + at_once['success']:.0f} of {2 * options.jobs}",
        "failed": f"{together['failed'] + at_once['failed']:.0f}",
        **cpu,
    }


def main() -> None:
    parser = arguments_of("Drains scheduled mutations that do nothing.")
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--enqueue-seconds", type=float, default=6.0, help="when the jobs come due")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), metavar="PEER", help="all, or those named")
    options = parser.parse_args()
    with benchmark_server(options) as server:
        figures = measure(server, options)
    if options.peers is not None:
        figures |= peer_figures(options.peers or list(PEERS), options.jobs)
    show(f"scheduled mutations, {options.jobs} due at once", figures, as_json=options.json)


if __name__ == "__main__":
    main()
