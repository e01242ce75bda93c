"""PyPI's `convex` client, unmodified, against the real server.

The client holds the interpreter's lock while it waits, so each program runs in a process of its own, and a client that
hangs is a failure and not a test that never ends.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.server_process import ServerProcess

PRELUDE = """
import math
import sys
import convex
from convex import ConvexClient, ConvexError, ConvexExecutionError, ConvexInt64

def failure(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return error
    raise AssertionError("it did not fail")

def wait_connected():
    # What is called in the very moment in which its connection goes, this client fails with "channel closed".
    while True:
        try:
            return client.query("plain")
        except Exception as error:
            assert "channel closed" in str(error), error

url = sys.argv[1]
client = ConvexClient(url)
"""


def program(text: str, url: str, *arguments: str) -> ClientProcess:
    return ClientProcess([sys.executable, "-c", PRELUDE + text, url, *arguments])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("pypi")
    gates = Gates(folder)
    functions = write_functions(folder / "functions")
    with ServerProcess(functions, folder / "data", environment=gates.environment) as server:
        yield server


def test_every_kind_of_call(server: ServerProcess) -> None:
    text = """
assert client.mutation("counters:add", {"name": "kinds", "amount": 2}) == 2.0
assert client.query("counters:get", {"name": "kinds"}) == 2.0
assert client.action("values:echo_late", {"value": [1]}) == [1.0]
assert client.mutation("counters:look", {"name": "kinds"}) == 2.0, "a mutation that writes nothing ends too"
assert client.query("deep/inner:answer") == 42.0
assert client.query("plain") == "default"
"""
    with program(text, server.url) as client:
        client.finish()


def test_failures_are_raised_and_nothing_hangs(server: ServerProcess) -> None:
    text = """
error = failure(client.mutation, "faults:told", {})
assert isinstance(error, ConvexError), error
assert error.data == {"code": 7.0, "why": "because"}, error.data
assert failure(client.action, "faults:acted", {}).data == {"code": 9.0}
assert failure(client.query, "faults:asked", {}).data == "no"
for call in (client.mutation, client.query, client.action):
    error = failure(call, "faults:nothing", {})
    assert not isinstance(error, ConvexError), "only the application's own errors have data"
    assert "Could not find public function for 'faults:nothing'" in str(error), error
assert "Could not find public function for 'faults:hidden'" in str(failure(client.query, "faults:hidden", {}))
assert "ValueError: boom" in str(failure(client.mutation, "faults:raised", {}))
assert "ValueError: boom" in str(failure(client.query, "faults:broken", {}))
assert "ArgumentValidationError" in str(failure(client.mutation, "counters:add", {"amount": "x"}))
assert client.mutation("counters:look", {"name": "faults"}) == 0.0
"""
    with program(text, server.url) as client:
        client.finish()


def test_values_survive_the_round_trip(server: ServerProcess) -> None:
    text = """
values = [
    None, True, False, "", "ä𝄞\\0", b"", bytes(range(256)), [], {}, [[{"a": [None]}]], 1.5, 1e300, -1e-300,
    2.0**53, math.inf, -math.inf, {"": 1.0, "a b": 2.0}, ConvexInt64(0), ConvexInt64(2**63 - 1), ConvexInt64(-(2**63)),
]
paths = {client.query: "values:echo", client.mutation: "values:echo_back", client.action: "values:echo_late"}
for call, path in paths.items():
    for value in values:
        came = call(path, {"value": value})
        assert came == value and type(came) is type(value), (value, came)
    assert math.isnan(call(path, {"value": math.nan}))
    assert math.copysign(1, call(path, {"value": -0.0})) == -1
    came = call(path, {"value": 3})
    assert came == 3.0 and type(came) is float
    assert call(path, {"value": (1, 2)}) == [1.0, 2.0]
assert client.query("values:type_of", {"value": 3.0}) == "int", "a whole number is whole, whoever sent it"
assert client.query("values:type_of", {"value": ConvexInt64(3)}) == "Int64"
"""
    with program(text, server.url) as client:
        client.finish()


def test_a_subscription_sees_every_change_of_others(server: ServerProcess) -> None:
    text = """
other = ConvexClient(url)
results = client.subscribe("counters:get", {"name": "watched"})
assert next(results) == 0.0
for number in (1.0, 2.0, 3.0):
    assert other.mutation("counters:add", {"name": "watched"}) == number
    assert next(results) == number
failing = client.subscribe("counters:fails_when_odd", {"name": "watched"})
assert "ValueError: odd" in str(failure(next, failing))
other.mutation("counters:add", {"name": "watched"})
assert next(failing) == 4.0, "a query that fails stays subscribed"
results.unsubscribe()
assert client.query("counters:get", {"name": "watched"}) == 4.0
"""
    with program(text, server.url) as client:
        client.finish()


def test_queries_that_are_watched_together_agree(server: ServerProcess) -> None:
    text = """
other = ConvexClient(url)
once = client.subscribe("counters:scaled", {"name": "together", "by": 1})
ten = client.subscribe("counters:scaled", {"name": "together", "by": 10})
both = client.watch_all()
for number in range(1, 20):
    other.mutation("counters:add", {"name": "together"})
seen = 0.0
while seen < 19:
    results = next(both)
    if len(results) == 2:
        seen = results[once.id]["value"]
        assert results[ten.id]["value"] == 10 * seen, results
"""
    with program(text, server.url) as client:
        client.finish()


def test_a_transition_longer_than_a_frame_may_be(server: ServerProcess) -> None:
    """Both queries change in one commit, so their 18 MB are one message."""
    text = """
size = 9_000_000
first = client.subscribe("counters:large", {"name": "large", "size": size})
second = client.subscribe("counters:large", {"name": "large", "size": size + 1})
assert next(first).startswith("0:") and next(second).startswith("0:")
ConvexClient(url).mutation("counters:add", {"name": "large"})
assert next(first) == "1:" + "x" * size
assert next(second) == "1:" + "x" * (size + 1)
"""
    with program(text, server.url) as client:
        client.finish()


def test_the_http_client(server: ServerProcess) -> None:
    text = """
from convex.http_client import ConvexHttpClient
http = ConvexHttpClient(url)
assert http.mutation("counters:add", {"name": "http", "amount": 3}) == 3.0
assert http.query("counters:get", {"name": "http"}) == 3.0
assert http.action("values:echo_late", {"value": {"a": [1, None], "b": b"x"}}) == {"a": [1.0, None], "b": b"x"}
assert http.query("values:echo", {"value": ConvexInt64(-1)}) == -1
assert math.isnan(http.query("values:echo", {"value": math.nan}))
assert failure(http.mutation, "faults:told", {}).data == {"code": 7.0, "why": "because"}
assert "ValueError: boom" in str(failure(http.mutation, "faults:raised", {}))
assert "Could not find public function" in str(failure(http.query, "faults:nothing", {}))
"""
    with program(text, server.url) as client:
        client.finish()


def test_a_client_lives_through_a_restart(tmp_path: Path) -> None:
    """It comes back with another spelling of the path, `messages.js:list`."""
    functions = write_functions(tmp_path / "functions")
    gates = Gates(tmp_path)
    text = """
results = client.subscribe("messages:list", {})
assert next(results) == []
client.mutation("messages:send", {"body": "before"})
assert next(results) == ["before"]
print("ready", flush=True)
input()
wait_connected()
client.mutation("messages:send", {"body": "after"})
while (seen := next(results)) != ["before", "after"]:
    assert seen == ["before"], seen
assert client.query("messages:list") == ["before", "after"]
"""
    data, environment = tmp_path / "data", gates.environment
    with ServerProcess(functions, data, environment=environment) as first, program(text, first.url) as client:
        client.wait_for("ready")
        first.kill()
        with ServerProcess(functions, data, port=first.port, environment=environment) as second:
            client.say("go")
            client.finish()
            assert second.stop() == 0


def test_a_mutation_in_flight_is_run_once_when_the_server_stops(tmp_path: Path) -> None:
    """This client sends again under a new session what was not shown to it, so a server must end with that."""
    functions = write_functions(tmp_path / "functions")
    gates = Gates(tmp_path)
    text = """
assert client.mutation("gated:mutate", {"gate": 0}) == 1.0
input()
wait_connected()
assert client.mutation("counters:add") == 2.0
"""
    data, environment = tmp_path / "data", gates.environment
    with ServerProcess(functions, data, environment=environment) as first, program(text, first.url) as client:
        gates.wait_reached(0)
        first.process.send_signal(signal.SIGTERM)
        first.wait_deaf()
        gates.open(0)
        assert first.wait() == 0
        with ServerProcess(functions, data, port=first.port, environment=environment) as second:
            client.say("go")
            client.finish()
            assert second.stop() == 0
