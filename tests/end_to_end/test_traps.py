"""The traps of a server of the sync protocol, and for each the test that it does not fall into it.

A trap is something that unmodified clients do not forgive: they hang, reconnect for ever, or die. The numbers are those
of the protocol's specification, section 14. What stands here is met on a real socket, without a client in between.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.raw_session import RawSession, ts_of
from tests.end_to_end.server_process import ServerProcess
from tests.test_tidy import tree

END_TO_END, UNIT = "tests/end_to_end/test_", "tests/unit/test_"
HERE, PYPI, NPM = (f"{END_TO_END}{name}.py::test_" for name in ("traps", "pypi_client", "npm_client"))
HTTP, CODEC, WIRE = (f"{UNIT}{name}.py::test_" for name in ("http_api", "codec", "wire_codec"))
AUTH, SOCKET, VALIDATORS = (f"{UNIT}{name}.py::test_" for name in ("auth", "websocket", "validators"))
SESSIONS = "tests/scripts/sessions/"
PAGES, REACT = (f"{END_TO_END}{name}.py::test_" for name in ("pagination", "react"))
PAGE, JOURNALS, CURSOR = (f"{UNIT}{name}.py::test_" for name in ("pagination", "journals", "cursor"))

TRAPS: dict[int, tuple[str, ...]] = {
    1: (f"{HERE}a_transition_follows_every_answer", f"{PYPI}failures_are_raised_and_nothing_hangs"),
    2: (f"{HERE}an_answer_comes_before_its_effect", f"{SESSIONS}response_before_transition.txt"),
    3: (f"{HERE}an_answer_comes_before_its_effect", f"{NPM}an_update_is_shown_once_before_and_once_after_the_answer"),
    4: (f"{HERE}versions_begin_at_zero_on_every_connection", f"{SESSIONS}version_chain.txt"),
    5: (
        f"{HERE}versions_begin_at_zero_on_every_connection",
        f"{CODEC}clock_skew_and_server_time_are_both_there_or_neither",
    ),
    6: (f"{HERE}mistakes_are_answers_and_cost_nobody_the_connection",),
    7: (f"{CODEC}a_transition_has_exactly_the_fields_of_the_specification", f"{CODEC}the_other_messages_of_the_server"),
    8: (f"{HERE}mistakes_are_answers_and_cost_nobody_the_connection",),
    9: (f"{HERE}mistakes_are_answers_and_cost_nobody_the_connection", f"{SESSIONS}query_failures.txt"),
    10: (f"{HERE}pings_are_messages_and_come_while_every_worker_is_busy",),
    11: (f"{HERE}pings_are_messages_and_come_while_every_worker_is_busy",),
    12: (
        f"{HERE}a_long_message_is_one_message_of_short_frames",
        f"{PYPI}a_transition_longer_than_a_frame_may_be",
        f"{SOCKET}a_long_transition_goes_in_parts_to_those_who_know_them",
    ),
    13: (f"{HERE}a_token_and_the_queries_behind_it_are_one_transition", f"{SESSIONS}opening_burst.txt"),
    14: (f"{HERE}a_token_and_the_queries_behind_it_are_one_transition", f"{SESSIONS}opening_burst.txt"),
    15: (f"{SESSIONS}identity.txt",),
    16: (f"{SOCKET}a_refused_token_closes_without_a_code", f"{SESSIONS}identity.txt"),
    17: (f"{HERE}versions_begin_at_zero_on_every_connection",),
    18: (f"{HERE}a_request_of_one_session_is_run_once",),
    19: (f"{HERE}what_was_answered_is_remembered_through_a_crash", f"{HERE}a_failure_is_not_remembered"),
    20: (f"{HERE}what_was_answered_is_remembered_through_a_crash", f"{SESSIONS}violations.txt"),
    21: (f"{SESSIONS}mutation_order.txt",),
    22: (f"{HERE}mutations_keep_their_order_and_actions_overlap",),
    23: (f"{HERE}every_added_query_gets_a_result", f"{SESSIONS}queries.txt"),
    24: (f"{HERE}a_query_that_fails_stays_subscribed", f"{PYPI}a_subscription_sees_every_change_of_others"),
    25: (f"{HERE}queries_of_one_transition_agree", f"{NPM}queries_that_change_together_are_shown_together"),
    26: (f"{HERE}every_spelling_of_a_path_is_understood", f"{PYPI}a_client_lives_through_a_restart"),
    27: (f"{HERE}every_spelling_of_a_path_is_understood", f"{PYPI}every_kind_of_call"),
    28: (f"{HERE}every_spelling_of_a_path_is_understood",),
    29: (f"{SESSIONS}identity.txt", f"{CODEC}tokens"),
    30: (f"{HERE}a_query_is_removed_while_its_first_result_is_computed", f"{SESSIONS}removal.txt"),
    31: (f"{HERE}contention_is_not_the_callers_business",),
    32: (f"{HERE}numbers_are_floats_unless_they_say_otherwise", f"{PYPI}values_survive_the_round_trip"),
    33: (f"{PYPI}the_http_client", f"{HTTP}a_python_client_reads_whole_numbers_with_a_point"),
    34: (f"{HERE}what_clients_cannot_read_is_never_sent",),
    35: (f"{HERE}numbers_are_floats_unless_they_say_otherwise", f"{WIRE}a_bad_wrapper_is_refused"),
    36: (f"{HERE}numbers_are_floats_unless_they_say_otherwise", f"{WIRE}a_bad_wrapper_is_refused"),
    37: (
        f"{HERE}numbers_are_floats_unless_they_say_otherwise",
        f"{VALIDATORS}numbers_arrive_as_annotated",
    ),
    38: (f"{WIRE}a_bad_wrapper_is_refused",),
    39: (f"{HTTP}a_function_that_raises_is_an_answer",),
    40: (f"{HTTP}requests_that_are_not_calls", f"{HTTP}a_bad_body_is_refused_by_name"),
    41: (f"{HTTP}arguments_are_an_object_alone_or_in_a_list",),
    42: (f"{HTTP}browsers_may_call_from_anywhere",),
    43: (f"{HTTP}requests_that_are_not_calls",),
    44: (f"{AUTH}only_the_secret_counts", f"{AUTH}an_admin_acts_as_a_user"),
    45: (f"{HTTP}the_admin_key_opens_what_is_internal",),
    46: (
        f"{PAGES}a_subscribed_page_keeps_its_end",
        f"{PAGES}who_comes_back_with_the_journal_has_the_same_page",
        f"{JOURNALS}a_later_run_keeps_the_end_of_the_first",
    ),
    47: (f"{PAGE}pages_follow_each_other_to_the_end", f"{REACT}a_list_grows_to_its_end_and_stays_up_to_date"),
    48: (f"{PAGE}on_the_wire_it_is_what_the_hooks_send_and_expect",),
    49: (f"{REACT}a_page_that_has_grown_is_split", f"{PAGES}pages_of_one_session_hold_the_table_together"),
    50: (
        f"{PAGES}a_cursor_of_another_query_is_told_as_the_hooks_know_it",
        f"{REACT}the_list_begins_anew_when_its_query_has_become_another",
        f"{CURSOR}a_changed_cursor_is_refused",
    ),
    51: (f"{HERE}what_is_internal_does_not_exist", f"{HTTP}what_nobody_may_call_does_not_exist"),
    52: (f"{SESSIONS}redaction.txt", f"{HTTP}redacted_errors_keep_their_data"),
    55: (f"{NPM}an_address_with_a_slash_at_its_end",),
}
NOT_OFFERED = {53: "file storage", 54: "HTTP actions"}
"""Traps of features that there are not."""

ROOT = Path(__file__).parents[2]


def test_every_trap_has_its_test() -> None:
    assert sorted([*TRAPS, *NOT_OFFERED]) == list(range(1, 56))
    for number, places in TRAPS.items():
        for place in places:
            path, _, name = place.partition("::")
            assert (ROOT / path).is_file(), f"trap {number}: there is no {path}"
            assert not name or name in functions_of(ROOT / path), f"trap {number}: there is no {place}"


@cache
def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)}


# --- The server ----------------------------------------------------------------------------------------------------

PING_MS = 300
BURST = {"EVOLUTE_HEARTBEAT_MS": str(PING_MS), "EVOLUTE_OPENING_BURST_MS": "1000"}


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Gates:
    return Gates(tmp_path_factory.mktemp("gates"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, gates: Gates) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("traps")
    functions = write_functions(folder / "functions")
    with ServerProcess(functions, folder / "data", environment={**gates.environment, **BURST}) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[RawSession]:
    with RawSession(server.url) as client:
        yield client


# --- Answers and Transitions ---------------------------------------------------------------------------------------


def test_a_transition_follows_every_answer(client: RawSession) -> None:
    """Without any query, before any ModifyQuerySet, and whatever became of the mutation."""
    for path in ("counters:add", "counters:look", "faults:told", "faults:raised", "faults:nothing"):
        answer = client.mutate(path)
        assert answer["success"] == path.startswith("counters")
        assert ("ts" in answer and answer["ts"] is not None) == answer["success"]
        assert client.version["querySet"] == 0
        assert [message["type"] for message in client.heard[-2:]] == ["MutationResponse", "Transition"]


def test_an_answer_comes_before_its_effect(server: ServerProcess, client: RawSession) -> None:
    """And no Transition is older than an answer before it, which RawSession sees to."""
    query = client.add("counters:get", name="effects")
    client.value(query, 0)
    with RawSession(server.url) as other:
        for _ in range(3):
            others = [other.request("Mutation", "counters:add", name="beside") for _ in range(20)]
            sent = [client.request("Mutation", "counters:add", name="effects") for _ in range(20)]
            for request in sent:
                client.covered(request)
            other.covered(others[-1])
    client.value(query, 60)
    answered = 0
    for message in client.heard:
        if message["type"] == "MutationResponse":
            answered = message["result"]
        for modification in message.get("modifications", ()):
            assert modification["value"] <= answered


def test_versions_begin_at_zero_on_every_connection(server: ServerProcess, client: RawSession) -> None:
    for connection in (client, RawSession(server.url, session=client.session, opening={"connectionCount": 1})):
        with connection:
            connection.modify()
            first = connection.transition()
            assert first["startVersion"] == {"querySet": 0, "identity": 0, "ts": "AAAAAAAAAAA="}
            assert first["endVersion"]["querySet"] == 1
            assert type(first["clientClockSkew"]) is int
            connection.add("counters:get")
            assert connection.transition()["endVersion"]["querySet"] == 2


def test_mistakes_are_answers_and_cost_nobody_the_connection(client: RawSession) -> None:
    """A FatalError would end a JavaScript client for good. `errorData` is for the application's errors alone."""
    mistakes: dict[str, dict[str, object]] = {
        "faults:nothing": {},
        "no/such:module": {},
        "not a path!": {},
        "counters:add": {"amount": "x"},
        "counters:get": {"surprise": 1},
        "values:echo": {"value": {"$undefined": None}},
    }
    for path, arguments in mistakes.items():
        query = client.add(path, **arguments)
        result = client.result(query)
        assert result["type"] == "QueryFailed"
        assert "errorData" not in result
        for kind in ("Mutation", "Action"):
            answer = client.answer(client.request(kind, path, **arguments))
            assert not answer["success"]
            assert answer["result"].startswith("[Request ID: ")
            assert "errorData" not in answer
    assert client.mutate("faults:raised")["logLines"] == ["[LOG] about to fail"]
    assert client.mutate("faults:told")["errorData"] == {"code": 7, "why": "because"}
    assert client.mutate("counters:look", name="mistakes")["result"] == 0


def test_mutations_keep_their_order_and_actions_overlap(client: RawSession, gates: Gates) -> None:
    first = client.request("Mutation", "gated:mutate", gate=0, name="order")
    later = [client.request("Mutation", "counters:add", name="order") for _ in range(3)]
    acting = [client.request("Action", "gated:act", gate=gate, name=f"acting {gate}") for gate in (1, 2)]
    for gate in (0, 1, 2):
        gates.wait_reached(gate)
    for gate, action in ((2, acting[1]), (1, acting[0])):
        gates.open(gate)
        assert client.answer(action)["result"] == 1
    assert not set(later) & set(client.answers)
    gates.open(0)
    assert [client.answer(request)["result"] for request in (first, *later)] == [1, 2, 3, 4]
    answers = [message["requestId"] for message in client.heard if message["type"] == "MutationResponse"]
    assert answers == [first, *later]
    for gate in (0, 1, 2):
        gates.close(gate)


def test_contention_is_not_the_callers_business(server: ServerProcess) -> None:
    """Six clients want the same counter at once. Nobody is refused and nothing is lost."""
    faults: list[BaseException] = []

    def add_many() -> None:
        try:
            with RawSession(server.url) as client:
                sent = [client.request("Mutation", "counters:add", name="contended") for _ in range(15)]
                for request in sent:
                    assert client.covered(request)["success"]
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=add_many) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    with RawSession(server.url) as client:
        assert client.mutate("counters:look", name="contended")["result"] == 90


# --- The connection ------------------------------------------------------------------------------------------------


def test_pings_are_messages_and_come_while_every_worker_is_busy(
    server: ServerProcess, client: RawSession, gates: Gates
) -> None:
    client.ping()
    with RawSession(server.url) as other:
        running = [socket.request("Mutation", "gated:mutate", gate=gate) for gate, socket in ((0, client), (1, other))]
        for gate in (0, 1):
            gates.wait_reached(gate)
        client.add("counters:get", name="waits for a worker")
        client.ping()
        client.ping()
        for gate in (0, 1):
            gates.open(gate)
        assert client.covered(running[0])["success"]
        assert other.covered(running[1])["success"]
    for gate in (0, 1):
        gates.close(gate)


def test_a_long_message_is_one_message_of_short_frames(server: ServerProcess) -> None:
    """For all but npm's client, who gets several messages."""
    with RawSession(server.url, path="/api/sync") as client:
        client.add("counters:large", size=9_000_000)
        text, frames = client.large_text()
    assert text.startswith('{"type":"Transition"')
    assert len(frames) > 2
    assert max(frames) <= 4 * 1024 * 1024


def test_a_token_and_the_queries_behind_it_are_one_transition(client: RawSession) -> None:
    """Or everything would read as loading. Later a token alone is confirmed, although no result has changed."""
    client.authenticate(tokenType="None")
    query = client.add("counters:get", name="nobody")
    first = client.transition()
    assert (first["endVersion"]["querySet"], first["endVersion"]["identity"]) == (1, 1)
    assert [modification["queryId"] for modification in first["modifications"]] == [query]
    client.authenticate(tokenType="None")
    second = client.transition()
    assert second["endVersion"]["identity"] == 2
    assert second["modifications"] == []


# --- Once ----------------------------------------------------------------------------------------------------------


def test_a_request_of_one_session_is_run_once(server: ServerProcess, client: RawSession) -> None:
    """Sent again on another connection it is answered as it was; another session is another client."""
    answer = client.mutate("counters:add", name="once")
    assert client.mutate("counters:add", name="once")["result"] == 2
    with RawSession(server.url, session=client.session, opening={"connectionCount": 1}) as again:
        repeated = again.covered(again.repeat(0, "Mutation", "counters:add", name="once"))
    assert repeated == answer
    with RawSession(server.url) as stranger:
        assert stranger.covered(stranger.repeat(0, "Mutation", "counters:add", name="once"))["result"] == 3


def test_a_failure_is_not_remembered(server: ServerProcess, client: RawSession) -> None:
    client.mutate("messages:clear")
    request = client.request("Mutation", "faults:needs_a_message")
    assert not client.covered(request)["success"]
    client.mutate("messages:send", body="here")
    with RawSession(server.url, session=client.session) as again:
        again.repeat(request, "Mutation", "faults:needs_a_message")
        assert again.covered(request)["result"] == "here"


def test_what_was_answered_is_remembered_through_a_crash(tmp_path: Path) -> None:
    """With its timestamp, and no timestamp after the crash is earlier than one before it."""
    functions, environment = write_functions(tmp_path / "functions"), Gates(tmp_path).environment
    with ServerProcess(functions, tmp_path / "data", environment=environment) as first:
        with RawSession(first.url) as client:
            answer = client.mutate("counters:add")
            client.mutate("counters:add", name="other")
        first.kill()
    with ServerProcess(functions, tmp_path / "data", environment=environment) as second:
        opening = {"connectionCount": 1, "maxObservedTimestamp": client.version["ts"]}
        with RawSession(second.url, session=client.session, opening=opening) as again:
            query = again.add("counters:get")
            again.value(query, 1)
            assert ts_of(again.version["ts"]) >= ts_of(client.version["ts"])
            assert again.covered(again.repeat(0, "Mutation", "counters:add")) == answer
            assert again.covered(again.repeat(2, "Mutation", "counters:add", name="again"))["success"]
            assert ts_of(again.version["ts"]) > ts_of(client.version["ts"])
            assert again.results[query]["value"] == 1
        with RawSession(second.url, opening={"maxObservedTimestamp": "/////////38="}) as ahead:
            ahead.modify()
            code, reason = ahead.closed()
            assert (code, ahead.heard) == (1011, []), reason


# --- Queries -------------------------------------------------------------------------------------------------------


def test_every_added_query_gets_a_result(client: RawSession) -> None:
    """Even if it is one that the client has, or had a moment ago, with the same value."""
    first = client.add("counters:get", name="added")
    client.value(first, 0)
    twin = client.add("counters:get", name="added")
    client.value(twin, 0)
    client.remove(first)
    client.modify({"type": "Add", "queryId": 7, "udfPath": "counters:get", "args": [{"name": "added"}]})
    client.value(7, 0)
    client.modify({"type": "Remove", "queryId": 7}, {"type": "Add", "queryId": 8, "udfPath": "plain", "args": [{}]})
    client.value(8, "default")
    assert client.results[7]["type"] == "QueryRemoved"


def test_a_query_that_fails_stays_subscribed(client: RawSession) -> None:
    query = client.add("counters:fails_when_odd", name="odd")
    client.value(query, 0)
    client.mutate("counters:add", name="odd")
    client.until(lambda: client.results[query]["type"] == "QueryFailed")
    assert "ValueError: odd" in client.results[query]["errorMessage"]
    client.mutate("counters:add", name="odd")
    client.value(query, 2)


def test_queries_of_one_transition_agree(server: ServerProcess, client: RawSession) -> None:
    queries = {by: client.add("counters:scaled", name="agree", by=by) for by in (1, 2, 3, 4, 5)}
    for query in queries.values():
        client.value(query, 0)
    with RawSession(server.url) as writer:
        last = [writer.request("Mutation", "counters:add", name="agree") for _ in range(50)][-1]
        while client.results[queries[1]]["value"] < 50:
            assert {modification["queryId"] for modification in client.transition()["modifications"]} == set(
                queries.values()
            )
            one = client.results[queries[1]]["value"]
            assert [client.results[query]["value"] for query in queries.values()] == [one * by for by in queries]
        writer.covered(last)


def test_every_spelling_of_a_path_is_understood(client: RawSession) -> None:
    """`.js` is how PyPI's client writes after a reconnect, and `/` the only way in which it can name a folder."""
    for path, value in {
        "counters:get": 0,
        "counters.js:get": 0,
        "counters.py:get": 0,
        "plain": "default",
        "plain.js": "default",
        "plain:default": "default",
        "deep/inner:answer": 42,
        "deep/inner.js:answer": 42,
    }.items():
        query = client.added(path, **({"name": "paths"} if value == 0 else {}))
        client.modify({**query, "componentPath": ""})
        client.value(query["queryId"], value)
    assert client.mutate("counters.js:look", name="paths")["result"] == 0
    request = client.request("Action", "values.js:echo_late", value=1)
    assert client.answer(request)["result"] == 1


def test_a_query_is_removed_while_its_first_result_is_computed(client: RawSession, gates: Gates) -> None:
    query = client.add("gated:ask", gate=3)
    gates.wait_reached(3)
    client.remove(query)
    other = client.add("plain")
    gates.open(3)
    client.value(other, "default")
    assert client.results[query]["type"] == "QueryRemoved"
    gates.close(3)


def test_what_is_internal_does_not_exist(client: RawSession) -> None:
    texts = []
    for name in ("hidden", "absent"):
        query = client.add(f"faults:{name}")
        failure = client.result(query)["errorMessage"]
        answers = [client.answer(client.request(kind, f"faults:{name}")) for kind in ("Mutation", "Action")]
        shown = [failure, *(answer["result"] for answer in answers)]
        texts.append([text.partition("\n")[2].replace(name, "…") for text in shown])
    assert texts[0] == texts[1]
    assert set(texts[0]) == {"Could not find public function for 'faults:…'."}


# --- Values --------------------------------------------------------------------------------------------------------


def test_numbers_are_floats_unless_they_say_otherwise(client: RawSession) -> None:
    seven = {"$integer": "BwAAAAAAAAA="}
    sent: list[Any] = [
        3,
        3.0,
        2.5,
        -0.5,
        9007199254740992,
        seven,
        {"$integer": "//////////8="},
        {"$float": "AAAAAAAA+H8="},
    ]
    assert client.mutate("values:echo_back", value=sent)["result"] == sent
    for value, name in ((3, "int"), (3.0, "int"), (2.5, "float"), (seven, "Int64"), (1e300, "float"), (True, "bool")):
        query = client.add("values:type_of", value=value)
        client.value(query, name)
    for bad in ({"$float": "AAAAAAAA8D8="}, {"$integer": "BwAAAAAAAA=="}, {"$integer": 7}, {"$integer": "BwAAAAAAAAA"}):
        assert not client.mutate("values:echo_back", value=bad)["success"]
    assert not client.mutate("counters:add", amount=1.5)["success"]
    assert not client.mutate("counters:add", amount=seven)["success"]


def test_what_clients_cannot_read_is_never_sent(client: RawSession) -> None:
    """A function that returns such a value has failed; the connection has not."""
    for key in ("surrogate", "dollar", "umlaut", "text"):
        query = client.add("values:unspeakable", key=key)
        assert client.result(query)["type"] == "QueryFailed"
    assert client.mutate("counters:look")["success"]
