"""What one operation of the database costs inside a transaction, beside SQLite on the same rows in the same run.

    get       one document by its id
    range     100 documents through an index; also beside raw LMDB gets and JSON decoding of the same bytes
    insert    one document with two indexes: its share of a transaction of many, validated, committed and synced
    patch     one field of a document, an indexed one, in the same way; delete likewise

evolute's side is functions with `ctx.db`, run as a worker runs them, on a real store with a real committer; what a
call costs that does nothing is taken off. SQLite's side is Python's `sqlite3`: a table with columns and the same two
indexes, in WAL mode, which syncs every commit too. It checks no types and gives tuples. Of several rounds the fastest
counts.

uv run python -m tests.benchmarks.operations
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import orjson

from evolute import garbage_collector
from evolute.clock import SystemClock
from evolute.database.database import Database
from evolute.execution.request import Call
from evolute.storage.keyspace import document_key
from evolute.values.document_id import decode_id
from evolute.values.wire_codec import encode
from tests.benchmarks.measures import MIB, Figures, arguments_of, show
from tests.unit.function_store import FunctionStore

PER_CHANNEL = 100
SEED_COUNT = 2000
BODY = "It was the best of times, it was the worst of times, it was the age of wisdom."

SCHEMA = """
from evolute import Document, define_schema, define_table

class Message(Document):
    channel: str
    author: str
    body: str
    likes: int

schema = define_schema(
    messages=define_table(Message).index("by_channel", ["channel"]).index("by_author", ["author", "likes"]),
)
"""

FUNCTIONS = """
@query
def gets(ctx: QueryCtx, ids: list[str]) -> int:
    for id in ids:
        ctx.db.get(id)
    return len(ids)

@query
def ranges(ctx: QueryCtx, channels: list[str]) -> int:
    return sum(len(ctx.db.query("messages").with_index("by_channel", channel=one).collect()) for one in channels)

@mutation
def insert(ctx: MutationCtx, rows: list[Any]) -> list[str]:
    return [ctx.db.insert("messages", row) for row in rows]

@mutation
def patch(ctx: MutationCtx, ids: list[str], channel: str) -> int:
    for id in ids:
        ctx.db.patch(id, {"channel": channel})
    return len(ids)

@mutation
def delete(ctx: MutationCtx, ids: list[str]) -> int:
    for id in ids:
        ctx.db.delete(id)
    return len(ids)

@query
def nothing(ctx: QueryCtx, ids: list[str]) -> int:
    for id in ids:
        pass
    return len(ids)

@mutation
def no_rows(ctx: MutationCtx, rows: list[Any]) -> list[str]:
    return [row["body"] for row in rows]
"""

TABLE = """
CREATE TABLE messages (
    id TEXT PRIMARY KEY, creation REAL NOT NULL, channel TEXT NOT NULL, author TEXT NOT NULL, body TEXT NOT NULL,
    likes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_channel ON messages (channel, creation);
CREATE INDEX by_author ON messages (author, likes, creation);
"""

Row = dict[str, object]


def rows_of(first: int, count: int) -> list[Row]:
    return [
        {
            "channel": f"channel {number // PER_CHANNEL:05}",
            "author": f"author {number * 7919 % 1000:03}",
            "body": f"{number}: {BODY}",
            "likes": number % 17,
        }
        for number in range(first, first + count)
    ]


class Evolute:
    """Functions over a store, and the committer of a server. Made on a running loop."""

    def __init__(self, store: FunctionStore) -> None:
        self._store = store
        self._database = Database(store.path, SystemClock(), store.limits)

    async def call_s(self, name: str, kind: str, **arguments: object) -> tuple[float, object]:
        """How long one call took, its commit included, and its result."""
        call = Call(f"messages:{name}", encode(arguments), kind="query" if kind == "query" else "mutation")
        request = self._store.request("query" if kind == "query" else "mutation", call)
        snapshot = self._database.snapshot()
        begun_s = time.perf_counter()
        outcome = self._store.runner.run(request, snapshot)
        if outcome.write_set:
            await self._database.committer.commit(outcome.begin_ts, outcome.results[0].read_set, outcome.write_set)
        taken_s = time.perf_counter() - begun_s
        snapshot.close()
        assert outcome.results[0].error is None, outcome.results[0].error
        return taken_s, orjson.loads(outcome.results[0].value or b"null")

    async def close(self) -> None:
        await self._database.close()


class Sqlite:
    """The same operations, each transaction of as many."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(TABLE)

    def gets_s(self, ids: list[str]) -> float:
        def read() -> None:
            for document_id in ids:
                self._connection.execute("SELECT * FROM messages WHERE id = ?", (document_id,)).fetchone()

        return self._transaction_s(read)

    def ranges_s(self, channels: list[str]) -> float:
        def read() -> None:
            for channel in channels:
                rows = self._connection.execute(
                    "SELECT * FROM messages WHERE channel = ? ORDER BY creation", (channel,)
                ).fetchall()
                assert len(rows) == PER_CHANNEL

        return self._transaction_s(read)

    def insert_s(self, ids: list[str], rows: list[Row]) -> float:
        def write() -> None:
            for number, (document_id, row) in enumerate(zip(ids, rows, strict=True)):
                values = (document_id, float(number), row["channel"], row["author"], row["body"], row["likes"])
                self._connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", values)

        return self._transaction_s(write)

    def patch_s(self, ids: list[str], channel: str) -> float:
        def write() -> None:
            for document_id in ids:
                self._connection.execute("UPDATE messages SET channel = ? WHERE id = ?", (channel, document_id))

        return self._transaction_s(write)

    def delete_s(self, ids: list[str]) -> float:
        def write() -> None:
            for document_id in ids:
                self._connection.execute("DELETE FROM messages WHERE id = ?", (document_id,))

        return self._transaction_s(write)

    def _transaction_s(self, work: Callable[[], None]) -> float:
        begun_s = time.perf_counter()
        self._connection.execute("BEGIN")
        work()
        self._connection.execute("COMMIT")
        return time.perf_counter() - begun_s

    def close(self) -> None:
        self._connection.close()


def raw_ranges_s(path: Path, ranges: list[list[str]], rounds: int) -> float:
    """The documents of each range: got from LMDB by their keys, and decoded."""
    keys = [[document_key(*decode_id(document_id)) for document_id in ids] for ids in ranges]
    best_s = float("inf")
    with lmdb.open(str(path), readonly=True, map_size=1024 * MIB) as environment:
        for _ in range(rounds):
            begun_s = time.perf_counter()
            with environment.begin() as transaction:
                for one in keys:
                    rows = [orjson.loads(transaction.get(key) or b"") for key in one]
                    assert len(rows) == PER_CHANNEL
            best_s = min(best_s, time.perf_counter() - begun_s)
    return best_s


class Rounds:
    """The fastest of several rounds of each operation, in microseconds."""

    def __init__(self) -> None:
        self.best_us: dict[str, float] = {}

    def add(self, name: str, seconds: float, count: int) -> None:
        self.best_us[name] = min(self.best_us.get(name, float("inf")), seconds / count * 1e6)


async def measure_round(ours: Evolute, theirs: Sqlite, ids: list[str], number: int, count: int, best: Rounds) -> None:
    chosen = random.sample(ids, count)
    channels = [f"channel {random.randrange(len(ids) // PER_CHANNEL):05}" for _ in range(count // 10)]
    new = rows_of(len(ids) + number * count, count)
    empty_s, _ = await ours.call_s("nothing", "query", ids=chosen)
    empty_rows_s, _ = await ours.call_s("no_rows", "mutation", rows=new)
    best.add("get", (await ours.call_s("gets", "query", ids=chosen))[0] - empty_s, count)
    best.add("get sqlite", theirs.gets_s(chosen), count)
    best.add("range", (await ours.call_s("ranges", "query", channels=channels))[0], len(channels))
    best.add("range sqlite", theirs.ranges_s(channels), len(channels))
    taken_s, made = await ours.call_s("insert", "mutation", rows=new)
    assert isinstance(made, list)
    best.add("insert", taken_s - empty_rows_s, count)
    best.add("insert sqlite", theirs.insert_s(made, new), count)
    best.add("patch", (await ours.call_s("patch", "mutation", ids=made, channel=f"new {number}"))[0] - empty_s, count)
    best.add("patch sqlite", theirs.patch_s(made, f"new {number}"), count)
    best.add("delete", (await ours.call_s("delete", "mutation", ids=made))[0] - empty_s, count)
    best.add("delete sqlite", theirs.delete_s(made), count)


async def measure(options: argparse.Namespace, folder: Path) -> Figures:
    store = FunctionStore(folder, {"schema.py": SCHEMA, "messages.py": FUNCTIONS})
    theirs = Sqlite(folder / "sqlite.db")
    ids: list[str] = []
    for first in range(0, options.rows, SEED_COUNT):
        rows = rows_of(first, min(SEED_COUNT, options.rows - first))
        made = store.mutate("messages:insert", rows=rows)
        theirs.insert_s(made, rows)
        ids += made
    store.close()
    best = Rounds()
    channels = [ids[first : first + PER_CHANNEL] for first in range(0, len(ids), PER_CHANNEL)]
    best.add("range raw", raw_ranges_s(store.path, channels, options.rounds), len(channels))
    garbage_collector.search_seldom()  # as a worker does
    ours = Evolute(store)
    for number in range(options.rounds):
        await measure_round(ours, theirs, ids, number, options.count, best)
    await ours.close()
    theirs.close()
    figures: Figures = {}
    for name in ("get", "range", "insert", "patch", "delete"):
        us, sqlite_us = best.best_us[name], best.best_us[f"{name} sqlite"]
        figures |= {f"{name} us": us, f"{name}, SQLite us": sqlite_us, f"{name}, times SQLite": us / sqlite_us}
        if name == "range":
            raw_us = best.best_us["range raw"]
            figures |= {"range, raw LMDB and JSON us": raw_us, "range, times raw": us / raw_us}
    return {**figures, "rows": options.rows, "in a transaction": options.count, "rounds": options.rounds}


def main() -> None:
    parser = arguments_of("Measures single operations inside a transaction, beside SQLite.")
    parser.add_argument("--rows", type=int, default=20_000, help="in the table")
    parser.add_argument("--count", type=int, default=1000, help="operations in one transaction")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as folder:
        figures = asyncio.run(measure(options, Path(folder)))
    show("operations inside a transaction", figures, as_json=options.json)


if __name__ == "__main__":
    main()
