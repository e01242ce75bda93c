"""Pages of jobs: both orders, every filter, positions that outlive their rows; and sweeps over those that ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from evolute.clock import NS_PER_MS
from evolute.database.transaction import Transaction
from evolute.errors import BadRequest
from evolute.system import job_endings, job_list, job_sweep, jobs
from evolute.system.job_backlog import PoolBacklog, backlog
from evolute.system.job_endings import Ending
from evolute.system.job_list import Position, Wanted
from evolute.system.job_sweep import Swept
from evolute.system.jobs import JobOptions
from tests.open_store import OpenStore

ROWS_MAX = 1000


def schedule(store: OpenStore, path: str = "m:f", due_ns: int | None = None, pool: str = "default") -> str:
    def insert(transaction: Transaction) -> str:
        options = JobOptions(pool=pool)
        return jobs.schedule(transaction, path=path, arguments={}, due_ns=due_ns, scheduled_ms=5.0, options=options)

    return store.run(insert)


def end(store: OpenStore, job_id: str, kind: Any = "success") -> str:
    error = "boom" if kind == "failed" else None
    if kind == "canceled":
        store.run(lambda transaction: jobs.cancel(transaction, job_id))
    else:
        store.run(lambda transaction: job_endings.settle(transaction, job_id, Ending(kind, error=error)))
    return job_id


def listed(store: OpenStore, order: Any = "newest", limit: int = 100, **wanted: Any) -> list[str]:
    """All pages together, each from the text of the position of the one before."""
    found: list[str] = []
    after: Position | None = None
    while True:
        page = job_list.page(store.begin(), Wanted(**wanted), order, after=after, limit=limit, rows_max=ROWS_MAX)
        assert len(page.rows) <= limit
        found += [row["_id"] for row in page.rows]
        if page.next is None:
            return found
        after = Position.of(str(page.next))
        assert after == page.next


@pytest.fixture
def mixed(store: OpenStore) -> dict[str, list[str]]:
    """Jobs of two functions and pools, in every state that a job without an action can be in."""
    now_ns = store.clock.now_ns()
    made: dict[str, list[str]] = {"pending": [], "success": [], "failed": [], "canceled": []}
    for number in range(6):
        path, pool = ("m:f", "default") if number % 2 else ("m:g", "mail")
        for state in made:
            due_ns = None if number % 3 else now_ns + (6 - number) * 1000 * NS_PER_MS + number
            job_id = schedule(store, path, due_ns, pool)
            made[state].append(job_id if state == "pending" else end(store, job_id, state))
    return made


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_the_newest_come_first(store: OpenStore, mixed: dict[str, list[str]], limit: int) -> None:
    everything = [job_id for group in zip(*mixed.values(), strict=True) for job_id in group]
    assert listed(store, limit=limit) == everything[::-1]
    for state, ids in mixed.items():
        assert listed(store, limit=limit, state=state) == ids[::-1], state
    assert listed(store, limit=limit, state="inProgress") == []
    of_g = [job_id for place, job_id in enumerate(everything) if place // 4 % 2 == 0]
    assert listed(store, limit=limit, name="m.py:g") == of_g[::-1]
    assert listed(store, limit=limit, pool="mail") == of_g[::-1], "the pool of one that has ended is known, too"
    assert listed(store, limit=limit, pool="mail", name="m.py:f") == []


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_or_the_next_turn_does(store: OpenStore, mixed: dict[str, list[str]], limit: int) -> None:
    """What is due at once has its turn from when it was scheduled; what has ended has none."""
    pending = mixed["pending"]
    in_turn = [pending[place] for place in (1, 2, 4, 5, 3, 0)]
    assert listed(store, "due", limit) == in_turn
    assert listed(store, "due", limit, pool="mail") == [pending[2], pending[4], pending[0]]
    assert listed(store, "due", limit, name="m.py:f") == [pending[1], pending[5], pending[3]]
    assert listed(store, "due", limit, state="success") == []


def test_many_of_one_moment_are_told_apart(store: OpenStore) -> None:
    due_ns = (1 << 60) + 12345  # no float holds it
    transaction = store.begin()
    made = [
        jobs.schedule(transaction, path=path, arguments={}, due_ns=due, scheduled_ms=1.0)
        for due, path in itertools.product((None, due_ns, due_ns + 1), ("m:f", "m:g"))
        for _ in range(5)
    ]
    store.commit(transaction)
    assert sorted(listed(store, "due", 3)) == sorted(made)
    assert listed(store, "due", 3) == listed(store, "due", 100)
    assert listed(store, "newest", 3) == made[::-1]


def test_a_position_outlives_its_row(store: OpenStore) -> None:
    made = [end(store, schedule(store), "failed") for _ in range(4)]
    page = job_list.page(store.begin(), Wanted(state="failed"), "newest", after=None, limit=2, rows_max=ROWS_MAX)
    assert page.next is not None
    store.run(lambda transaction: transaction.delete(made[2]))
    rest = job_list.page(store.begin(), Wanted(state="failed"), "newest", after=page.next, limit=9, rows_max=ROWS_MAX)
    assert [row["_id"] for row in rest.rows] == [made[1], made[0]]


def test_a_page_reads_no_more_than_it_may(store: OpenStore) -> None:
    rare = schedule(store, "m:rare")
    for _ in range(10):
        schedule(store)
    wanted, pages, after = Wanted(name="m.py:rare"), 0, None
    while True:
        page = job_list.page(store.begin(), wanted, "newest", after=after, limit=5, rows_max=4)
        pages, after = pages + 1, page.next
        if after is None:
            break
        assert page.rows == []
    assert [row["_id"] for row in page.rows] == [rare]
    assert pages == 3


@pytest.mark.parametrize("text", ["", "x", "1~2", "nan~1.0~{id}", "1~inf~{id}", "-1~1.0~{id}", "1~1~nothing", "9" * 20])
def test_what_is_no_position_is_refused(store: OpenStore, text: str) -> None:
    with pytest.raises(BadRequest, match="is no position"):
        Position.of(text.format(id=schedule(store)))


# --- sweeps -----------------------------------------------------------------------------------------------------------


def swept(store: OpenStore, sweep: Callable[..., Swept], limit: int = 2, **options: Any) -> int:
    count, after, before_ms = 0, None, store.clock.now_ns() / NS_PER_MS + 0.5
    while True:
        page = partial(sweep, after=after, before_ms=before_ms, limit=limit, **options)
        done = store.run(page)
        count, after = count + done.jobs, done.next
        if after is None:
            return count


def test_failed_jobs_are_retried_all_or_those_of_one_function(store: OpenStore, mixed: dict[str, list[str]]) -> None:
    assert swept(store, job_sweep.retry, name="m.py:g") == 3
    assert listed(store, state="failed") == mixed["failed"][5::-2]
    assert swept(store, job_sweep.retry, name=None) == 3
    assert listed(store, state="failed") == []
    assert sorted(listed(store, "due")) == sorted(mixed["pending"] + mixed["failed"])
    assert swept(store, job_sweep.retry, name=None) == 0


def test_a_sweep_leaves_alone_what_fails_again_meanwhile(store: OpenStore) -> None:
    made = [end(store, schedule(store), "failed") for _ in range(3)]
    before_ms = store.clock.now_ns() / NS_PER_MS + 0.5
    rounds, after = 0, None
    while True:
        page = partial(job_sweep.retry, name=None, after=after, before_ms=before_ms, limit=1)
        done = store.run(page)
        for job_id in listed(store, state="pending"):
            end(store, job_id, "failed")
        rounds, after = rounds + done.jobs, done.next
        if after is None:
            break
    assert rounds == 3
    assert sorted(listed(store, state="failed")) == sorted(made)


def test_purging_takes_the_failed_or_the_finished_and_nothing_else(
    store: OpenStore, mixed: dict[str, list[str]]
) -> None:
    assert swept(store, job_sweep.purge, which="finished") == 12
    assert sorted(listed(store)) == sorted(mixed["pending"] + mixed["failed"])
    assert swept(store, job_sweep.purge, which="failed") == 6
    assert sorted(listed(store)) == sorted(mixed["pending"])


# --- the backlog ------------------------------------------------------------------------------------------------------


def test_the_backlog_is_what_is_due_and_not_begun(store: OpenStore) -> None:
    begin_ns = store.clock.now_ns()
    first = schedule(store, "m:f", begin_ns + 500)
    others = [schedule(store, "m:g") for _ in range(3)]
    schedule(store, "m:f", begin_ns + 10**15)
    schedule(store, "m:f", begin_ns + 10**15, "later")
    now_ns = store.clock.now_ns()
    found = backlog(store.begin(), now_ns=now_ns, begun=set(), rows_max=100)
    assert found == {"default": PoolBacklog(4, begin_ns + 500), "later": PoolBacklog(0, None)}
    begun = backlog(store.begin(), now_ns=now_ns, begun={first, others[0]}, rows_max=100)
    assert begun["default"].length == 2
    assert begin_ns < (begun["default"].oldest_ns or 0) < now_ns
    few = backlog(store.begin(), now_ns=now_ns, begun=set(), rows_max=2)["default"]
    assert few.oldest_ns == begin_ns + 500, "the longest wait is exact, however few are counted"
    assert few.length < 4
