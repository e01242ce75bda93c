"""A client that does not read costs a bounded amount of memory, and when it reads it is shown the present at once."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.measures import private_mib
from tests.benchmarks.sync_socket import SyncSocket
from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess

SIZE = 1_000_000
COMMITS = 150
GROWTH_MIB_MAX = 60
"""Of the server while it lasts: broken results, and the one Transition that is in flight. All of them would be 150."""


def test_a_client_that_does_not_read_is_shown_less_and_costs_little(tmp_path: Path) -> None:
    functions = write_functions(tmp_path / "functions")
    environment = {**Gates(tmp_path).environment, "EVOLUTE_QUERY_CACHE_BYTES_MAX": "1000000"}
    with ServerProcess(functions, tmp_path / "data", environment=environment) as server:
        slow = SyncSocket(server.port)
        query = slow.subscribe("counters:large", {"name": "slow", "size": SIZE})
        assert slow.wait_update(query).startswith("0:")
        with RawSession(server.url) as writer, RawSession(server.url) as watcher:
            watched = watcher.add("counters:get", name="slow")
            before_mib = private_mib(server.process.pid)
            for _ in range(COMMITS):
                assert writer.mutate("counters:add", name="slow")["success"]
            watcher.value(watched, COMMITS)  # others are not held up
            assert private_mib(server.process.pid) - before_mib < GROWTH_MIB_MAX
        shown = [slow.wait_update(query)]
        while not shown[-1].startswith(f"{COMMITS}:"):
            shown.append(slow.wait_update(query))
        assert len(shown) < COMMITS / 3, "what it did not read was put together"
        slow.close()
        assert server.stop() == 0
