"""Cached queries over HTTP beside a raw ASGI application that sends back what it was sent, in the same run.

Nothing is written meanwhile, so each answer is in the query cache but once in its age. The echo is that of
`http_mutations`: the same client, the same protocol and event loop, a process to itself; and they take turns.

uv run python -m tests.benchmarks.http_queries
"""

from __future__ import annotations

import argparse

import orjson

from tests.benchmarks.http_mutations import echo_server
from tests.benchmarks.http_socket import answers_per_s, post_request
from tests.benchmarks.measures import Figures, arguments_of, benchmark_server, cpu_times, show
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.server_process import ServerProcess

TARGET = 0.5
BODY = "It was the best of times."
ANSWER = b'{"status":"success","value":"It was the best of times."}'


def measure(server: ServerProcess, options: argparse.Namespace) -> Figures:
    writer = SyncSocket(server.port)
    for number in range(options.queries):
        writer.wait_response(writer.mutate("notes:write", {"name": f"note {number}", "body": BODY}))
    writer.close()
    numbers = [number % options.queries for number in range(options.connections)]
    bodies = [orjson.dumps({"path": "notes:read", "args": {"name": f"note {number}"}}) for number in numbers]
    queries = [post_request("/api/query", body) for body in bodies]
    echoes = [post_request("/", body) for body in bodies]
    rates: dict[str, list[float]] = {"queries": [], "echo": []}
    with echo_server() as echo_port:
        answers_per_s(server.port, queries, is_answer, 1.0)
        answers_per_s(echo_port, echoes, is_echo, 0.5)
        before, answered = cpu_times(server), 0.0
        for _ in range(options.rounds):
            rate = answers_per_s(server.port, queries, is_answer, options.seconds)
            rates["queries"].append(rate)
            answered += rate * options.seconds
            rates["echo"].append(answers_per_s(echo_port, echoes, is_echo, options.seconds))
        used = cpu_times(server).figures_since(before, options.rounds * options.seconds, round(answered))
    queries_per_s, echoes_per_s = (sorted(found)[len(found) // 2] for found in rates.values())
    return {
        "queries/s": round(queries_per_s),
        "echoes/s": round(echoes_per_s),
        f"ratio (at least {TARGET})": queries_per_s / echoes_per_s,
        "connections": options.connections,
        "distinct queries": options.queries,
        "server ms each": used["server ms each"],
    }


def is_answer(body: bytes) -> bool:
    return body == ANSWER


def is_echo(body: bytes) -> bool:
    return body.startswith(b'{"path"')


def main() -> None:
    parser = arguments_of("Measures cached queries over HTTP beside a raw ASGI echo.")
    parser.add_argument("--connections", type=int, default=64, help="requests under way at once")
    parser.add_argument("--queries", type=int, default=16, help="distinct queries")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; the median counts")
    options = parser.parse_args()
    with benchmark_server(options) as server:
        figures = measure(server, options)
    show("cached queries over HTTP", figures, as_json=options.json)


if __name__ == "__main__":
    main()
