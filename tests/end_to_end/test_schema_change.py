"""A schema is edited in `evolute dev` while its tables have rows and a client is connected."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess

ROWS = 400
SCHEMA = """
from typing import Literal

from evolute import Document, define_schema, define_table

class Task(Document):
    text: str
    kind: {kind}

schema = define_schema(tasks=define_table(Task){indexes})
"""
TASKS = """
from typing import Any

from evolute import MutationCtx, QueryCtx, mutation, query

@mutation
def seed(ctx: MutationCtx, count: int) -> None:
    for number in range(count):
        ctx.db.insert("tasks", {{"text": f"task {{number:04}}", "kind": "home"}})

@mutation
def add(ctx: MutationCtx, text: str, kind: str) -> str:
    return ctx.db.insert("tasks", {{"text": text, "kind": kind}})

@mutation
def remove(ctx: MutationCtx, task: str) -> None:
    ctx.db.delete(task)

@query
def last(ctx: QueryCtx) -> list[str]:
    return [task["text"] for task in ctx.db.query("tasks"){read}.order("desc").take(2)]
"""
BY_TEXT = '.index("by_text", ["text"])'


def write(folder: Path, *, kind: str = "str", indexes: str = "", read: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "schema.py").write_text(SCHEMA.format(kind=kind, indexes=indexes))
    (folder / "tasks.py").write_text(TASKS.format(read=read))
    return folder


class Developer:
    """Saves, and says what the terminal told about it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def save(self, **version: str) -> str:
        seen = len(self.server.output)
        write(self.server.functions, **version)
        told = r"\d\d:\d\d:\d\d  (reloaded: .*|the folder was not loaded.*\n {10}.*)"
        return self.server.wait_for(told, after=seen).group(1)


@pytest.fixture
def developer(tmp_path: Path) -> Iterator[Developer]:
    functions = write(tmp_path / "functions")
    # One row at a time when somebody writes: so a change can be met while it is under way.
    slow = {"EVOLUTE_BACKFILL_ROWS_MAX": "50", "EVOLUTE_BACKFILL_BUSY_ROWS_PER_S": "40"}
    with ServerProcess(functions, tmp_path / "data", environment={**slow, "EVOLUTE_SCHEMA_PROGRESS_MS": "1"}) as server:
        yield Developer(server)
        assert server.stop() == 0
        assert "Traceback" not in server.output


@pytest.fixture
def client(developer: Developer) -> Iterator[RawSession]:
    with RawSession(developer.server.url) as session:
        session.mutate("tasks:seed", count=ROWS)
        yield session


def test_an_index_is_added_to_a_table_with_rows_and_the_subscriber_is_served_by_it(
    developer: Developer, client: RawSession
) -> None:
    query = client.add("tasks:last")
    client.value(query, ["task 0399", "task 0398"])
    client.mutate("tasks:add", text="task 0000 again", kind="home")
    client.value(query, ["task 0000 again", "task 0399"])
    saved = developer.save(indexes=BY_TEXT, read='.with_index("by_text")')
    assert saved.startswith("reloaded: ")
    client.value(query, ["task 0399", "task 0398"])
    developer.server.wait_for(r"\d\d:\d\d:\d\d  tasks: building by_text: \d+ % \(\d+ rows, [\d,]+/s\)")
    assert developer.save().startswith("reloaded: ")
    client.value(query, ["task 0000 again", "task 0399"])
    assert developer.save(indexes=BY_TEXT, read='.with_index("by_text")').startswith("reloaded: ")
    client.value(query, ["task 0399", "task 0398"])


def test_a_row_that_does_not_fit_is_named_and_the_old_code_serves_until_a_save_repairs_it(
    developer: Developer, client: RawSession
) -> None:
    query = client.add("tasks:last")
    bad = client.mutate("tasks:add", text="odd", kind="odd")["result"]
    client.value(query, ["odd", "task 0399"])
    strict = {"kind": 'Literal["home", "work"]', "indexes": BY_TEXT, "read": '.with_index("by_text")'}
    saved = developer.save(**strict)
    assert saved.startswith("the folder was not loaded; the old code keeps serving\n")
    assert f'Document with ID "{bad}" in table "tasks" does not match the schema: ' in saved
    developer.server.wait_for(r"\n {10}Path: \.kind\n")
    assert client.mutate("tasks:add", text="odd too", kind="odd")["success"]  # the old schema holds
    client.value(query, ["odd too", "odd"])
    developer.save(kind='Literal["home", "work", "odd"]', indexes=BY_TEXT, read='.with_index("by_text")')
    client.value(query, ["task 0399", "task 0398"])
    assert not client.mutate("tasks:add", text="x", kind="even")["success"]
    rows = [bad, client.mutate("tasks:add", text="odd 3", kind="odd")["result"]]
    assert "does not match the schema" in developer.save(**strict)
    for row in rows:
        client.mutate("tasks:remove", task=row)


def test_a_newer_save_replaces_a_change_that_is_under_way_and_writes_go_on(
    developer: Developer, client: RawSession
) -> None:
    stopping = threading.Event()
    faults: list[Any] = []

    def keep_writing() -> None:
        with RawSession(developer.server.url) as session:
            while not stopping.is_set():
                answer = session.mutate("tasks:add", text="zz", kind="home")
                if not answer["success"]:
                    faults.append(answer)

    writing = threading.Thread(target=keep_writing)
    writing.start()
    try:
        query = client.add("tasks:last")
        write(developer.server.functions, indexes=BY_TEXT, read='.with_index("by_text")')
        developer.server.wait_for(r"tasks: building by_text: ")  # 40 rows a second: it would take ten seconds
        assert developer.save(read='.filter(lambda task: task["text"] < "zz")').startswith("reloaded: ")
        client.value(query, ["task 0399", "task 0398"])
    finally:
        stopping.set()
        writing.join()
    assert not faults
    assert developer.save(indexes=BY_TEXT, read='.with_index("by_text")').startswith("reloaded: ")
    client.value(query, ["zz", "zz"])


def test_a_staged_index_holds_nothing_up_and_is_not_queried_before_it_is_enabled(
    developer: Developer, client: RawSession
) -> None:
    query = client.add("tasks:last")
    staged = BY_TEXT.replace("])", "], staged=True)")
    assert developer.save(indexes=staged, read='.with_index("by_text")').startswith("reloaded: ")
    text = "Index tasks.by_text is currently staged and not available to query until it is enabled."
    client.until(lambda: text in str(client.results.get(query, {}).get("errorMessage")))
    developer.server.wait_for("the staged index tasks.by_text is backfilled")
    client.mutate("tasks:add", text="task 0398 again", kind="home")
    assert developer.save(indexes=BY_TEXT, read='.with_index("by_text")').startswith("reloaded: ")
    client.value(query, ["task 0399", "task 0398 again"])
