"""Queries, cached and not, over HTTP and over websockets, beside a raw ASGI application that echoes requests.

    cached    one note, which nobody writes: its result is in the query cache
    point     the balance of an account, found by an index; another account every time, so that the cache has none
    range     100 accounts as they are, found by an index; others every time

Over HTTP a query is one request. Over a websocket it is one step of the query set: the query before goes, the next one
comes, and it has ended when the Transition with its result is there. All take turns (turns.py).

uv run python -m tests.benchmarks.reads
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tests.benchmarks.http_socket import HttpConnection, post_request
from tests.benchmarks.load import Connection, Load, Refused
from tests.benchmarks.measures import Figures, Running, arguments_of, benchmark_server, memory_figures, show
from tests.benchmarks.peers.server import PeerServer
from tests.benchmarks.sync_socket import SyncSocket
from tests.benchmarks.transfers import seed
from tests.benchmarks.turns import Contestant, Turns, figures_of, ratio, take_turns, with_turns
from tests.benchmarks.web_socket import WebSocket

NOTE = b'{"name":"the note"}'
BODY = "It was the best of times."
IN_RANGE = 100
OF_ECHO_MIN = 0.5

Arguments = Callable[[], bytes]


class Reader(Connection, Protocol):
    def read(self, arguments: bytes) -> None: ...


class HttpReader(HttpConnection):
    def __init__(self, port: int, path: str, call: bytes, check: Callable[[bytes], bool]) -> None:
        super().__init__(port, check)
        self._path = path
        self._call = call

    def read(self, arguments: bytes) -> None:
        self.send(post_request(self._path, self._call % arguments))


class SessionReader:
    """A session that watches one query at a time."""

    def __init__(self, port: int, function: bytes, check: Callable[[bytes], bool]) -> None:
        self._socket = SyncSocket(port)
        self._added = b'{"type":"Add","queryId":%d,"udfPath":"' + function + b'","args":[%b]}'
        self._check = check
        self._version = 0
        self.fileno, self.close = self._socket.fileno, self._socket.close

    def read(self, arguments: bytes) -> None:
        before, self._version = self._version, self._version + 1
        changes = self._added % (self._version, arguments)
        if before:
            changes = b'{"type":"Remove","queryId":%d},%b' % (before, changes)
        head = b'{"type":"ModifyQuerySet","baseVersion":%d,"newVersion":%d,"modifications":[%b]}'
        self._socket.send_text(head % (before, self._version, changes))

    def receive(self) -> bool:
        for text in self._socket.receive_texts():
            if b'"QueryUpdated"' in text:
                if not self._check(text):
                    raise Refused(text.decode())
                return True
            if b'"QueryFailed"' in text:
                raise Refused(text.decode())
        return False


class EchoReader(WebSocket):
    """Sends the arguments, and wants them back."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "/")
        self._sent = b""

    def read(self, arguments: bytes) -> None:
        self._sent = arguments
        self.send_text(arguments)

    def receive(self) -> bool:
        texts = self.receive_texts()
        if texts and texts != [self._sent]:
            raise Refused(f"unexpected answer {texts!r}")
        return bool(texts)


class ReadLoad(Load[Reader]):
    def __init__(self, connect: Callable[[], Reader], connections: int, arguments: Arguments) -> None:
        super().__init__([connect() for _ in range(connections)], lambda reader: reader.read(arguments()))


@dataclass(frozen=True)
class Read:
    """A query, of which nothing comes twice from `arguments` unless it is to be cached."""

    name: str
    function: bytes
    arguments: Arguments
    mark: bytes
    marks: int = 1
    """So often is the mark in a right answer."""

    def check(self, answer: bytes) -> bool:
        return answer.count(self.mark) == self.marks


def reads_of(accounts: int) -> list[Read]:
    """One count goes through the accounts in all turns: the cache has long forgotten when it begins again."""
    points, ranges = itertools.cycle(range(accounts)).__next__, itertools.cycle(range(accounts - IN_RANGE)).__next__
    return [
        Read("cached", b"notes:read", lambda: NOTE, BODY.encode()),
        Read("point", b"accounts:balance", lambda: b'{"number":%d}' % points(), b'"value":1000'),
        Read(
            "range",
            b"accounts:numbered",
            lambda: b'{"count":%d,"first":%d}' % (IN_RANGE, ranges()),
            b'"number":',
            IN_RANGE,
        ),
    ]


def contestants_of(server: Running, port: int, echo: PeerServer, options: argparse.Namespace) -> Iterator[Contestant]:
    for read in reads_of(options.accounts):
        call = b'{"path":"' + read.function + b'","args":%b}'
        over_http = partial(HttpReader, port, "/api/query?format=json", call, read.check)
        yield contestant(f"HTTP {read.name}", server, over_http, read.arguments, options)
        over_socket = partial(SessionReader, port, read.function, read.check)
        yield contestant(f"websocket {read.name}", server, over_socket, read.arguments, options)
    over_http = partial(HttpReader, echo.port, "/", b"%b", NOTE.__eq__)
    yield contestant("HTTP echo", echo, over_http, lambda: NOTE, options)
    yield contestant("websocket echo", echo, partial(EchoReader, echo.port), lambda: NOTE, options)


def contestant(
    name: str, server: Running, connect: Callable[[], Reader], arguments: Arguments, options: argparse.Namespace
) -> Contestant:
    return Contestant(name, server, partial(ReadLoad, connect, options.connections, arguments))


def rows_of(turns: Turns) -> dict[str, Figures]:
    """The table: each beside the echo of its way."""
    rows = {name: figures_of(own) for name, own in turns.items()}
    for name, row in rows.items():
        echo = f"{name.split()[0]} echo"
        if name != echo:
            row["of echo"] = ratio(turns[name], turns[echo])
    return rows


def measure(options: argparse.Namespace) -> tuple[dict[str, Figures], Figures]:
    """The rows of the table, and what stands beneath it."""
    with ExitStack() as stack:
        server = stack.enter_context(benchmark_server(options))
        seed(server.port, options.accounts)
        writer = SyncSocket(server.port)
        writer.wait_response(writer.mutate("notes:write", {"name": "the note", "body": BODY}))
        writer.close()
        echo = stack.enter_context(PeerServer("echo_server"))
        contestants = list(contestants_of(server, server.port, echo, options))
        turns = take_turns(contestants, options.rounds, options.seconds, options.warmup, tell=options.tell)
        rows = rows_of(turns)
        failures = [failure for own in turns.values() for turn in own for failure in turn.failures]
        first = {"first failure": failures[0]} if failures else {}
        wanted = {f"HTTP cached, of echo (at least {OF_ECHO_MIN})": rows["HTTP cached"]["of echo"]}
        return rows, {**wanted, **memory_figures(server), **first}


def parser() -> argparse.ArgumentParser:
    parser = arguments_of("Queries over HTTP and over websockets, beside echoes.")
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=64, help="with one query in flight each")
    return with_turns(parser, seconds=3.0, warmup=0.5)


def main() -> None:
    options = parser().parse_args()
    rows, figures = measure(options)
    show(f"queries, {options.connections} connections", figures, as_json=options.json, rows=rows)


if __name__ == "__main__":
    main()
