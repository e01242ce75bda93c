"""A session's mutation runs once: its record is found again, by one read, and two runs cannot both commit."""

from __future__ import annotations

import dataclasses

import pytest

from evolute.errors import Conflict
from evolute.system import sessions
from evolute.system.sessions import SessionRecord
from evolute.system.tables import SESSIONS
from tests.open_store import LIMITS, OpenStore

SESSION = "6d9ab8f2-0c1c-4b0e-9d3d-1d2f0a5b7c11"


def test_a_record_is_found_with_the_timestamp_of_its_commit(store: OpenStore) -> None:
    transaction = store.begin()
    assert sessions.find(transaction, SESSION, 3) is None
    sessions.record(transaction, SESSION, 3, b'{"a":1}', ["[LOG] 'x'"])
    commit_ts = store.commit(transaction)
    assert sessions.find(store.begin(), SESSION, 3) == SessionRecord(b'{"a":1}', ("[LOG] 'x'",), commit_ts)
    assert sessions.find(store.begin(), SESSION, 4) is None
    assert sessions.find(store.begin(), "other", 3) is None


def test_finding_is_one_point_read(store: OpenStore) -> None:
    transaction = store.begin(limits=dataclasses.replace(LIMITS, documents_read_max=0))
    sessions.find(transaction, SESSION, 3)
    assert len(transaction.read_set) == 1
    assert transaction.read_set.ranges == []


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
    store.run(lambda transaction: sessions.record(transaction, SESSION, 1, value, []))
    record = sessions.find(store.begin(), SESSION, 1)
    assert record is not None
    assert record.value == value


def test_old_records_are_purged(store: OpenStore) -> None:
    for request in range(3):
        store.run(lambda transaction, request=request: sessions.record(transaction, SESSION, request, b"0", []))  # type: ignore[misc]
    rows = store.begin().query(SESSIONS).collect()
    newest = rows[-1]["_creationTime"]
    assert store.run(lambda transaction: sessions.purge(transaction, before_ms=newest, limit=1)) == 1
    assert store.run(lambda transaction: sessions.purge(transaction, before_ms=newest, limit=10)) == 1
    assert sessions.find(store.begin(), SESSION, 0) is None
    assert sessions.find(store.begin(), SESSION, 2) is not None


@pytest.mark.parametrize(("one", "other"), [(("a", 11), ("a1", 1)), (("1:a", 2), ("a", 21))])
def test_records_of_other_sessions_do_not_collide(
    store: OpenStore, one: tuple[str, int], other: tuple[str, int]
) -> None:
    store.run(lambda transaction: sessions.record(transaction, *one, b"1", []))
    assert sessions.find(store.begin(), *other) is None
