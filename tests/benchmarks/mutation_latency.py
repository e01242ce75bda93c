"""How long a mutation takes that is alone, beside what it cannot do without: one sync of the disk and one round trip.

One session sends one mutation after the other; in turns with that, so many in a row,

    sync          a small value is put into an LMDB environment on the same disk and committed, as the committer does
    round trip    a message of the mutation's length goes to another process and comes back, over a bare TCP socket
    echo          the same by the websocket echo, which has an event loop and a protocol

uv run python -m tests.benchmarks.mutation_latency
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import lmdb

from tests.benchmarks.measures import MIB, Figures, arguments_of, benchmark_server, percentile, show
from tests.benchmarks.peers.server import PeerServer
from tests.benchmarks.sockets import connected
from tests.benchmarks.sync_socket import SyncSocket
from tests.benchmarks.web_socket import WebSocket

WARMUP = 20
IN_A_ROW = 20
MESSAGE = b'{"type":"Mutation","requestId":100,"udfPath":"notes:write","args":[{"name":"latency","body":"100"}]}'
VALUE = b"x" * 200
TIMES_MAX = 3.0
TCP_ECHO = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    other, _ = listener.accept()
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := other.recv(65536):
        other.sendall(data)
"""

Step = Callable[[int], object]


@contextmanager
def round_trip() -> Iterator[Step]:
    process = subprocess.Popen([sys.executable, "-c", TCP_ECHO], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        client = connected(int(process.stdout.readline()))

        def step(number: int) -> None:
            client.sendall(MESSAGE)
            left = len(MESSAGE)
            while left:
                left -= len(client.recv(left))

        yield step
        client.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def lmdb_sync() -> Iterator[Step]:
    with (
        tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as folder,
        lmdb.open(str(Path(folder)), map_size=64 * MIB) as environment,
    ):

        def step(number: int) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(b"%08d" % (number % 1000), VALUE)

        yield step


def echo_step(socket: WebSocket) -> Step:
    def step(number: int) -> None:
        socket.send_text(MESSAGE)
        while not socket.receive_texts():
            pass

    return step


def mutation_step(session: SyncSocket) -> Step:
    def step(number: int) -> None:
        session.wait_response(session.mutate("notes:write", {"name": "latency", "body": str(number)}))

    return step


def measure(options: argparse.Namespace) -> Figures:
    with ExitStack() as stack:
        server = stack.enter_context(benchmark_server(options))
        echo = stack.enter_context(PeerServer("echo_server"))
        session = stack.enter_context(closing(SyncSocket(server.port)))
        echoed = stack.enter_context(closing(WebSocket(echo.port, "/")))
        steps = {
            "mutation": mutation_step(session),
            "sync": stack.enter_context(lmdb_sync()),
            "round trip": stack.enter_context(round_trip()),
            "websocket echo": echo_step(echoed),
        }
        took_ms: dict[str, list[float]] = {name: [] for name in steps}
        for first in range(0, WARMUP + options.mutations, IN_A_ROW):
            for name, step in steps.items():
                for number in range(first, min(first + IN_A_ROW, WARMUP + options.mutations)):
                    begun_s = time.perf_counter()
                    step(number)
                    took_ms[name].append((time.perf_counter() - begun_s) * 1000)
            time.sleep(options.pause)
    return figures_of({name: values[WARMUP:] for name, values in took_ms.items()})


def figures_of(took_ms: dict[str, list[float]]) -> Figures:
    p50_ms = {name: percentile(values, 0.5) for name, values in took_ms.items()}
    least_ms = p50_ms["sync"] + p50_ms["round trip"]
    return {
        **{f"{name} p50 ms": value for name, value in p50_ms.items()},
        **{f"{name} p99 ms": percentile(values, 0.99) for name, values in took_ms.items()},
        f"mutation / (sync + round trip), p50 (under {TIMES_MAX:g})": p50_ms["mutation"] / least_ms,
        "mutation / (sync + websocket echo), p50": p50_ms["mutation"] / (p50_ms["sync"] + p50_ms["websocket echo"]),
        "mutations": len(took_ms["mutation"]),
    }


def parser() -> argparse.ArgumentParser:
    parser = arguments_of("Measures the latency of a mutation that is alone.")
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between two of them")
    return parser


def main() -> None:
    options = parser().parse_args()
    show("one client, one mutation at a time", measure(options), as_json=options.json)


if __name__ == "__main__":
    main()
