"""Queries as of an earlier time, while everything that they read changes: npm's `consistentQuery` asks in this way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.raw_session import RawSession, post
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_npm_client import Node

FEW = {"EVOLUTE_PINNED_SNAPSHOTS_MAX": "2"}


@contextmanager
def served(folder: Path, environment: dict[str, str] | None = None, workers: int = 2) -> Iterator[ServerProcess]:
    functions = write_functions(folder / "functions")
    given = {**Gates(folder).environment, **(environment or {})}
    with ServerProcess(functions, folder / "data", environment=given, workers=workers) as server:
        yield server


def latest(server: ServerProcess) -> str:
    return str(post(server.url, "/api/query_ts", b"")[1]["ts"])


def at(server: ServerProcess, ts: str, by: int = 1) -> Any:
    """The counter as of `ts`, or the code of the refusal."""
    wanted = {"path": "counters:scaled", "args": {"name": "past", "by": by}, "ts": ts}
    status, answer = post(server.url, "/api/query_at_ts", wanted)
    assert status in (200, 503), answer
    return answer["value"] if status == 200 else answer["code"]


def add(server: ServerProcess) -> None:
    _, answer = post(server.url, "/api/mutation", {"path": "counters:add", "args": {"name": "past"}})
    assert answer["status"] == "success", answer


@contextmanager
def load(server: ServerProcess) -> Iterator[None]:
    """Somebody who does not stop to write."""
    stopping = threading.Event()

    def write() -> None:
        with RawSession(server.url) as writer:
            while not stopping.is_set():
                writer.mutate("counters:add", name="past")

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield
    finally:
        stopping.set()
        writing.join()


def test_what_was_true_is_true_at_its_time_whatever_is_written(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        add(server)
        with load(server):
            seen = []
            for _ in range(20):
                ts = latest(server)
                values = [at(server, ts, by=by) for by in (1, 10, 100, 1)]
                assert values == [values[0], values[0] * 10, values[0] * 100, values[0]]
                seen.append(values[0])
        assert seen == sorted(seen)
        assert len(set(seen)) > 5, "nothing was written meanwhile"
        add(server)
        now = at(server, latest(server))
        assert now == at(server, latest(server)), "and what was answered is in it"
        assert now > seen[-1]


def test_so_many_moments_are_kept_and_no_more(tmp_path: Path) -> None:
    """pinned_snapshots_max."""
    with served(tmp_path, FEW) as server:
        moments = []
        for _ in range(3):
            add(server)
            moments.append(latest(server))
        add(server)
        assert [at(server, ts) for ts in moments] == ["OutOfRetention", 2, 3]
        same = latest(server)
        assert {latest(server), latest(server)} == {same}, "what is the same moment is kept once"
        assert [at(server, ts) for ts in (moments[1], moments[2], same)] == ["OutOfRetention", 3, 4]


def test_a_moment_is_kept_for_a_while(tmp_path: Path) -> None:
    """pinned_snapshot_ms."""
    with served(tmp_path, {"EVOLUTE_PINNED_SNAPSHOT_MS": "1"}) as server:
        add(server)
        ts = latest(server)
        add(server)
        while at(server, ts) != "OutOfRetention":
            pass
        assert at(server, latest(server)) == 2


def test_a_worker_that_dies_takes_its_moments_with_it(tmp_path: Path) -> None:
    with served(tmp_path, workers=1) as server:
        add(server)
        ts = latest(server)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        add(server)
        assert at(server, ts) == "OutOfRetention"
        ts = latest(server)
        add(server)
        assert at(server, ts) == 2


def test_npm_s_client_asks_several_things_of_one_time(tmp_path: Path, node_folder: Path) -> None:
    text = """
const { counters } = anyApi;
for (let number = 0; number < 10; number++) {
  const http = new ConvexHttpClient(url);
  const one = await http.consistentQuery(counters.scaled, { name: "past", by: 1 });
  const ten = await http.consistentQuery(counters.scaled, { name: "past", by: 10 });
  assert.equal(ten, 10 * one);
  assert(one > 0);
}
"""
    with served(tmp_path) as server:
        add(server)
        with load(server), Node(node_folder).program(text, server.url) as client:
            client.finish()
