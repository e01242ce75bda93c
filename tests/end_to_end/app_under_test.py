"""The functions that the end-to-end tests call, and a gate at which those that are to be met in flight wait."""

from __future__ import annotations

import mmap
import time
from collections.abc import Mapping
from pathlib import Path

PATIENCE_S = 60.0
GATES = 8

SCHEMA = """
from evolute import Document, define_schema, define_table

class Counter(Document):
    name: str
    value: int

class Message(Document):
    body: str

schema = define_schema(
    counters=define_table(Counter).index("by_name", ["name"]),
    messages=define_table(Message),
)
"""

COUNTERS = """
from evolute import MutationCtx, QueryCtx, mutation, query
from functions.schema import Counter

@query
def get(ctx: QueryCtx, name: str = "c") -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    return 0 if row is None else row["value"]

@query
def scaled(ctx: QueryCtx, by: int, name: str = "c") -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    return 0 if row is None else row["value"] * by

@query
def large(ctx: QueryCtx, size: int, name: str = "c") -> str:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    return f"{0 if row is None else row['value']}:" + "x" * size

@query
def fails_when_odd(ctx: QueryCtx, name: str = "c") -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    value = 0 if row is None else row["value"]
    if value % 2:
        raise ValueError("odd")
    return value

@mutation
def add(ctx: MutationCtx, name: str = "c", amount: int = 1) -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    if row is None:
        ctx.db.insert(Counter, {"name": name, "value": amount})
        return amount
    ctx.db.patch(row["_id"], {"value": row["value"] + amount})
    return row["value"] + amount

@mutation
def look(ctx: MutationCtx, name: str = "c") -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    return 0 if row is None else row["value"]
"""

MESSAGES = """
from evolute import MutationCtx, QueryCtx, mutation, query
from functions.schema import Message

@query
def list(ctx: QueryCtx) -> list[str]:
    return [row["body"] for row in ctx.db.query(Message)]

@query
def newest(ctx: QueryCtx, reader: int) -> str | None:
    # Every new message touches what this reads.
    row = ctx.db.query(Message).order("desc").first()
    return None if row is None else row["_id"]

@mutation
def send(ctx: MutationCtx, body: str) -> None:
    ctx.db.insert(Message, {"body": body})

@mutation
def clear(ctx: MutationCtx) -> None:
    for row in ctx.db.query(Message).collect():
        ctx.db.delete(row["_id"])
"""

VALUES = """
from typing import Any
from evolute import ActionCtx, MutationCtx, QueryCtx, action, mutation, query

@query
def echo(ctx: QueryCtx, value: Any) -> Any:
    return value

@mutation
def echo_back(ctx: MutationCtx, value: Any) -> Any:
    return value

@action
async def echo_late(ctx: ActionCtx, value: Any) -> Any:
    return value

@query
def type_of(ctx: QueryCtx, value: Any) -> str:
    return type(value).__name__

@query
def unspeakable(ctx: QueryCtx, key: str) -> Any:
    keys = {"surrogate": "\\ud800", "dollar": "$x", "umlaut": "ä"}
    return {keys[key]: 1} if key in keys else "\\ud800"
"""

FAULTS = """
from evolute import ActionCtx, ConvexError, MutationCtx, QueryCtx, action, internal_query, mutation, query
from functions.schema import Message

@mutation
def told(ctx: MutationCtx) -> None:
    ctx.db.insert(Message, {"body": "never"})
    raise ConvexError({"code": 7, "why": "because"})

@mutation
def raised(ctx: MutationCtx) -> None:
    print("about to fail")
    raise ValueError("boom")

@mutation
def needs_a_message(ctx: MutationCtx) -> str:
    row = ctx.db.query(Message).first()
    if row is None:
        raise ValueError("there is no message")
    return row["body"]

@query
def asked(ctx: QueryCtx) -> None:
    raise ConvexError("no")

@query
def broken(ctx: QueryCtx) -> None:
    raise ValueError("boom")

@action
async def acted(ctx: ActionCtx) -> None:
    raise ConvexError({"code": 9})

@internal_query
def hidden(ctx: QueryCtx) -> str:
    return "internal"
"""

GATED = """
import asyncio
import mmap
import os
import time
from evolute import ActionCtx, MutationCtx, QueryCtx, action, mutation, query
from functions.counters import add, get

_gates = mmap.mmap(os.open(os.environ["EVOLUTE_TEST_GATES"], os.O_RDWR), 0)

@mutation
def mutate(ctx: MutationCtx, gate: int, name: str = "c") -> int:
    print("at the gate")
    _gates[2 * gate] = 1
    while not _gates[2 * gate + 1]:
        time.sleep(0.001)
    return ctx.run_mutation(add, name=name)

@query
def ask(ctx: QueryCtx, gate: int) -> int:
    _gates[2 * gate] = 1
    while not _gates[2 * gate + 1]:
        time.sleep(0.001)
    return 1

@action
async def act(ctx: ActionCtx, gate: int, name: str = "c") -> int:
    _gates[2 * gate] = 1
    while not _gates[2 * gate + 1]:
        await asyncio.sleep(0.001)
    await ctx.run_mutation(add, name=name)
    return await ctx.run_query(get, name=name)
"""

JOBS = """
from evolute import MutationCtx, internal_mutation, mutation
from functions.counters import add

@internal_mutation
def explode(ctx: MutationCtx) -> None:
    raise ValueError("scheduled boom")

@mutation
def plan(ctx: MutationCtx) -> None:
    ctx.scheduler.run_after(0, explode)

@mutation
def plan_add(ctx: MutationCtx, name: str) -> None:
    print("planning", name)
    ctx.scheduler.run_after(0, add, name=name)
"""

INNER = """
from evolute import QueryCtx, query

@query
def answer(ctx: QueryCtx) -> int:
    return 42
"""

PLAIN = """
from evolute import QueryCtx, query

@query
def default(ctx: QueryCtx) -> str:
    return "default"
"""

APP: Mapping[str, str] = {
    "schema.py": SCHEMA,
    "counters.py": COUNTERS,
    "messages.py": MESSAGES,
    "values.py": VALUES,
    "faults.py": FAULTS,
    "gated.py": GATED,
    "jobs.py": JOBS,
    "deep/inner.py": INNER,
    "plain.py": PLAIN,
}
PATIENT = {"EVOLUTE_MUTATION_USER_MS_MAX": "30000", "EVOLUTE_QUERY_USER_MS_MAX": "30000"}
"""The environment of a server whose functions may wait at a gate for as long as a test does."""


def write_functions(folder: Path, sources: Mapping[str, str] = APP) -> Path:
    """Writes the files into `folder`, which must be called `functions`, and returns it."""
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class Gates:
    """Shared memory between a test and the functions of `gated.py`: each gate tells that it was reached, and opens."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "gates"
        self._path.write_bytes(bytes(2 * GATES))
        with self._path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    @property
    def environment(self) -> dict[str, str]:
        return {"EVOLUTE_TEST_GATES": str(self._path), **PATIENT}

    def wait_reached(self, gate: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._memory[2 * gate]:
            assert time.monotonic() < deadline, f"nobody has come to gate {gate}"
            time.sleep(0.001)

    def open(self, gate: int) -> None:
        self._memory[2 * gate + 1] = 1

    def close(self, gate: int) -> None:
        self._memory[2 * gate : 2 * gate + 2] = bytes(2)
