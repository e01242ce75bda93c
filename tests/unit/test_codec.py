"""The sync protocol's spelling: the exact fields of protocol sections 2 and 3, and what is refused."""

from __future__ import annotations

import contextlib

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolute.errors import MalformedMessage
from evolute.limits import Limits
from evolute.protocol import codec
from evolute.protocol.messages import (
    INITIAL_VERSION,
    Action,
    ActionResponse,
    AddQuery,
    AdminToken,
    Authenticate,
    AuthError,
    ClientMessage,
    Connect,
    Event,
    Failure,
    FatalError,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    NoToken,
    Ping,
    QueryFailed,
    QueryRemoved,
    QueryUpdated,
    RemoveQuery,
    ServerMessage,
    StateVersion,
    Success,
    Transition,
    UserToken,
)
from evolute.protocol.timestamp import encode_ts

LIMITS = Limits()
SESSION_ID = "fe4ea738-6bf6-4f40-a5c9-b983e49bed56"


# --- What the server sends ---


def test_a_transition_has_exactly_the_fields_of_the_specification() -> None:
    updated = codec.encode_modification(0, codec.encode_result(Success(b'[{"body":"hi"}]'), ("[LOG] hello",)))
    failed = codec.encode_modification(1, codec.encode_result(Failure("boom", b'{"code":1}'), ()))
    plain = codec.encode_modification(2, codec.encode_result(Failure("boom"), (), "J1"))
    removed = codec.encode_modification(3, None)
    end = StateVersion(1, 0, 1_700_000_000_000_000_000)
    message = Transition(INITIAL_VERSION, end, (updated, failed, plain, removed), -3, 1_700_000_000_000_000_000)
    assert orjson.loads(codec.encode_server(message)) == {
        "type": "Transition",
        "startVersion": {"querySet": 0, "identity": 0, "ts": "AAAAAAAAAAA="},
        "endVersion": {"querySet": 1, "identity": 0, "ts": "AAAqNv6clxc="},
        "modifications": [
            {
                "type": "QueryUpdated",
                "queryId": 0,
                "value": [{"body": "hi"}],
                "logLines": ["[LOG] hello"],
                "journal": None,
            },
            {
                "type": "QueryFailed",
                "queryId": 1,
                "errorMessage": "boom",
                "errorData": {"code": 1},
                "logLines": [],
                "journal": None,
            },
            {"type": "QueryFailed", "queryId": 2, "errorMessage": "boom", "logLines": [], "journal": "J1"},
            {"type": "QueryRemoved", "queryId": 3},
        ],
        "clientClockSkew": -3,
        "serverTs": 1_700_000_000_000_000_000,
    }


def test_clock_skew_and_server_time_are_both_there_or_neither() -> None:
    assert b"clientClockSkew" not in codec.encode_server(Transition(INITIAL_VERSION, INITIAL_VERSION))
    with pytest.raises(AssertionError):
        codec.encode_server(Transition(INITIAL_VERSION, INITIAL_VERSION, client_clock_skew=1))


def test_values_are_spliced_in_as_they_are() -> None:
    value = b'{"a":{"$integer":"AQAAAAAAAAA="},"b":[1,2.5]}'
    assert value in codec.encode_modification(7, codec.encode_result(Success(value), ()))
    assert value in codec.encode_server(MutationResponse(0, Success(value), 5))
    assert value in codec.encode_client(Mutation(0, "m:f", value))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            MutationResponse(0, Success(b'{"n":3}'), 1, ("[LOG] x",)),
            {"type": "MutationResponse", "requestId": 0, "success": True, "result": {"n": 3}, "ts": "AQAAAAAAAAA="}
            | {"logLines": ["[LOG] x"]},
        ),
        (
            MutationResponse(1, Failure("no"), None),
            {"type": "MutationResponse", "requestId": 1, "success": False, "result": "no", "ts": None, "logLines": []},
        ),
        (
            MutationResponse(2, Failure("no", b"null"), None),
            {"type": "MutationResponse", "requestId": 2, "success": False, "result": "no", "ts": None, "logLines": []}
            | {"errorData": None},
        ),
        (
            ActionResponse(3, Success(b"null")),
            {"type": "ActionResponse", "requestId": 3, "success": True, "result": None, "logLines": []},
        ),
        (
            AuthError("bad", 0, True),
            {"type": "AuthError", "error": "bad", "baseVersion": 0, "authUpdateAttempted": True},
        ),
        (FatalError("why"), {"type": "FatalError", "error": "why"}),
        (Ping(), {"type": "Ping"}),
    ],
)
def test_the_other_messages_of_the_server(message: ServerMessage, expected: dict[str, object]) -> None:
    assert orjson.loads(codec.encode_server(message)) == expected
    assert codec.decode_server(codec.encode_server(message)) == message


def test_text_that_is_not_unicode_does_not_break_the_connection() -> None:
    encoded = codec.encode_server(ActionResponse(0, Failure("caf\udce9"), ("[LOG] \ud800",)))
    assert orjson.loads(encoded)["result"] == "caf?"
    assert orjson.loads(encoded)["logLines"] == ["[LOG] ?"]


# --- What the server receives ---


def test_a_connect_of_each_client() -> None:
    javascript = (
        b'{"type":"Connect","sessionId":"%b","connectionCount":1,"lastCloseReason":null,"clientTs":1795401079926,'
        b'"maxObservedTimestamp":"AAAqNv6clxc=","unknown":[1]}' % SESSION_ID.encode()
    )
    assert codec.decode_client(javascript, LIMITS) == Connect(
        SESSION_ID, 1, None, max_observed_ts=1_700_000_000_000_000_000, client_ts_ms=1_795_401_079_926
    )
    python = f'{{"type":"Connect","sessionId":"{SESSION_ID}","connectionCount":0,"lastCloseReason":"x","clientTs":0}}'
    assert codec.decode_client(python, LIMITS) == Connect(SESSION_ID, 0, "x", None, 0)


def test_a_query_set_with_arguments_in_canonical_form() -> None:
    text = """{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[
        {"type":"Add","queryId":0,"udfPath":"messages.js:list","args":[{"z":1.0,"a":2}],"journal":"J1","componentPath":""},
        {"type":"Add","queryId":1,"udfPath":"m:f","args":[],"journal":null},
        {"type":"Remove","queryId":7}]}"""
    assert codec.decode_client(text, LIMITS) == ModifyQuerySet(
        0, 1, (AddQuery(0, "messages.js:list", b'{"a":2,"z":1}', "J1"), AddQuery(1, "m:f", b"{}"), RemoveQuery(7))
    )


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ('"tokenType":"None"', NoToken()),
        ('"tokenType":"User","value":"jwt"', UserToken("jwt")),
        ('"tokenType":"Admin","value":"key"', AdminToken("key")),
        ('"tokenType":"Admin","value":"key","impersonating":{"subject":"s"}', AdminToken("key", b'{"subject":"s"}')),
        ('"tokenType":"Admin","value":"key","acting_as":{"subject":"s"}', AdminToken("key", b'{"subject":"s"}')),
    ],
)
def test_tokens(text: str, token: object) -> None:
    message = codec.decode_client(f'{{"type":"Authenticate","baseVersion":2,{text}}}', LIMITS)
    assert message == Authenticate(2, token)  # type: ignore[arg-type]
    assert codec.decode_client(codec.encode_client(message), LIMITS) == message


def test_telemetry_is_understood_and_dropped() -> None:
    text = '{"type":"Event","eventType":"NetworkRecoveryReconnect","event":{"timeSavedMs":3}}'
    assert codec.decode_client(text, LIMITS) == Event("NetworkRecoveryReconnect")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ('"args":[{},{}]', "Instead received 2 arguments"),
        ('"args":[3]', "Instead received 3"),
        ('"args":"x"', 'Instead received "x"'),
        ('"args":[{"a":{"$float":"bad"}}]', "Invalid arguments for m:f: "),
        ('"args":[{"$a":1}]', "Invalid arguments for m:f: "),
        ('"args":[{"a":' + "[" * 100 + "]" * 100 + "}]", "Invalid arguments for m:f: "),
        ('"args":[{}],"componentPath":"sub"', "Could not find public function for 'm:f'."),
    ],
)
@pytest.mark.parametrize("kind", ["Mutation", "Action"])
def test_arguments_that_are_none_are_the_fault_of_their_call(kind: str, call: str, fault: str) -> None:
    message = codec.decode_client(f'{{"type":"{kind}","requestId":4,"udfPath":"m:f",{call}}}', LIMITS)
    assert isinstance(message, Mutation | Action)
    assert message.fault is not None
    assert fault in message.fault
    assert message.request_id == 4


def test_one_bad_query_leaves_the_others_alone() -> None:
    text = """{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[
        {"type":"Add","queryId":0,"udfPath":"m:f","args":[1]},{"type":"Add","queryId":1,"udfPath":"m:f","args":[{}]}]}"""
    message = codec.decode_client(text, LIMITS)
    assert isinstance(message, ModifyQuerySet)
    bad, good = message.modifications
    assert isinstance(bad, AddQuery)
    assert isinstance(good, AddQuery)
    assert bad.fault is not None
    assert good == AddQuery(1, "m:f", b"{}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
        ('{"type":"Mutation","requestId":0,"udfPath":"\\ud800","args":[{}]}', "not JSON"),
        ("[]", "must be a JSON object, got []"),
        ("{}", "The message.type is missing"),
        ('{"type":3}', "The message.type must be a string, got 3"),
        ('{"type":"Nope"}', "no client message of type 'Nope'"),
        ('{"type":"Mutation","udfPath":"m:f","args":[]}', "Mutation.requestId is missing"),
        ('{"type":"Mutation","requestId":1.0,"udfPath":"m:f","args":[]}', "Mutation.requestId must be a whole number"),
        ('{"type":"Mutation","requestId":-1,"udfPath":"m:f","args":[]}', "from 0 to 4294967295, got -1"),
        ('{"type":"Mutation","requestId":true,"udfPath":"m:f","args":[]}', "got true"),
        ('{"type":"Mutation","requestId":1,"udfPath":null,"args":[]}', "Mutation.udfPath must be a string, got null"),
        ('{"type":"Mutation","requestId":1,"udfPath":"m:f"}', "Mutation.args is missing"),
        (
            '{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[{"type":"Remove","queryId":"x"}]}',
            'ModifyQuerySet.modifications[0].queryId must be a whole number from 0 to 4294967295, got "x"',
        ),
        (
            '{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[3]}',
            "ModifyQuerySet.modifications[0] must be an object, got 3",
        ),
        (
            '{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[{"type":"Swap"}]}',
            "ModifyQuerySet.modifications[0].type must be 'Add' or 'Remove'",
        ),
        ('{"type":"Connect","sessionId":"me","connectionCount":0}', "Connect.sessionId must be a UUID"),
        (
            f'{{"type":"Connect","sessionId":"{SESSION_ID}","connectionCount":0,"maxObservedTimestamp":"AAA="}}',
            "Connect.maxObservedTimestamp must be the base64 of 8 little-endian bytes",
        ),
        (
            f'{{"type":"Connect","sessionId":"{SESSION_ID}","connectionCount":0,"maxObservedTimestamp":"//////////8="}}',
            "Connect.maxObservedTimestamp must be",
        ),
        ('{"type":"Authenticate","baseVersion":0,"tokenType":"Root"}', "Authenticate.tokenType must be"),
        ('{"type":"Authenticate","baseVersion":0,"tokenType":"User"}', "Authenticate.value is missing"),
    ],
)
def test_what_is_no_message_is_refused_with_place_and_reason(text: str | bytes, complaint: str) -> None:
    with pytest.raises(MalformedMessage) as raised:
        codec.decode_client(text, LIMITS)
    assert complaint in str(raised.value)


# --- Both ways ---

field_names = st.sampled_from(
    [
        "requestId",
        "udfPath",
        "args",
        "baseVersion",
        "newVersion",
        "modifications",
        "queryId",
        "tokenType",
        "value",
        "sessionId",
        "connectionCount",
        "success",
        "result",
        "ts",
        "logLines",
        "startVersion",
        "endVersion",
        "error",
        "type",
        "querySet",
        "identity",
        "$float",
    ]
)
odd_leaves = st.sampled_from(
    [None, True, -1, 0, 1, 2**32, 1.0, 2.5, "", "x", "None", "Add", "AAAAAAAAAAA=", SESSION_ID]
)
json_trees = st.recursive(
    odd_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(field_names, inner, max_size=3),
    max_leaves=8,
)
kinds = ["Connect", "ModifyQuerySet", "Mutation", "Action", "Authenticate", "Event", "Transition", "MutationResponse"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(kinds), st.dictionaries(field_names, json_trees))
def test_whatever_arrives_is_a_message_or_malformed(kind: str, fields: dict[str, object]) -> None:
    text = orjson.dumps({"type": kind, **fields})
    with contextlib.suppress(MalformedMessage):
        codec.decode_client(text, LIMITS)
    with contextlib.suppress(MalformedMessage):
        codec.decode_server(text)


@pytest.mark.parametrize(
    "message",
    [
        Connect(SESSION_ID, 3, "InactiveServer", 17, 18),
        ModifyQuerySet(4, 5, (AddQuery(1, "m:f", b'{"a":[1]}', "J"), RemoveQuery(0))),
        Mutation(0, "m:f", b"{}"),
        Action(1, "m:f", b'{"a":null}'),
        Event("x"),
    ],
)
def test_what_our_client_says_our_server_understands(message: ClientMessage) -> None:
    assert codec.decode_client(codec.encode_client(message), LIMITS) == message


def test_what_our_server_says_our_client_understands() -> None:
    modifications = (
        QueryUpdated(0, b"[1,2.5]", ("[LOG] x",), "J"),
        QueryFailed(1, "boom", b"null"),
        QueryFailed(2, "boom"),
        QueryRemoved(3),
    )
    message = Transition(StateVersion(1, 2, 3), StateVersion(2, 2, 4), modifications, -5, 6)
    assert codec.decode_server(codec.encode_server(message)) == message


def test_timestamps_must_fit_what_clients_can_read() -> None:
    assert encode_ts(0) == "AAAAAAAAAAA="
    assert encode_ts(1) == "AQAAAAAAAAA="
    with pytest.raises(AssertionError):
        encode_ts(2**63)
