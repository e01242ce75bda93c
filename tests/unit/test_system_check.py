"""The runtime's own rows: sound ones have no faults, and each way to break one is found and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evolute.database.transaction import Transaction
from evolute.storage.keyspace import CURSOR_KEY
from evolute.system import admin_keys, crons, job_endings, jobs, sessions
from evolute.system.job_endings import Ending
from evolute.system.jobs import JobOptions
from evolute.system.tables import ADMIN_KEYS, CRON_RUNS, DEPLOYMENTS, SCHEDULED, SCHEDULED_ARGUMENTS, SOURCES
from evolute.values.cron_schedule import daily, interval
from evolute.values.value import UNSET, Int64
from tests.open_store import OpenStore

LONG = {"text": "x" * 100_000}


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[OpenStore]:
    """A store that need not be sound when the test is over."""
    store = OpenStore(tmp_path)
    try:
        yield store
    finally:
        store.close()


def schedule(transaction: Transaction, **options: Any) -> str:
    given: dict[str, Any] = {"arguments": {}, "due_ns": None, "scheduled_ms": 5.0, **options}
    return jobs.schedule(transaction, path="mail:send", **given)


def failed(transaction: Transaction) -> str:
    job = schedule(transaction)
    assert job_endings.settle(transaction, job, Ending("failed", None, "no such mailbox"), now_ms=7.0) is not None
    return job


def test_rows_of_every_kind_are_sound(store: OpenStore) -> None:
    def write(transaction: Transaction) -> None:
        schedule(transaction)
        schedule(transaction, arguments=LONG, due_ns=10**18)
        schedule(transaction, options=JobOptions(pool="mail", key="ada"))
        assert jobs.mark_in_progress(transaction, schedule(transaction, options=JobOptions(key="bob")))
        failed(transaction)
        jobs.retry(transaction, failed(transaction))
        jobs.cancel(transaction, schedule(transaction))
        jobs.cancel(transaction, schedule(transaction, options=JobOptions(on_complete="mail:told")))
        done = schedule(transaction)
        job_endings.settle(transaction, done, Ending("success"), now_ms=9.0)
        jobs.delete(transaction, jobs.read(transaction, schedule(transaction, arguments=LONG)) or {})
        crons.set_dynamic(transaction, "tidy", interval(hours=1), "mail:tidy", b"{}")
        crons.set_dynamic(transaction, "report", daily(hour=8), "mail:report", b"{}")
        crons.run_now(transaction, "tidy")
        sessions.record(transaction, "a session", 1, b"null", [])

    store.run(write)
    assert store.check() == []


JOBS: list[tuple[str, Callable[[Transaction], str], dict[str, object], str]] = [
    ("a pending job that nobody runs", schedule, {"_due": UNSET, "_pool": UNSET}, "has no due time, so nobody"),
    ("a pool without a due time", schedule, {"_due": UNSET}, "is pending and has a pool but no due time"),
    ("a due time without a pool", schedule, {"_pool": UNSET}, "is pending and has a due time but no pool"),
    ("a due time that is none", schedule, {"_due": 5}, "is pending and has a due time that is none: 5"),
    ("a pending job that has ended", schedule, {"completedTime": 5}, "is pending and says when it ended"),
    ("a mark without a key", schedule, {"_mark": "ada"}, "is pending and has the mark 'ada' instead of None"),
    ("a state that there is not", schedule, {"state": {"kind": "lost"}}, "is in a state that there is not: 'lost'"),
    ("no state", schedule, {"state": UNSET}, "cannot be understood: KeyError"),
    ("no arguments", schedule, {"args": UNSET}, "has no arguments, or has them twice"),
    ("two objects of arguments", schedule, {"args": [{}, {}]}, "has something else than one object of arguments"),
    ("arguments that are gone", schedule, {"args": UNSET, "_arguments": "?"}, "leads to arguments that are gone: '?'"),
    ("a failed job that is due", failed, {"_due": Int64(1), "_pool": "default"}, "is failed and has a due time"),
    ("a failed job without an end", failed, {"completedTime": UNSET, "_mark": UNSET}, "does not say when it ended"),
    ("a failed job without its mark", failed, {"_mark": UNSET}, "is failed and has the mark None instead of 7"),
    ("a failed job that has started", failed, {"_started": 5}, "is failed and is marked as started"),
]


@pytest.mark.parametrize(("make", "changes", "said"), [row[1:] for row in JOBS], ids=[row[0] for row in JOBS])
def test_a_job_that_breaks_a_promise_is_found(
    broken: OpenStore, make: Callable[[Transaction], str], changes: dict[str, object], said: str
) -> None:
    job = broken.run(make)
    assert broken.check() == []
    broken.run(lambda transaction: transaction.patch(job, changes))
    faults = broken.check()
    assert any(fault.startswith(f"The job {job} ('mail.py:send') ") and said in fault for fault in faults), faults


def test_two_pending_jobs_of_one_key_are_found(broken: OpenStore) -> None:
    first, second = (
        broken.run(lambda t, key=key: schedule(t, options=JobOptions(key=key)))  # type: ignore[misc]
        for key in ("ada", "bob")
    )
    broken.run(lambda transaction: transaction.patch(second, {"_mark": "ada", "_options": {"key": "ada"}}))
    assert broken.check() == [f"The job {second} ('mail.py:send') has the key 'ada', which another pending job has."]
    assert first != second


def test_long_arguments_that_no_job_has_are_found(broken: OpenStore) -> None:
    broken.run(lambda transaction: transaction.insert(SCHEDULED_ARGUMENTS, {"args": [{}]}))
    broken.run(lambda transaction: schedule(transaction, arguments=LONG))
    assert broken.check() == ["There are 2 rows of long arguments, but 1 jobs that have some."]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "The cron 'other' has the id"),
        ({"state": {"kind": "lost"}}, "is in a state that there is not: {'kind': 'lost'}."),
        ({"_due": UNSET}, "has no due time, so nobody will run it."),
        ({"nextTime": 1}, "but shows 1."),
        ({"schedule": {"type": "daily", "hour": 99, "minute": 0}}, "has a schedule that is none: "),
        ({"schedule": UNSET}, "has a schedule that is none: "),
        ({"args": []}, "has something else than one object of arguments."),
    ],
)
def test_a_cron_that_breaks_a_promise_is_found(broken: OpenStore, changes: dict[str, object], said: str) -> None:
    broken.run(lambda transaction: crons.set_dynamic(transaction, "tidy", interval(hours=1), "mail:tidy", b"{}"))
    broken.run(lambda transaction: transaction.patch(crons.cron_id("tidy"), changes))
    faults = broken.check()
    assert any(said in fault for fault in faults), faults


def test_a_run_of_no_cron_is_found(broken: OpenStore) -> None:
    run = broken.run(lambda transaction: transaction.insert(CRON_RUNS, {"name": "gone"}))
    assert broken.check() == [f"The run {run} is one of the cron 'gone', which does not exist."]


def test_a_deployment_that_cannot_be_is_found(broken: OpenStore) -> None:
    def write(transaction: Transaction) -> None:
        for path in ("a.py", "a.py"):
            transaction.insert(SOURCES, {"path": path, "source": b""})
        transaction.insert(SOURCES, {"path": "b.py"})

    broken.run(write)
    unordered = set(broken.check())
    assert "The deployed file 'a.py' is there twice." in unordered
    assert "There are 1 deployed files, and no deployment that they belong to." in unordered
    assert any(fault.endswith("of the deployed sources is no file.") for fault in unordered)
    for _ in range(2):
        broken.run(lambda transaction: transaction.insert(DEPLOYMENTS, {"hash": "x"}))
    assert "There are 2 deployments, and one can be active." in broken.check()


def test_a_missing_index_of_the_runtime_is_found(broken: OpenStore) -> None:
    def drop(transaction: Transaction) -> None:
        definition = transaction.table(SCHEDULED)
        assert definition is not None
        kept = {name: index for name, index in definition.indexes.items() if name != "by_mark"}
        transaction.put_table(type(definition)(definition.number, definition.name, kept))

    broken.run(drop)
    assert f"Table '{SCHEDULED}' lacks the index by_mark over _mark." in broken.check()


def test_a_key_of_cursors_that_cannot_be_is_found(broken: OpenStore) -> None:
    broken.run(lambda transaction: transaction.put_raw(CURSOR_KEY, b"short"))
    assert "The key of cursors has 5 bytes instead of 32." in broken.check()
    broken.run(lambda transaction: transaction.put_raw(CURSOR_KEY, None))
    assert "The key of cursors is missing." in broken.check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "other"}, "The admin key 'other' has no name of its own."),
        ({"name": 7}, "The admin key 7 has no name of its own."),
        ({"readOnly": "yes"}, "The admin key 'ci' is neither read-only nor full."),
        ({"hash": "secret"}, "The admin key 'ci' has no hash of a secret."),
    ],
)
def test_an_admin_key_that_breaks_a_promise_is_found(broken: OpenStore, changes: dict[str, object], said: str) -> None:
    def write(transaction: Transaction) -> None:
        for name in ("other", "ci"):
            admin_keys.add(transaction, name, bytes(32), read_only=True, keys_max=2)

    broken.run(write)
    assert broken.check() == []
    _, key = broken.run(lambda transaction: [row["_id"] for row in transaction.query(ADMIN_KEYS)])
    broken.run(lambda transaction: transaction.patch(key, changes))
    assert said in broken.check()
