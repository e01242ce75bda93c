"""One session with five queries that every commit touches, while others commit as fast as they can."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.raw_session import RawSession, end_ts, post
from tests.end_to_end.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
QUERIES = 5
COMMITS_PER_S = 1000
SECONDS = 4.0
SILENCE_S_MAX = 5.0


def test_each_transition_arrives_and_shows_one_moment(tmp_path: Path) -> None:
    functions = write_functions(tmp_path / "functions")
    load = [sys.executable, "-m", "tests.end_to_end.commit_load"]
    with (
        ServerProcess(functions, tmp_path / "data", environment=Gates(tmp_path).environment) as server,
        RawSession(server.url) as client,
        ClientProcess([*load, str(server.port), str(COMMITS_PER_S), str(SECONDS)], folder=ROOT) as loading,
    ):
        queries = [client.added("messages:newest", reader=reader) for reader in range(QUERIES)]
        client.modify(*queries)
        client.transition()
        loading.wait_for("loading")
        began = last = time.monotonic()
        moments: list[tuple[int, str]] = []
        while time.monotonic() - began < SECONDS * 0.8:
            transition = client.transition()
            now = time.monotonic()
            assert now - last < SILENCE_S_MAX, f"nothing came for {now - last:.1f} s"
            last = now
            shown = {modification["queryId"]: modification["value"] for modification in transition["modifications"]}
            assert len(shown) == QUERIES, "every commit touches every query"
            (newest,) = set(shown.values())
            moments.append((end_ts(transition), newest))
        commits = int(loading.finish()[-1])
        _, latest = post(server.url, "/api/query", {"path": "messages:newest", "args": {"reader": 99}})
        for query in range(QUERIES):
            client.value(query, latest["value"])
        assert server.stop() == 0
    assert sorted(set(moments)) == moments, "time only goes forward"
    assert len({newest for _, newest in moments}) == len(moments), "each Transition shows something new"
    assert len(moments) > 10 * SECONDS, f"{len(moments)} Transitions for {commits} commits"
    assert commits > 20 * SECONDS
