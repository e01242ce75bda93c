"""A Transition is joined from what was made once, and reads as one that the codec has written field by field."""

from __future__ import annotations

import pytest

from evolute.database.read_set import ReadSet
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallResult
from evolute.limits import KIB
from evolute.protocol.codec import encode_server
from evolute.protocol.messages import Modification, QueryRemoved, QueryUpdated, StateVersion, Transition
from evolute.sync.query_set import LiveQuery
from evolute.sync.transition import Disclosure, encode_transition

START, END = StateVersion(1, 0, 5), StateVersion(2, 0, 9)
SHOWN = Disclosure(redact=False, new_request_id=lambda: "id")


def result_of(value: bytes) -> QueryResult:
    return QueryResult(Call("m:f", b"{}", kind="query"), CallResult(value, None, ("[LOG] 'x'",), ReadSet()), 5, 0)


def live(query_id: int, result: QueryResult) -> LiveQuery:
    query = LiveQuery(query_id, result.call, lambda: None)
    query.hold(result)
    return query


@pytest.mark.parametrize("skew", [None, -7])
@pytest.mark.parametrize("removed", [(), (4,), (4, 2)])
@pytest.mark.parametrize("values", [(), (b'{"a":1}',), (b'"x"', b"[2]"), (b'"' + b"x" * 100 * KIB + b'"',)])
def test_it_reads_as_the_codec_writes_it(values: tuple[bytes, ...], removed: tuple[int, ...], skew: int | None) -> None:
    changed = [live(number, result_of(value)) for number, value in enumerate(values, 10)]
    updated = [QueryUpdated(number, value, ("[LOG] 'x'",), None) for number, value in enumerate(values, 10)]
    modifications: tuple[Modification, ...] = (*map(QueryRemoved, removed), *updated)
    message = Transition(START, END, modifications, skew, None if skew is None else 77)
    for _ in range(2):
        text = encode_transition(START, END, changed, removed, SHOWN, client_clock_skew_ms=skew, now_ns=77)
        assert text == encode_server(message)


def test_sessions_at_the_same_versions_are_told_by_one_text() -> None:
    """Given one result that two sessions hold under the same id, I expect one text; and another for whoever stands
    elsewhere, holds it under another id or holds another result."""
    result, other = result_of(b"1"), result_of(b"2")

    def text(start: StateVersion, query_id: int, shown: QueryResult) -> bytes:
        return encode_transition(start, END, [live(query_id, shown)], (), SHOWN, client_clock_skew_ms=None, now_ns=7)

    assert text(START, 0, result) is text(START, 0, result)
    texts = {
        text(START, 0, result),
        text(START._replace(ts=6), 0, result),
        text(START, 1, result),
        text(START, 0, other),
    }
    assert len(texts) == 4
