"""Mutations over HTTP beside a raw ASGI application that sends back what it was sent, in the same run.

The echo is uvicorn with the same protocol and event loop as the server's. Both have one process to themselves that
listens, the same client, and turns, so that what else happens on the machine happens to both.

uv run python -m tests.benchmarks.http_mutations
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

from tests.benchmarks.http_socket import answers_per_s, post_request
from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_times, show
from tests.benchmarks.peers.server import PeerServer
from tests.end_to_end.server_process import ServerProcess

TARGET = 0.12


def body_of(number: int) -> bytes:
    arguments = {"name": f"note {number}", "body": "It was the best of times."}
    return orjson.dumps({"path": "notes:write", "args": arguments})


@contextmanager
def echo_server() -> Iterator[int]:
    """The port on which it listens."""
    with PeerServer("echo_server") as server:
        yield server.port


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    bodies = [body_of(number) for number in range(options.connections)]
    mutations = [post_request("/api/mutation", body) for body in bodies]
    echoes = [post_request("/", body) for body in bodies]
    rates: dict[str, list[float]] = {"mutations": [], "echo": []}
    with echo_server() as echo_port:
        answers_per_s(server.port, mutations, is_success, 1.0)
        answers_per_s(echo_port, echoes, lambda body: body.startswith(b'{"path"'), 0.5)
        before, mutated = cpu_times(server), 0.0
        for _ in range(options.rounds):
            rate = answers_per_s(server.port, mutations, is_success, options.seconds)
            rates["mutations"].append(rate)
            mutated += rate * options.seconds
            echoed = answers_per_s(echo_port, echoes, lambda body: body.startswith(b'{"path"'), options.seconds)
            rates["echo"].append(echoed)
        used = cpu_times(server).figures_since(before, options.rounds * options.seconds, round(mutated))
    mutations_per_s, echoes_per_s = (sorted(found)[len(found) // 2] for found in rates.values())
    return {
        "mutations/s": round(mutations_per_s),
        "echoes/s": round(echoes_per_s),
        f"ratio (at least {TARGET})": mutations_per_s / echoes_per_s,
        "connections": options.connections,
        "server ms each": used["server ms each"],
        "workers ms each": used["workers ms each"],
    }


def is_success(body: bytes) -> bool:
    return body == b'{"status":"success","value":null}'


def main() -> None:
    parser = arguments_of("Measures mutations over HTTP beside a raw ASGI echo.")
    parser.add_argument("--connections", type=int, default=64, help="requests under way at once")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; the median counts")
    options = parser.parse_args()
    with benchmark_server(options) as server:
        figures = measure(server, options)
    show("mutations over HTTP", figures, as_json=options.json)


if __name__ == "__main__":
    main()
