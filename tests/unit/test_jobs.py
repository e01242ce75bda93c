"""Jobs: rows, states, order, cancelling, and what is kept how long. Races are in tests/scripts/transactions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from evolute.clock import NS_PER_MS
from evolute.database.transaction import Transaction
from evolute.errors import InvalidId, InvalidSchedule, LimitReached
from evolute.system import job_endings, job_queue, jobs
from evolute.system.job_endings import Ending
from evolute.system.jobs import Job
from evolute.system.tables import SCHEDULED, SCHEDULED_ARGUMENTS
from evolute.values.value import Int64
from tests.open_store import LIMITS, OpenStore


def schedule(transaction: Transaction, path: str = "messages:send", **options: Any) -> str:
    given: dict[str, Any] = {"arguments": {"body": "hi"}, "due_ns": None, "scheduled_ms": 5.0, **options}
    return jobs.schedule(transaction, path=path, **given)


def scheduled(store: OpenStore, path: str = "messages:send", **options: Any) -> str:
    return store.run(lambda transaction: schedule(transaction, path, **options))


def succeed(transaction: Transaction, job_id: str, now_ms: float) -> bool:
    return job_endings.settle(transaction, job_id, Ending("success"), now_ms=now_ms) is not None


def fail(transaction: Transaction, job_id: str, text: str, now_ms: float) -> bool:
    return job_endings.settle(transaction, job_id, Ending("failed", None, text), now_ms=now_ms) is not None


def row(store: OpenStore, job_id: str) -> Any:
    transaction = store.begin()
    found = transaction.get(job_id)
    return found and jobs.public_row(transaction, found)


def due(store: OpenStore, now_ns: int, limit: int = 10, skip: frozenset[str] = frozenset()) -> job_queue.DueJobs:
    return job_queue.due(store.begin(), "default", now_ns=now_ns, limit=limit, skip=skip)


def test_a_scheduled_job_is_a_row_with_the_public_fields(store: OpenStore) -> None:
    job_id = scheduled(store, "dir/mod:default", due_ns=7_000_000, scheduled_ms=7.0)
    public = row(store, job_id)
    assert {name: value for name, value in public.items() if name != "_creationTime"} == {
        "_id": job_id,
        "name": "dir/mod.py:default",
        "args": [{"body": "hi"}],
        "scheduledTime": 7,
        "state": {"kind": "pending"},
    }
    assert due(store, 10_000_000).jobs == [
        Job(job_id, "dir/mod:default", b'{"body":"hi"}', turn_ns=7_000_000, state="pending")
    ]


def test_it_exists_if_and_only_if_its_transaction_commits(store: OpenStore) -> None:
    transaction = store.begin()
    savepoint = transaction.savepoint()
    lost = schedule(transaction)
    transaction.rollback(savepoint)
    kept = schedule(transaction)
    assert transaction.get(lost) is None
    assert row(store, kept) is None
    store.commit(transaction)
    assert row(store, kept)["state"] == {"kind": "pending"}


def test_long_arguments_have_a_row_of_their_own(store: OpenStore) -> None:
    text = "x" * LIMITS.scheduled_inline_arguments_bytes_max
    job_id = scheduled(store, arguments={"body": text})
    assert "args" not in (store.begin().get(job_id) or {})
    assert row(store, job_id)["args"] == [{"body": text}]
    assert due(store, 1).jobs[0].arguments == b'{"body":"%b"}' % text.encode()
    store.run(lambda transaction: jobs.cancel(transaction, job_id))
    assert store.run(lambda transaction: jobs.purge_completed(transaction, before_ms=1e15, limit=10)) == 1
    assert store.begin().query(SCHEDULED_ARGUMENTS).collect() == []


def test_arguments_may_be_as_deep_as_values_are(store: OpenStore) -> None:
    nested: Any = {}
    for _ in range(62):
        nested = {"a": nested}
    for length in (1, 70_000):
        job_id = scheduled(store, arguments={"a": nested, "b": "x" * length})
        assert row(store, job_id)["args"][0]["a"] == nested


# --- which are due ----------------------------------------------------------------------------------------------------


def test_jobs_are_due_in_order_of_time_then_of_scheduling(store: OpenStore) -> None:
    late = scheduled(store, due_ns=300)
    first_now = scheduled(store)
    early = scheduled(store, due_ns=100)
    transaction = store.begin()
    same = [schedule(transaction, due_ns=200) for _ in range(5)]
    store.commit(transaction)
    second_now = scheduled(store)
    look = due(store, 250)
    assert [job.id for job in look.jobs] == [early, *same, first_now, second_now]
    assert look.next_due_ns == 300
    assert [job.id for job in due(store, 300).jobs] == [early, *same, late, first_now, second_now]
    assert due(store, 300).next_due_ns is None


def test_what_is_due_at_once_and_what_is_due_at_its_time_take_turns(store: OpenStore) -> None:
    before = scheduled(store)
    moment_ns = store.clock.now_ns()
    timed = scheduled(store, due_ns=moment_ns)
    after = [scheduled(store) for _ in range(3)]
    assert [job.id for job in due(store, moment_ns).jobs] == [before, timed, *after]
    assert [job.id for job in due(store, moment_ns, limit=2, skip=frozenset({before})).jobs] == [timed, after[0]]
    # No clock decides about what is due at once, not even one that has gone back.
    assert [job.id for job in due(store, 0).jobs] == [before, *after]
    assert due(store, 0).next_due_ns == moment_ns
    assert due(store, 0, skip=frozenset({timed})).next_due_ns is None, "it runs, although its time has not come (again)"


def test_functions_take_turns_whether_their_jobs_are_due_at_once_or_at_their_time(store: OpenStore) -> None:
    at_once = scheduled(store, "a:at_once")
    timed = scheduled(store, "b:timed", due_ns=store.clock.now_ns())
    last = scheduled(store, "c:last")
    assert [job.id for job in due(store, store.clock.now_ns()).jobs] == [at_once, timed, last]
    assert [job.id for job in due(store, store.clock.now_ns(), limit=2).jobs] == [at_once, timed]


def test_due_stops_at_its_limit_and_passes_over_what_runs(store: OpenStore) -> None:
    ids = [scheduled(store, due_ns=number) for number in (10, 20, 30)]
    look = due(store, 100, limit=1, skip=frozenset({ids[0]}))
    assert [job.id for job in look.jobs] == [ids[1]]
    assert (look.next_due_ns, look.left_over) == (None, 30)
    assert due(store, 5) == job_queue.DueJobs([], next_due_ns=10)


def test_what_due_has_read_is_touched_by_an_earlier_job_and_not_by_a_later_one(store: OpenStore) -> None:
    scheduled(store, due_ns=100)
    look = store.begin()
    job_queue.due(look, "default", now_ns=50, limit=10)
    later, earlier = store.begin(), store.begin()
    schedule(later, due_ns=200)
    schedule(earlier, due_ns=60)
    assert not any(map(look.read_set.contains, later.write_set().touched))
    assert any(map(look.read_set.contains, earlier.write_set().touched))


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_mutation_ends_its_job_in_its_own_transaction(store: OpenStore) -> None:
    job_id = scheduled(store)
    transaction = store.begin()
    assert jobs.begin(transaction, job_id)
    assert transaction.get(
        job_id,
    )["state"] == {"kind": "inProgress"}  # type: ignore[index]
    assert row(store, job_id)["state"] == {"kind": "pending"}
    assert succeed(transaction, job_id, 12.5)
    store.commit(transaction)
    assert row(store, job_id)["state"] == {"kind": "success"}
    assert row(store, job_id)["completedTime"] == 12.5
    assert due(store, 10**18).jobs == []


@pytest.mark.parametrize("by_scan", [False, True])
def test_a_job_that_has_begun_is_in_progress_for_whoever_looks(store: OpenStore, by_scan: bool) -> None:
    def state(transaction: Transaction) -> object:
        found = transaction.query(SCHEDULED).first() if by_scan else transaction.get(job_id)
        assert found is not None
        return found["state"]

    job_id = scheduled(store)
    transaction = store.begin()
    assert jobs.begin(transaction, job_id)
    savepoint = transaction.savepoint()
    assert state(transaction) == {"kind": "inProgress"}
    transaction.rollback(savepoint)
    assert state(transaction) == {"kind": "inProgress"}, "it had begun before the savepoint"
    assert job_endings.settle(transaction, job_id, Ending("success"), now_ms=3.0) is not None
    store.commit(transaction)
    assert row(store, job_id)["state"] == {"kind": "success"}


def test_that_a_job_has_begun_is_written_if_nobody_ends_it(store: OpenStore) -> None:
    job_id = scheduled(store)
    assert store.run(lambda transaction: jobs.begin(transaction, job_id))
    assert row(store, job_id)["state"] == {"kind": "inProgress"}


def test_a_mutation_writes_the_row_of_its_job_once(store: OpenStore) -> None:
    job_id = scheduled(store)
    transaction = store.begin()
    assert jobs.begin(transaction, job_id)
    job_endings.settle(transaction, job_id, Ending("success"), now_ms=3.0)
    ended = transaction.write_set()
    at_once = store.begin()
    succeed(at_once, job_id, 3.0)
    assert ended == at_once.write_set()
    assert transaction.savepoint().undo_length == 1


def test_an_action_is_marked_first_and_stays_due(store: OpenStore) -> None:
    job_id = scheduled(store)
    assert store.run(lambda transaction: jobs.mark_in_progress(transaction, job_id))
    assert not store.run(lambda transaction: jobs.mark_in_progress(transaction, job_id))
    assert [(job.id, job.in_progress) for job in due(store, 1).jobs] == [(job_id, True)]
    assert store.run(lambda transaction: fail(transaction, job_id, "Uncaught ValueError: boom", 9.0))
    assert row(store, job_id)["state"] == {"kind": "failed", "error": "Uncaught ValueError: boom"}


def test_what_has_ended_is_not_begun(store: OpenStore) -> None:
    job_id = scheduled(store)
    store.run(lambda transaction: fail(transaction, job_id, "gone", 1.0))
    assert not jobs.begin(store.begin(), job_id)
    assert not succeed(store.begin(), job_id, 2.0)


def test_a_canceled_action_stays_canceled_when_it_finishes(store: OpenStore) -> None:
    job_id = scheduled(store)
    store.run(lambda transaction: jobs.mark_in_progress(transaction, job_id))
    store.run(lambda transaction: jobs.cancel(transaction, job_id))
    assert not store.run(lambda transaction: succeed(transaction, job_id, 3.0))
    assert not store.run(lambda transaction: fail(transaction, job_id, "late", 3.0))
    assert row(store, job_id)["state"] == {"kind": "canceled"}


def test_reading_jobs_does_not_use_up_the_functions_budget(store: OpenStore) -> None:
    job_id = scheduled(store)
    transaction = store.begin(limits=dataclasses.replace(LIMITS, documents_read_max=0, documents_written_max=0))
    assert jobs.begin(transaction, job_id)
    assert succeed(transaction, job_id, 1.0)
    store.commit(transaction)


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancel(store: OpenStore) -> None:
    job_id = scheduled(store)
    transaction = store.begin()
    jobs.cancel(transaction, job_id)
    store.commit(transaction)
    canceled = row(store, job_id)
    assert canceled["state"] == {"kind": "canceled"}
    assert canceled["completedTime"] == transaction.now_ns / NS_PER_MS
    assert not jobs.begin(store.begin(), job_id)
    again = store.begin()
    jobs.cancel(again, job_id)
    assert not again.write_set(), "what has ended stays as it is"


def test_cancel_of_what_has_ended_or_is_gone_is_nothing(store: OpenStore) -> None:
    job_id = scheduled(store)
    store.run(lambda transaction: succeed(transaction, job_id, 1.0))
    transaction = store.begin()
    jobs.cancel(transaction, job_id)
    store.run(lambda purging: jobs.purge_completed(purging, before_ms=2.0, limit=1))
    jobs.cancel(store.begin(), job_id)
    assert not transaction.write_set()


def test_cancel_refuses_other_ids_and_the_job_itself(store: OpenStore) -> None:
    job_id, document_id = scheduled(store), store.run(lambda transaction: transaction.insert("items", {}))
    transaction = store.begin()
    with pytest.raises(InvalidId) as error:
        jobs.cancel(transaction, document_id)
    assert str(error.value) == (
        "Invalid scheduled function ID. The ID must be an ID on the '_scheduled_functions' table."
    )
    with pytest.raises(InvalidId, match=r"Invalid argument `id` for `db\.cancel_job`: Unable to decode ID: "):
        jobs.cancel(transaction, "nonsense")
    with pytest.raises(InvalidSchedule, match="A mutation cannot cancel itself"):
        jobs.cancel(transaction, job_id, own_job=job_id)


def test_the_child_of_a_canceled_parent_is_canceled_from_the_start(store: OpenStore) -> None:
    parent = scheduled(store)
    before = scheduled(store, parent_job=parent)
    store.run(lambda transaction: jobs.mark_in_progress(transaction, parent))
    store.run(lambda transaction: jobs.cancel(transaction, parent))
    child = scheduled(store, parent_job=parent)
    assert row(store, child)["state"] == {"kind": "canceled"}
    assert "completedTime" in row(store, child)
    assert [job.id for job in due(store, 1, skip=frozenset({parent})).jobs] == [
        before
    ]  # its own end is still to be recorded
    done = scheduled(store)
    store.run(lambda transaction: succeed(transaction, done, 1.0))
    assert row(store, scheduled(store, parent_job=done))["state"] == {"kind": "pending"}


# --- limits -----------------------------------------------------------------------------------------------------------


def test_one_mutation_schedules_at_most_1000_and_keeps_those(store: OpenStore) -> None:
    transaction = store.begin()
    savepoint = transaction.savepoint()
    schedule(transaction)
    transaction.rollback(savepoint)
    for _ in range(999):
        schedule(transaction)
    for _ in range(2):
        with pytest.raises(LimitReached, match=r"Too many functions scheduled by this mutation \(limit: 1000\)"):
            schedule(transaction)
    store.commit(transaction)
    assert len(store.begin().query(SCHEDULED).collect()) == 999, "the one that was rolled back counts"


def test_the_arguments_of_one_mutation_are_bounded_together(store: OpenStore) -> None:
    transaction = store.begin(limits=dataclasses.replace(LIMITS, scheduled_arguments_bytes_max=1000))
    schedule(transaction, arguments={"body": "x" * 900})
    with pytest.raises(LimitReached) as error:
        schedule(transaction, arguments={"body": "x" * 100})
    assert str(error.value).startswith(
        "Too large total size of the arguments of scheduled functions from this mutation (limit: 1000 bytes)"
    )
    assert transaction.poisoned is None


# --- retention --------------------------------------------------------------------------------------------------------


def test_ended_jobs_are_purged_oldest_first_and_others_are_kept(store: OpenStore) -> None:
    pending = scheduled(store)
    ended = [scheduled(store) for _ in range(4)]
    for number, job_id in enumerate(ended):
        store.run(lambda transaction, job_id=job_id, number=number: succeed(transaction, job_id, 10.0 + number))  # type: ignore[misc]
    assert store.run(lambda transaction: jobs.purge_completed(transaction, before_ms=13.0, limit=2)) == 2
    assert store.run(lambda transaction: jobs.purge_completed(transaction, before_ms=13.0, limit=2)) == 1
    assert store.run(lambda transaction: jobs.purge_completed(transaction, before_ms=13.0, limit=2)) == 0
    assert [one["_id"] for one in store.begin().query(SCHEDULED)] == [pending, ended[3]]


def test_hidden_fields_are_not_public(store: OpenStore) -> None:
    job_id = scheduled(store, due_ns=5)
    stored = store.begin().get(job_id)
    assert stored is not None
    assert stored["_due"] == Int64(5)
    assert [name for name in row(store, job_id) if name.startswith("_")] == ["_creationTime", "_id"]
