"""The smallest Transition: what a client must be told to get from one state version to the next.

An answer is encoded once, when the first session needs it, and kept on the result; every further session joins its own
query id to the same bytes. So one commit that wakes a thousand sessions of one query encodes one answer; and since they
all stand at the same versions, they are told it by one text.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from evolute.execution.query_result import QueryResult
from evolute.execution.request import CallError
from evolute.limits import KIB
from evolute.protocol.codec import encode_modification, encode_result, join_transition, with_clock_skew
from evolute.protocol.messages import Failure, StateVersion, Success
from evolute.sync.query_set import LiveQuery

_SHARED_MAX = 16
_SHARED_BYTES_MAX = 64 * KIB


def _ignore(request_id: str, error: CallError) -> None:
    pass


@dataclass(frozen=True)
class Disclosure:
    """How much of an error clients may see, for the whole deployment. `new_request_id` names a query's run.

    `on_withheld` hears of each error that a client is told by its request id alone, or nobody could look it up.
    """

    redact: bool
    new_request_id: Callable[[], str]
    on_withheld: Callable[[str, CallError], None] = _ignore

    def answer(self, value: bytes | None, error: CallError | None, request_id: str) -> Success | Failure:
        if error is not None:
            if self.redact:
                self.on_withheld(request_id, error)
            return Failure(error.client_text(request_id, redact=self.redact), error.data)
        assert value is not None, "a call ends with a value or an error"
        return Success(value)

    def request_name(self, session_id: str | None, request_id: int) -> str:
        """The id in a call's error texts; a client that named its session can work it out for itself."""
        if session_id is None:
            return self.new_request_id()
        return request_name(session_id, request_id)

    def log_lines(self, lines: tuple[str, ...]) -> tuple[str, ...]:
        return () if self.redact else lines


def request_name(session_id: str, request_id: int) -> str:
    return hashlib.sha256(f"{session_id}|{request_id}".encode()).hexdigest()[:16]


def encoded_answer(result: QueryResult, disclosure: Disclosure) -> bytes:
    """The part of a modification that all sessions share."""
    if result.encoded is None:
        request_id = disclosure.new_request_id() if result.error is not None else ""
        answer = disclosure.answer(result.value, result.error, request_id)
        result.encoded = encode_result(answer, disclosure.log_lines(result.log_lines), result.journal)
    return result.encoded


def encode_transition(
    start: StateVersion,
    end: StateVersion,
    changed: Sequence[LiveQuery],
    removed: Collection[int],
    disclosure: Disclosure,
    *,
    client_clock_skew_ms: int | None,
    now_ns: int,
) -> bytes:
    """Call after `QuerySet.accept`, with the queries that it returned. The skew is None if the client told no time."""
    if len(changed) == 1 and not removed:
        text = _only_one(start, end, changed[0], disclosure)
    else:
        modifications = [encode_modification(query_id, None) for query_id in removed]
        for query in changed:
            modifications.append(encode_modification(query.query_id, _answer_of(query, disclosure)))
        text = _text(start, end, modifications)
    return text if client_clock_skew_ms is None else with_clock_skew(text, client_clock_skew_ms, now_ns)


def _answer_of(query: LiveQuery, disclosure: Disclosure) -> bytes:
    assert query.held is not None
    return encoded_answer(query.held, disclosure)


def _only_one(start: StateVersion, end: StateVersion, query: LiveQuery, disclosure: Disclosure) -> bytes:
    answer = _answer_of(query, disclosure)
    if len(answer) <= _SHARED_BYTES_MAX:
        return _shared_text(start, end, query.query_id, answer)
    return _text(start, end, (encode_modification(query.query_id, answer),))


@functools.lru_cache(_SHARED_MAX)
def _shared_text(start: StateVersion, end: StateVersion, query_id: int, answer: bytes) -> bytes:
    """Sessions of one query stand at the same versions, and so are told the same, one after the other."""
    return _text(start, end, (encode_modification(query_id, answer),))


def _text(start: StateVersion, end: StateVersion, modifications: Sequence[bytes]) -> bytes:
    assert start[:2] <= end[:2], (start, end)
    assert start.ts <= end.ts, (start, end)
    return join_transition(start, end, modifications)
