"""One session with five queries that every commit touches, while others commit as fast as they can."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.raw_session import RawSession, end_ts, post
from tests.end_to_end.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
QUERIES = 5
TRANSITIONS = 250
COMMITS_PER_S = 1000


def test_each_transition_arrives_and_shows_one_moment(tmp_path: Path) -> None:
    functions = write_functions(tmp_path / "functions")
    load = [sys.executable, "-m", "tests.end_to_end.commit_load"]
    with (
        ServerProcess(functions, tmp_path / "data", environment=Gates(tmp_path).environment) as server,
        RawSession(server.url) as client,
        ClientProcess([*load, str(server.port), str(COMMITS_PER_S)], folder=ROOT) as loading,
    ):
        client.modify(*(client.added("messages:newest", reader=reader) for reader in range(QUERIES)))
        client.transition()
        moments: list[tuple[int, str]] = []
        while len(moments) < TRANSITIONS:
            transition = client.transition()
            shown = {modification["queryId"]: modification["value"] for modification in transition["modifications"]}
            assert len(shown) == QUERIES, "every commit touches every query"
            (newest,) = set(shown.values())
            moments.append((end_ts(transition), newest))
        loading.say("enough")
        commits = int(loading.finish()[-1])
        _, latest = post(server.url, "/api/query", {"path": "messages:newest", "args": {"reader": QUERIES}})
        for query in range(QUERIES):
            client.value(query, latest["value"])
        assert server.stop() == 0
    timestamps = [ts for ts, _ in moments]
    assert timestamps == sorted(set(timestamps)), "time only goes forward"
    assert len({newest for _, newest in moments}) == TRANSITIONS, "each Transition shows something new"
    assert commits >= TRANSITIONS
