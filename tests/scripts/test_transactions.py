"""Golden scripts: several transactions at the same time, on a real engine with a real committer.

A script is a sequence of blocks: commands, a line `---`, and exactly what came of them. Each transaction has a name:

    tables accounts by_balance(balance) events     makes tables with their indexes
    t1: begin                                      takes a snapshot
    t1: insert accounts/a balance=10               a value is JSON; patch, replace and delete likewise; note=unset
    t1: get accounts/a
    t1: scan accounts by_balance gte:balance=5 desc take=2 where:owner="x"
    t1: each accounts by_balance patch balance=0   patches every row while it walks over them
    t1: savepoint / rollback
    t1: commit                                     alone; `commit t1 t2` lets both arrive in the same moment
    t1: schedule job / start job / succeed job / cancel job / job job

With SCRIPTS_REWRITE=1 in the environment the scripts take on what came.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolute.database.index_range import Range
from evolute.database.query import Query
from evolute.database.transaction import Savepoint, Transaction
from evolute.errors import Conflict, EvoluteError
from evolute.storage.keyspace import parse
from evolute.system import job_endings, jobs
from evolute.system.job_endings import Ending
from evolute.values.document_id import encode_id
from evolute.values.schema import IndexDefinition
from evolute.values.value import UNSET
from tests.open_store import OpenStore

SCRIPTS = Path(__file__).parent / "transactions"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda script: script.stem)
def test_script(script: Path, store: OpenStore) -> None:
    stage = Stage(store)
    played: list[str] = []
    for block in script.read_text().split("\n\n"):
        commands, outcome, _ = (block.strip("\n") + "\n").partition("---\n")
        played.append(commands.rstrip("\n"))
        if outcome:
            came = [line for command in commands.splitlines() for line in stage.perform(command)]
            played[-1] = "\n".join([played[-1], "---", *(came or ["ok"])])
    came_text = "\n\n".join(played) + "\n"
    if os.environ.get("SCRIPTS_REWRITE"):
        script.write_text(came_text)
    assert came_text == script.read_text()


class Stage:
    """A store, the transactions under way, and the names that the script has given to documents."""

    def __init__(self, store: OpenStore) -> None:
        self.store = store
        self.transactions: dict[str, Transaction] = {}
        self.savepoints: dict[str, list[Savepoint]] = {}
        self.ids: dict[str, str] = {}

    def perform(self, command: str) -> Iterator[str]:
        if not command or command.startswith("#"):
            return
        name, is_named, rest = command.partition(": ")
        if not is_named:
            verb, *words = command.split()
            yield from getattr(self, f"all_{verb}")(*words)
            return
        verb, *words = rest.split()
        try:
            for line in getattr(self, f"do_{verb}")(name, *words):
                yield f"{name}: {line}"
        except (EvoluteError, Conflict) as error:
            yield f"{name}: {self.failure(error)}"

    # --- the stage -------------------------------------------------------------------------------------------------

    def all_tables(self, *words: str) -> Iterator[str]:
        tables: dict[str, list[IndexDefinition]] = {}
        for word in words:
            index = re.fullmatch(r"(\w+)\((.*)\)", word)
            if index is None:
                tables[word] = []
            else:
                tables[list(tables)[-1]].append(IndexDefinition(index[1], tuple(index[2].split(","))))
        for table, indexes in tables.items():
            self.store.run(lambda transaction, table=table, indexes=indexes: transaction.create_table(table, indexes))  # type: ignore[misc]
        yield from ()

    def all_commit(self, *names: str) -> Iterator[str]:
        outcomes = self.store.commit_together([self.transactions[name] for name in names])
        for name, outcome in zip(names, outcomes, strict=True):
            yield f"{name}: {self.failure(outcome) if isinstance(outcome, BaseException) else 'committed'}"

    def do_begin(self, name: str) -> Iterator[str]:
        self.transactions[name] = self.store.begin()
        self.savepoints[name] = []
        yield from ()

    def do_commit(self, name: str) -> Iterator[str]:
        is_empty = not self.transactions[name].write_set()
        self.store.commit(self.transactions[name])
        yield "nothing to commit" if is_empty else "committed"

    def do_savepoint(self, name: str) -> Iterator[str]:
        self.savepoints[name].append(self.transactions[name].savepoint())
        yield from ()

    def do_rollback(self, name: str) -> Iterator[str]:
        self.transactions[name].rollback(self.savepoints[name].pop())
        yield from ()

    # --- documents -------------------------------------------------------------------------------------------------

    def do_insert(self, name: str, document: str, *fields: str) -> Iterator[str]:
        table, _, _ = document.partition("/")
        self.ids[document] = self.transactions[name].insert(table, fields_of(fields))
        yield from ()

    def do_patch(self, name: str, document: str, *fields: str) -> Iterator[str]:
        self.transactions[name].patch(self.id_of(document), fields_of(fields))
        yield from ()

    def do_replace(self, name: str, document: str, *fields: str) -> Iterator[str]:
        self.transactions[name].replace(self.id_of(document), fields_of(fields))
        yield from ()

    def do_delete(self, name: str, document: str) -> Iterator[str]:
        self.transactions[name].delete(self.id_of(document))
        yield from ()

    def do_get(self, name: str, document: str) -> Iterator[str]:
        row = self.transactions[name].get(self.id_of(document))
        yield f"{document} is not there" if row is None else self.shown(row)

    def do_scan(self, name: str, table: str, *words: str) -> Iterator[str]:
        query, count = self.query(name, table, words)
        rows = query.collect() if count is None else query.take(count)
        yield " ".join(map(self.shown, rows)) or "no rows"

    def do_each(self, name: str, table: str, *words: str) -> Iterator[str]:
        place = words.index("patch")
        query, _ = self.query(name, table, words[:place])
        rows = []
        for row in query:
            rows.append(self.shown(row))
            self.transactions[name].patch(row["_id"], fields_of(words[place + 1 :]))
        yield " ".join(rows) or "no rows"

    def query(self, name: str, table: str, words: tuple[str, ...]) -> tuple[Query[dict[str, Any]], int | None]:
        query = self.transactions[name].query(table)
        index: str | None = None
        fields: dict[str, Any] = {}
        count: int | None = None
        for word in words:
            operator, _, condition = word.partition(":")
            if word in ("asc", "desc"):
                continue
            if word.startswith("take="):
                count = int(word.removeprefix("take="))
            elif not condition:
                index = word
            elif operator != "where":
                ((field, value),) = fields_of([condition]).items()
                given = fields.get(field, Range())
                fields[field] = value if operator == "eq" else Range(**{**bounds_of(given), operator: value})
        if index is not None:
            query = query.with_index(index, **fields)
        if "desc" in words:
            query = query.order("desc")
        for word in words:
            if word.startswith("where:"):
                query = query.filter(matching(fields_of([word.removeprefix("where:")])))
        return query, count

    # --- jobs ------------------------------------------------------------------------------------------------------

    def do_schedule(self, name: str, job: str) -> Iterator[str]:
        self.ids[job] = jobs.schedule(
            self.transactions[name], path="messages:send", arguments={}, due_ns=None, scheduled_ms=0.0
        )
        yield from ()

    def do_start(self, name: str, job: str) -> Iterator[str]:
        began = jobs.begin(self.transactions[name], self.ids[job])
        yield "runs" if began else "may not run"

    def do_succeed(self, name: str, job: str) -> Iterator[str]:
        if job_endings.settle(self.transactions[name], self.ids[job], Ending("success")) is None:
            yield "was canceled meanwhile"

    def do_cancel(self, name: str, job: str) -> Iterator[str]:
        jobs.cancel(self.transactions[name], self.ids[job])
        yield from ()

    def do_job(self, name: str, job: str) -> Iterator[str]:
        row: Any = self.transactions[name].get(self.ids[job])
        yield f"{job} is {row['state']['kind']}" if row is not None else f"{job} is not there"

    # --- names -----------------------------------------------------------------------------------------------------

    def id_of(self, document: str) -> str:
        """An id that belongs to no document if the script has inserted none of that name."""
        if document not in self.ids:
            table, _, name = document.partition("/")
            number = self.store.begin().table_number(table) or 19_999
            self.ids[document] = encode_id(number, name.encode().rjust(16, b"\0"))
        return self.ids[document]

    def shown(self, row: dict[str, Any]) -> str:
        names = {document_id: document for document, document_id in self.ids.items()}
        fields = ",".join(f"{name}={json.dumps(value)}" for name, value in row.items() if not name.startswith("_"))
        return f"{names[row['_id']].partition('/')[2]}({fields})"

    def failure(self, error: BaseException) -> str:
        if not isinstance(error, Conflict):
            text = str(error)
            for document, document_id in self.ids.items():
                text = text.replace(document_id, document)
            return f"{type(error).__name__}: {text}"
        key = parse(error.key)
        names = {document_id: document for document, document_id in self.ids.items()}
        look = self.store.begin()
        if key.family == "document":
            return f"conflict on {names[encode_id(key.number, key.internal_id)]}"
        for document_id, document in names.items():
            definition = look.table(document.partition("/")[0]) if "/" in document else None
            for index in definition.indexes.values() if definition is not None else ():
                if index.id == key.number and encode_id(definition.number, key.internal_id) == document_id:  # type: ignore[union-attr]
                    return f"conflict on {document} in {index.name}"
        return f"conflict on {key}"


def fields_of(words: tuple[str, ...] | list[str]) -> dict[str, Any]:
    pairs = (word.partition("=") for word in words)
    return {name: UNSET if value == "unset" else json.loads(value) for name, _, value in pairs}


def bounds_of(bounds: Range) -> dict[str, object]:
    return {"gt": bounds.gt, "gte": bounds.gte, "lt": bounds.lt, "lte": bounds.lte}


def matching(fields: dict[str, Any]) -> Any:
    return lambda row: all(row.get(name) == value for name, value in fields.items())
