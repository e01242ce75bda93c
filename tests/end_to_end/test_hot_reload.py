"""Saving a file is publishing code: what runs is swapped under the clients, or, if it is broken, nothing is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from evolute_client import Client
from tests.end_to_end.app_under_test import APP, COUNTERS, Gates, write_functions
from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess

PATIENCE_S = 60

ANSWER = """
from evolute import QueryCtx, query

@query
def get(ctx: QueryCtx) -> str:
    return "{}"
"""


class Developer:
    """Saves files of a served folder, and reads in the server's terminal what came of it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def save(self, sources: dict[str, str]) -> str:
        """The whole folder; returns the line that tells of the reload, or of why there is none."""
        seen = len(self.server.output)
        write_functions(self.server.functions, sources)
        return self.server.wait_for(r"\d\d:\d\d:\d\d  (reloaded: .*|the folder was not loaded.*)", after=seen).group(1)

    def terminal(self, pattern: str) -> None:
        self.server.wait_for(pattern)


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    return Gates(tmp_path_factory.mktemp("gates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gates: Gates) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("reload")
    functions = write_functions(folder / "functions", {**APP, "answer.py": ANSWER.format("first")})
    with ServerProcess(functions, folder / "data", environment=gates.environment) as server:
        yield server
        assert server.stop() == 0
        assert "runtime/evolute/" not in server.output, "no traceback shows a file of ours"


@pytest.fixture
def developer(server: ServerProcess) -> Iterator[Developer]:
    developer = Developer(server)
    yield developer
    restored = {**APP, "answer.py": ANSWER.format("first")}
    if any((server.functions / name).read_text() != text for name, text in restored.items()):
        assert developer.save(restored).startswith("reloaded")


def test_subscribers_get_the_results_of_new_code(developer: Developer) -> None:
    """On the connection that they have."""

    async def test() -> None:
        async with (
            asyncio.timeout(PATIENCE_S),
            Client(developer.server.url) as ours,
            ours.subscribe("answer:get") as results,
        ):
            assert await anext(results) == "first"
            saved = await asyncio.to_thread(developer.save, {"answer.py": ANSWER.format("second")})
            assert saved.startswith("reloaded: ")
            assert await anext(results) == "second"

    with RawSession(developer.server.url) as raw:
        query = raw.add("answer:get")
        unchanged = raw.add("counters:get")
        raw.value(query, "first")
        raw.value(unchanged, 0)
        asyncio.run(test())
        raw.value(query, "second")
        transitions = [message for message in raw.heard if message["type"] == "Transition"]
        assert [modification["queryId"] for modification in transitions[-1]["modifications"]] == [query]


def test_a_broken_folder_is_shown_whole_and_the_old_code_serves_on(developer: Developer) -> None:
    with RawSession(developer.server.url) as client:
        query = client.add("answer:get")
        client.value(query, "first")
        broken = {"answer.py": "def get(:\n", "counters.py": COUNTERS + "\nundefined_name\n"}
        assert developer.save(broken) == "the folder was not loaded; the old code keeps serving"
        developer.terminal("4 faults")
        developer.terminal(r'File ".*functions/answer\.py", line 1\n.*def get\(:\n[\s^]*SyntaxError')
        developer.terminal(
            r'File ".*functions/counters\.py", line \d+, in <module>\n[\s^]*undefined_name\n[\s^]*NameError'
        )
        developer.terminal(r"gated\.py: stopped by the same error as counters\.py")
        assert client.mutate("counters:add", name="meanwhile")["result"] == 1
        assert client.results[query]["value"] == "first"
        repaired = {"answer.py": ANSWER.format("repaired"), "counters.py": COUNTERS}
        assert developer.save(repaired).startswith("reloaded: ")
        client.value(query, "repaired")
        assert client.mutate("counters:add", name="meanwhile")["result"] == 2


def test_a_new_function_can_be_called_and_a_deleted_one_cannot(developer: Developer) -> None:
    with RawSession(developer.server.url) as client:
        query = client.add("later:get")
        assert "Could not find public function for 'later:get'" in client.result(query)["errorMessage"]
        developer.save({"later.py": ANSWER.format("here")})
        client.value(query, "here")
        (developer.server.functions / "later.py").unlink()
        client.until(lambda: client.results[query]["type"] == "QueryFailed")


def test_what_is_in_flight_is_not_lost(developer: Developer, gates: Gates) -> None:
    """A mutation runs again with the new code; an action ends with the code that it began with."""
    with RawSession(developer.server.url) as client:
        mutation = client.request("Mutation", "gated:mutate", gate=0, name="flying")
        action = client.request("Action", "gated:act", gate=1, name="flying too")
        gates.wait_reached(0)
        gates.wait_reached(1)
        assert developer.save({"answer.py": ANSWER.format("third")}).startswith("reloaded")
        assert not client.answers
        gates.open(0)
        gates.open(1)
        assert client.covered(mutation)["result"] == 1
        assert client.answer(action)["result"] == 1
        assert client.mutate("counters:add", name="flying")["result"] == 2
    gates.close(0)
    gates.close(1)


def test_nobody_fails_while_code_is_saved_again_and_again(developer: Developer) -> None:
    stopping = threading.Event()
    faults: list[BaseException] = []
    counts: list[int] = []

    def add_on_and_on(name: str) -> None:
        try:
            with RawSession(developer.server.url) as client:
                count = 0
                while not stopping.is_set():
                    count += 1
                    assert client.mutate("counters:add", name=name)["result"] == count
                counts.append(count)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=add_on_and_on, args=(f"busy {number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        with RawSession(developer.server.url) as client:
            query = client.add("answer:get")
            for number in range(3):
                developer.save({"answer.py": ANSWER.format(f"version {number}")})
                client.value(query, f"version {number}")
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert not faults, faults
    assert min(counts) > 0
