"""Requests and outcomes survive the channel, and the text of an error is what a client may see."""

from __future__ import annotations

import marshal

from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from evolute.execution.request import (
    JOB_CHANGED,
    Call,
    CallError,
    CallResult,
    FunctionOutcome,
    FunctionRequest,
    Wire,
)
from evolute.system.crons import Due

CALL = Call(
    "messages:send",
    b'{"body":"hi"}',
    "mutation",
    public_only=False,
    identity=b'{"subject":"me"}',
    session=("session", 3),
    job="job",
    parent_job="parent",
    depth=2,
)
CRON_RUN = Call("a:tick", b"{}", "mutation", public_only=False, cron=Due("cron", 5))


def through_the_channel(wire: Wire) -> Wire:
    carried: Wire = marshal.loads(marshal.dumps(wire))
    return carried


def test_a_request_survives_the_channel() -> None:
    request = FunctionRequest(7, "queries", "hash", (CALL, CRON_RUN, Call("a:b", b"{}")), 123, b"seed")
    assert FunctionRequest.from_wire(through_the_channel(request.to_wire())) == request


def test_an_outcome_survives_the_channel() -> None:
    read_set = ReadSet()
    read_set.add_point(b"k")
    read_set.add_range(b"a", b"c")
    results = (
        CallResult(b"1", None, ("[LOG] x",), read_set, 5, 9),
        CallResult(None, CallError("Uncaught ConvexError: x", b'"x"', "FunctionFault"), (), ReadSet()),
    )
    write_set = WriteSet({b"k": b"v", b"d": None}, frozenset({b"k", b"d", b"i"}), {b"k": 1})
    for outcome in (
        FunctionOutcome(1, 10, results, write_set, exiting=True),
        FunctionOutcome(2, 10, results[:1], replayed_ts=4),
        FunctionOutcome(3, 10, (), refused=JOB_CHANGED),
    ):
        assert FunctionOutcome.from_wire(through_the_channel(outcome.to_wire())) == outcome


def test_a_call_is_a_key_and_nothing_of_it_is_left_out() -> None:
    assert {CALL: 1}[Call.from_wire(CALL.to_wire())] == 1
    assert Call("messages:send", b'{"body":"hi"}', "mutation", public_only=False) != CALL


def test_a_client_sees_the_error_in_development_and_only_the_request_id_in_production() -> None:
    error = CallError("Uncaught ValueError: boom")
    assert error.client_text("abc", redact=False) == "[Request ID: abc] Server Error\nUncaught ValueError: boom"
    assert error.client_text("abc", redact=True) == "[Request ID: abc] Server Error"
