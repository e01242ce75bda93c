"""A session's mutation runs once: its record is found again, by one read, two runs cannot both commit, and it goes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.database.session_record import SessionRecord, commit_ts_of, record_from, unstamped_record
from evolute.errors import Conflict, StoreCorrupt
from evolute.storage.keyspace import session_prefix, session_record_key
from evolute.system import sessions
from evolute.values.value import COMMIT_TS
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, decode_canonical, encode, int64_json
from tests.open_store import LIMITS, OpenStore
from tests.unit.value_strategies import values

SESSION = "6d9ab8f2-0c1c-4b0e-9d3d-1d2f0a5b7c11"
SECRETS = (
    b'{"$commitTs":null}',
    b'[{"$commitTs":null},{"at":{"$commitTs":null}}]',
    encode({"commitTs": COMMIT_TS, "logLines": [], "value": COMMIT_TS}),
    encode(',"value":{"$commitTs":null}}'),
)


def put(store: OpenStore, session: str, *requests: int, value: bytes = b"0") -> int:
    """The timestamp of the commit that writes these records."""
    transaction = store.begin()
    for request in requests:
        sessions.record(transaction, session, request, value, [])
    return store.commit(transaction)


def left(store: OpenStore, session: str) -> list[int]:
    return [request for request in range(100) if sessions.find(store.begin(), session, request) is not None]


# --- Once -------------------------------------------------------------------------------------------------------------


def test_a_record_is_found_with_the_timestamp_of_its_commit(store: OpenStore) -> None:
    transaction = store.begin()
    assert sessions.find(transaction, SESSION, 3) is None
    sessions.record(transaction, SESSION, 3, b'{"a":1}', ["[LOG] 'x'"])
    commit_ts = store.commit(transaction)
    assert sessions.find(store.begin(), SESSION, 3) == SessionRecord(b'{"a":1}', ("[LOG] 'x'",), commit_ts)
    assert sessions.find(store.begin(), SESSION, 4) is None
    assert sessions.find(store.begin(), "other", 3) is None


def test_finding_is_one_point_read_and_recording_touches_one_key(store: OpenStore) -> None:
    put(store, SESSION, 3)
    for request in (3, 4):
        limits = dataclasses.replace(LIMITS, documents_read_max=0, bytes_read_max=0)
        transaction = store.begin(limits=limits)
        sessions.find(transaction, SESSION, request)
        assert transaction.read_set.points == {session_record_key(SESSION, request)}
        assert transaction.read_set.ranges == []
    sessions.record(transaction, SESSION, 4, b"null", [])
    assert transaction.write_set().touched == transaction.write_set().puts.keys() == {session_record_key(SESSION, 4)}


def test_of_two_runs_one_commits(store: OpenStore) -> None:
    runs = [store.begin(), store.begin()]
    for run in runs:
        assert sessions.find(run, SESSION, 1) is None
        sessions.record(run, SESSION, 1, b"null", [])
    first, second = store.commit_together(runs)
    assert isinstance(first, int)
    assert isinstance(second, Conflict)


def test_a_result_may_be_larger_than_a_document(store: OpenStore) -> None:
    value = b'"%b"' % (b"x" * (3 << 20))
    put(store, SESSION, 1, value=value)
    record = sessions.find(store.begin(), SESSION, 1)
    assert record is not None
    assert record.value == value


@pytest.mark.parametrize("value", SECRETS)
def test_a_result_and_its_log_lines_are_never_stamped(store: OpenStore, value: bytes) -> None:
    transaction = store.begin()
    lines = ("[LOG] {'$commitTs':null}", COMMIT_TS_PLACEHOLDER.decode(), value.decode())
    sessions.record(transaction, SESSION, 1, value, lines)
    document_id = transaction.insert("items", {"first": COMMIT_TS, "second": [COMMIT_TS]})
    commit_ts = store.commit(transaction)
    assert sessions.find(store.begin(), SESSION, 1) == SessionRecord(value, lines, commit_ts)
    document = store.begin().get(document_id)
    assert document is not None
    assert (document["first"], document["second"]) == (commit_ts, [commit_ts]), "a document's are stamped, all of them"


@pytest.mark.parametrize(("one", "other"), [(("a", 11), ("a1", 1)), (("1:a", 2), ("a", 21))])
def test_records_of_other_sessions_do_not_collide(
    store: OpenStore, one: tuple[str, int], other: tuple[str, int]
) -> None:
    store.run(lambda transaction: sessions.record(transaction, *one, b"1", []))
    assert sessions.find(store.begin(), *other) is None


# --- The bytes of a record --------------------------------------------------------------------------------------------


@given(values, st.lists(st.text()), st.integers(1, 2**63 - 1))
def test_a_record_is_canonical_json_and_can_be_read(value: object, lines: list[str], commit_ts: int) -> None:
    result = encode(value)
    data = unstamped_record(result, lines).replace(COMMIT_TS_PLACEHOLDER, int64_json(commit_ts), 1)
    assert record_from(data) == SessionRecord(result, tuple(lines), commit_ts)
    assert commit_ts_of(data) == commit_ts
    assert data == encode(decode_canonical(data))


STAMP = int64_json(7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b'{"commitTs":7,"logLines":[],"value":1}',
        b'{"commitTs":%b,"logLines":[],"value":1}' % COMMIT_TS_PLACEHOLDER,
        b'{"commitTs":%b,"logLines":[],"value":1' % STAMP,
        b'{"commitTs":%b,"logLines":[],"value":1]' % STAMP,
        b'{"commitTs":%b,"logLines":[],"value":}' % STAMP,
        b'{"commitTs":%b,"logLines":[],"value":1,"value":2}' % STAMP,
        b'{"commitTs":%b,"logLines":[]}' % STAMP,
        b'{"commitTs":%b,"logLines":[1],"value":1}' % STAMP,
        b'{"commitTs":%b,"logLines":"a","value":1}' % STAMP,
        b'{"commitTs":%b,"logLines":[] ,"value":1}' % STAMP,
        b'{"commitTs":{"$integer":"!"},"logLines":[],"value":1}',
    ],
)
def test_other_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="not the stamped record of a session's mutation"):
        record_from(data)


def test_a_record_without_its_timestamp_is_noticed() -> None:
    with pytest.raises(StoreCorrupt, match="not the stamped record"):
        commit_ts_of(unstamped_record(b"1", []))


# --- Which may go -----------------------------------------------------------------------------------------------------


def purge(store: OpenStore, *, before_ts: int = 0, records_max: int = 1000, limit: int = 1000) -> int:
    """A walk from its beginning to its end; returns how many pieces it took."""
    walk, pieces = sessions.BEGINNING, 0
    while True:
        looking = store.begin(writable=False)
        may_go, walk_on = sessions.look(looking, walk, before_ts=before_ts, records_max=records_max, limit=limit)
        store.run(lambda transaction, keys=may_go: sessions.drop(transaction, keys))  # type: ignore[misc]
        assert len(may_go) <= limit + 3 + records_max
        pieces += 1
        if walk_on == sessions.BEGINNING:
            return pieces
        assert walk_on.position > walk.position
        walk = walk_on


def test_the_newest_records_of_a_session_are_kept(store: OpenStore) -> None:
    put(store, "a", *range(7))
    put(store, "b", 1, 2)
    put(store, "c", 0, 10, 20, 30, 31)
    purge(store, records_max=3)
    assert [left(store, name) for name in "abc"] == [[4, 5, 6], [1, 2], [20, 30, 31]]


def test_all_records_of_a_session_go_when_it_has_not_been_used_for_long(store: OpenStore) -> None:
    put(store, "idle", 1, 2)
    put(store, "used", 1, 2)
    last_ts = put(store, "idle", 3)
    put(store, "used", 3)
    purge(store, before_ts=last_ts)
    assert left(store, "idle") == [1, 2, 3], "its last use is not older than that"
    purge(store, before_ts=last_ts + 1)
    assert left(store, "idle") == []
    assert left(store, "used") == [1, 2, 3], "old ones are kept with the new one"


def test_a_walk_goes_on_where_it_stood(store: OpenStore) -> None:
    """A session with more records than one piece may read; and one that is dropped while the walk is inside it."""
    put(store, "a", *range(0, 60, 3))
    put(store, "b", *range(20))
    assert purge(store, records_max=4, limit=5) > 6
    assert left(store, "a") == [48, 51, 54, 57]
    assert left(store, "b") == [16, 17, 18, 19]


def test_a_session_that_is_used_while_the_walk_is_inside_it_keeps_its_newest(store: OpenStore) -> None:
    put(store, "a", *range(10))
    keys, walk = sessions.look(store.begin(), sessions.BEGINNING, before_ts=0, records_max=4, limit=8)
    assert keys == [session_record_key("a", request) for request in range(2)]
    put(store, "a", 10, 11)
    more, walk = sessions.look(store.begin(), walk, before_ts=0, records_max=4, limit=100)
    assert more == [session_record_key("a", request) for request in range(2, 8)]
    assert walk == sessions.BEGINNING


def test_a_session_that_grows_old_while_the_walk_is_inside_it_goes_as_a_whole(store: OpenStore) -> None:
    ts = put(store, "a", *range(10))
    keys, walk = sessions.look(store.begin(), sessions.BEGINNING, before_ts=0, records_max=4, limit=8)
    more, _ = sessions.look(store.begin(), walk, before_ts=ts + 1, records_max=4, limit=100)
    assert [*keys, *more] == [session_record_key("a", request) for request in range(10)]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sets(st.integers(0, 60), min_size=1, max_size=20)),
    st.integers(1, 30),
    st.integers(1, 8),
)
def test_a_walk_in_pieces_finds_what_one_look_finds(
    tmp_path_factory: pytest.TempPathFactory, used: dict[str, set[int]], limit: int, records_max: int
) -> None:
    store = OpenStore(tmp_path_factory.mktemp("walk"))
    try:
        for name, requests in used.items():
            put(store, name, *requests)
        purge(store, records_max=records_max, limit=limit)
        assert {name: left(store, name) for name in used} == {
            name: sorted(requests)[-records_max:] for name, requests in used.items()
        }
    finally:
        store.close()


def test_large_records_fill_a_piece(store: OpenStore) -> None:
    put(store, "a", *range(10), value=b'"%b"' % (b"x" * 1000))
    limits = dataclasses.replace(LIMITS, bytes_read_max=5000)
    transaction = store.begin(limits=limits)
    keys, walk = sessions.look(transaction, sessions.BEGINNING, before_ts=0, records_max=1, limit=1000)
    assert 0 < len(keys) < 5
    assert walk != sessions.BEGINNING
    transaction.write_set()  # no limit of a transaction was reached


def test_looking_passes_over_most_records_of_small_sessions(store: OpenStore) -> None:
    put(store, "a", *range(50))
    transaction = store.begin()
    sessions.look(transaction, sessions.BEGINNING, before_ts=0, records_max=50, limit=1000)
    assert not transaction.read_set.contains(session_record_key("a", 25))
    assert transaction.read_set.contains(session_prefix("a")), "the gaps were read"
    assert transaction.read_set.contains(session_record_key("a", 50))


def test_dropping_conflicts_with_nobody(store: OpenStore) -> None:
    put(store, "a", *range(5))
    keys, _ = sessions.look(store.begin(), sessions.BEGINNING, before_ts=0, records_max=2, limit=1000)
    dropping, running = store.begin(), store.begin()
    sessions.drop(dropping, keys)
    assert sessions.find(running, "a", 5) is None
    sessions.record(running, "a", 5, b"1", [])
    assert all(isinstance(ts, int) for ts in store.commit_together([running, dropping]))
    assert left(store, "a") == [3, 4, 5]
