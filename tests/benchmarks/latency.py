"""From a mutation to the push: one session writes, another one is subscribed, and nothing else happens.

The time runs from before the mutation is sent until the subscriber has the new value.

uv run python -m tests.benchmarks.latency
"""

from __future__ import annotations

import argparse
import time

from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, percentile, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

WARMUP = 20
NOTE = "latency"


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    writer, subscriber = SyncSocket(server.port), SyncSocket(server.port)
    query_id = subscriber.subscribe("notes:read", {"name": NOTE})
    subscriber.wait_update(query_id)
    pushes_ms: list[float] = []
    responses_ms: list[float] = []
    for number in range(WARMUP + options.mutations):
        begun_s = time.perf_counter()
        request_id = writer.mutate("notes:write", {"name": NOTE, "body": str(number)})
        subscriber.wait_update(query_id, str(number))
        pushes_ms.append((time.perf_counter() - begun_s) * 1000)
        writer.wait_response(request_id)
        responses_ms.append((time.perf_counter() - begun_s) * 1000)
        time.sleep(options.pause)
    writer.close()
    subscriber.close()
    del pushes_ms[:WARMUP], responses_ms[:WARMUP]
    return {
        "push p50 ms": percentile(pushes_ms, 0.5),
        "push p99 ms": percentile(pushes_ms, 0.99),
        "push max ms": max(pushes_ms),
        "response seen p50 ms": percentile(responses_ms, 0.5),
        "mutations": len(pushes_ms),
    }


def main() -> None:
    parser = arguments_of("Measures how long a mutation takes to reach a subscriber.")
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between two mutations")
    options = parser.parse_args()
    with benchmark_server(options) as server:
        figures = measure(server, options)
    show("mutation to push, idle", figures, as_json=options.json)


if __name__ == "__main__":
    main()
