"""What has been kept long enough is removed, a batch at a time, and a sweep says whether more may be waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from evolute import MutationCtx, internal_mutation, mutation
from evolute.clock import NS_PER_MS
from evolute.execution.request import Call, Outcome
from evolute.limits import MIB, Limits
from evolute.scheduler.housekeeping import Housekeeping
from evolute.storage.keyspace import SESSION_RECORDS_RANGE, request_of
from evolute.testing import LocalBackend

T = TypeVar("T")

LIMITS = Limits(
    map_bytes_max=64 * MIB,
    session_mutations_max=3,
    session_records_max=3,
    system_rows_per_run_max=6,
    job_retention_ms=0,
)


@mutation
def add(ctx: MutationCtx) -> int:
    return len(ctx.db.query("rows").collect()) if ctx.db.insert("rows", {}) else 0


@internal_mutation
def nothing(ctx: MutationCtx) -> None:
    pass


@mutation
def schedule(ctx: MutationCtx) -> None:
    ctx.scheduler.run_after(0, nothing)


def within(backend: LocalBackend, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine(), backend.executor._database._loop).result(30)


def add_in(backend: LocalBackend, session: str, request: int) -> Outcome:
    call = Call("test_housekeeping:add", b"{}", "mutation", session=(session, request))
    return within(backend, lambda: backend.executor.mutate(call))


def sweeps(backend: LocalBackend, housekeeping: Housekeeping) -> int:
    """How many it takes until nothing is waiting."""
    count = 1
    while within(backend, housekeeping.sweep):
        count += 1
    return count


def kept(backend: LocalBackend) -> list[int]:
    async def look() -> list[int]:
        found = await backend.executor.run_system(
            lambda transaction: [request_of(key) for key, _ in transaction.scan_raw(*SESSION_RECORDS_RANGE)]
        )
        return found.value

    return sorted(within(backend, look))


def test_a_session_keeps_its_newest_records_and_loses_all_when_it_is_no_longer_used() -> None:
    with LocalBackend(add, limits=LIMITS) as backend:
        housekeeping = Housekeeping(backend.executor, backend.clock, LIMITS)
        for request in range(1, 12):
            add_in(backend, "one", request)
        add_in(backend, "other", 100)
        assert sweeps(backend, housekeeping) > 1
        assert kept(backend) == [9, 10, 11, 100]
        assert add_in(backend, "one", 11).value == b"11", "as it was answered"
        assert add_in(backend, "one", 1).value == b"13", "forgotten, so it is run"

        backend.advance(seconds=LIMITS.session_record_retention_ms / 2 / 1000)
        add_in(backend, "one", 12)
        backend.advance(seconds=LIMITS.session_record_retention_ms / 2 / 1000)
        sweeps(backend, housekeeping)
        assert kept(backend) == [10, 11, 12], "the other was used for the last time two weeks ago"
        backend.clock.set_ns(backend.clock.now_ns() + LIMITS.session_record_retention_ms * NS_PER_MS)
        sweeps(backend, housekeeping)
        assert kept(backend) == []


def test_a_full_batch_of_jobs_says_that_more_may_wait() -> None:
    with LocalBackend(schedule, nothing, limits=LIMITS) as backend:
        housekeeping = Housekeeping(backend.executor, backend.clock, LIMITS)
        for _ in range(2 * LIMITS.system_rows_per_run_max):
            backend.mutation(schedule)
        backend.advance(seconds=1)
        assert sweeps(backend, housekeeping) == 3
