"""What operators see of jobs and do to them: why a job waits, and every change. The clock is manual."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from evolute import ActionCtx, MutationCtx, Pool, Retry, action, internal_mutation, mutation
from evolute.errors import BadRequest, InvalidId, Overloaded
from evolute.execution.request import Call, FunctionOutcome
from evolute.limits import Limits
from evolute.scheduler.job_admin import JobAdmin
from evolute.scheduler.job_reason import duration
from evolute.scheduler.scheduler import Scheduler
from evolute.system import jobs
from evolute.testing import LocalBackend

T = TypeVar("T")
LIMITS = Limits(job_stuck_ms=60_000, action_ms_max=5_000, kill_grace_ms=500, admin_text_characters_max=40)
gate: asyncio.Event
begun: asyncio.Event


@action(pool="narrow")
async def hold(ctx: ActionCtx) -> None:
    begun.set()
    await gate.wait()


@action(pool="narrow", retry=Retry(attempts=3, initial_ms=10_000))
async def flaky(ctx: ActionCtx) -> None:
    raise RuntimeError("no luck " + "x" * 100)


@internal_mutation
def note(ctx: MutationCtx, text: str) -> None:
    if text == "bad":
        raise ValueError("a bad text")
    ctx.db.insert("notes", {"text": text})


@internal_mutation
def told(ctx: MutationCtx, job: Any) -> None:
    ctx.db.insert("notes", {"text": job.kind})


@internal_mutation(pool="slow")
def tick(ctx: MutationCtx) -> None:
    pass


@mutation
def plan(
    ctx: MutationCtx, target: str, delay: float = 0, args: dict[str, Any] = {}, options: dict[str, Any] = {}  # noqa: B006
) -> str:  # fmt: skip
    return ctx.scheduler.options(**options).run_after(delay, f"test_job_admin:{target}", **args)


FUNCTIONS = (hold, flaky, note, told, tick, plan)
POOLS = {"narrow": Pool(concurrency=1), "slow": Pool(concurrency=8, per_second=1)}


@pytest.fixture
def one() -> Iterator[LocalBackend]:
    global gate, begun
    gate, begun = asyncio.Event(), asyncio.Event()
    with LocalBackend(*FUNCTIONS, pools=POOLS, limits=LIMITS) as backend:
        yield backend
        backend._loop.call_soon_threadsafe(gate.set)
        resume_everything(backend)
        backend.run_due()


def admin(backend: LocalBackend) -> JobAdmin:
    return JobAdmin(backend.executor, backend.scheduler, backend.clock, backend.limits)


def done(backend: LocalBackend, asked: Coroutine[Any, Any, T]) -> T:
    return backend._wait(asked)


def shown(backend: LocalBackend, job_id: str) -> dict[str, Any]:
    found = done(backend, admin(backend).show(job_id))
    assert found is not None
    return found.fields


def why(backend: LocalBackend, job_id: str) -> tuple[Any, bool]:
    fields = shown(backend, job_id)
    return fields["why"], fields["stuck"]


def schedule(backend: LocalBackend, target: str, **given: Any) -> str:
    job_id: str = backend.mutation(plan, target=target, **given)
    return job_id


def step(backend: LocalBackend, seconds: float) -> None:
    """Time passes, and nobody waits for what falls due."""
    done(backend, stepped(backend, seconds))


async def stepped(backend: LocalBackend, seconds: float) -> None:
    backend.clock.set_ns(backend.clock.now_ns() + round(seconds * 1e9))
    for _ in range(100):
        await asyncio.sleep(0)


def hold_place(backend: LocalBackend) -> str:
    job_id = schedule(backend, "hold")
    done(backend, begun.wait())
    return job_id


def resume_everything(backend: LocalBackend) -> None:
    for pool in done(backend, admin(backend).paused()):
        done(backend, admin(backend).resume(pool))


# --- why --------------------------------------------------------------------------------------------------------------


def test_one_that_is_not_due_says_when(one: LocalBackend) -> None:
    job_id = schedule(one, "note", delay=3_600_000, args={"text": "x"})
    fields = shown(one, job_id)
    assert (fields["why"], fields["stuck"]) == ("due at 2023-11-14 23:13:20 UTC", False)
    assert (fields["state"], fields["function"], fields["pool"]) == ("pending", "test_job_admin:note", "default")
    assert fields["dueTime"] == fields["scheduledTime"] == pytest.approx(1_700_003_600_000, abs=1)


def test_one_that_waits_behind_a_full_pool(one: LocalBackend) -> None:
    hold_place(one)
    job_id = schedule(one, "hold")
    assert why(one, job_id) == ("the pool narrow is full: 1 of 1 run", False)
    step(one, 61)
    assert why(one, job_id) == ("the pool narrow is full: 1 of 1 run", True)
    stuck = done(one, admin(one).find(stuck=True, order="due", limit=10))
    assert job_id in [job["id"] for job in stuck.jobs]


def test_one_that_waits_for_its_pool_s_rate(one: LocalBackend) -> None:
    ids = [schedule(one, "tick") for _ in range(2)]
    step(one, 0)
    assert why(one, ids[1]) == ("the pool slow has used up its rate of 1 ", False)
    one.advance(seconds=2)
    assert why(one, ids[1]) == (None, False)


def test_one_that_is_paused(one: LocalBackend) -> None:
    assert done(one, admin(one).pause("default")) == {"default"}
    job_id = schedule(one, "note", args={"text": "x"})
    assert why(one, job_id) == ("the pool default is paused", False)
    done(one, admin(one).pause(None))
    assert why(one, job_id)[0] == "everything is paused"
    step(one, 61)
    assert why(one, job_id) == ("everything is paused", True)
    assert done(one, admin(one).find(limit=1)).paused == {None, "default"}
    assert done(one, admin(one).resume(None)) == {"default"}
    one.run_due()
    assert why(one, job_id) == ("the pool default is paused", True)
    assert done(one, admin(one).resume("default")) == frozenset()
    one.run_due()
    assert shown(one, job_id)["state"] == "success"


def test_one_that_runs_longer_than_it_may(one: LocalBackend) -> None:
    job_id = hold_place(one)
    step(one, 4)
    assert why(one, job_id) == ("running for 4 s", False)
    step(one, 3)
    text, is_stuck = why(one, job_id)
    assert is_stuck
    assert text.startswith("in progress for 7 s, which is longer tha"), text
    assert shown(one, job_id)["startedTime"] is not None


def test_one_that_is_tried_again_by_its_policy(one: LocalBackend) -> None:
    job_id = schedule(one, "flaky")
    one.run_due()
    fields = shown(one, job_id)
    assert fields["why"].startswith("backing off until 2023-11-14 22:13:30 UT")
    assert (fields["tries"], fields["stuck"], len(fields["attempts"])) == (1, False, 1)
    assert fields["retry"]["attempts"] == 3
    one.advance(seconds=60)
    failed = shown(one, job_id)
    assert (failed["state"], failed["why"]) == ("failed", None)
    assert "no luck xxx" in failed["error"]
    (listed,) = done(one, admin(one).find(limit=9)).jobs
    assert len(listed["error"]) == 40, "a list shows the beginning of long texts"
    assert len(failed["error"]) > 100


def test_one_that_the_runtime_could_not_run(one: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    run = one._runners.run

    async def full(
        kind: Any, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> FunctionOutcome:
        if calls[0].job is not None:
            raise Overloaded("5 calls wait for a worker")
        return await run(kind, calls, urgent=urgent, fresh=fresh, deaths=deaths)

    monkeypatch.setattr(one._runners, "run", full)
    job_id = schedule(one, "note", args={"text": "x"})
    step(one, 0)
    reason = shown(one, job_id)["why"]
    assert reason.startswith("backing off until 2023-11-14 22:13:20 UT"), reason
    standing = one.scheduler.standing(job_id, "test_job_admin:note", "default")
    assert standing.back_off is not None
    assert standing.back_off.reason == "5 calls wait for a worker"
    monkeypatch.undo()
    step(one, 1)
    one.run_due()
    assert shown(one, job_id)["state"] == "success"
    assert one.scheduler.standing(job_id, "test_job_admin:note", "default").back_off is None


def test_one_that_waits_for_a_worker(one: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    room, opened = one.executor.action_room, asyncio.Event()

    class Later:
        def __init__(self, path: str) -> None:
            self.room = room(path)

        async def __aenter__(self) -> int | None:
            await opened.wait()
            return await self.room.__aenter__()

        async def __aexit__(self, *error: Any) -> None:
            await self.room.__aexit__(*error)

    monkeypatch.setattr(one.executor, "action_room", Later)
    job_id = schedule(one, "hold")
    step(one, 61)
    assert why(one, job_id) == ("waiting for an action worker", True)
    one._loop.call_soon_threadsafe(opened.set)
    done(one, begun.wait())


def test_one_that_was_interrupted_while_everything_is_paused(one: LocalBackend) -> None:
    """What a crash leaves, and a scheduler that knows nothing of it."""
    done(one, admin(one).pause(None))
    job_id = schedule(one, "hold")
    one._wait(one.executor.run_system(lambda transaction: jobs.mark_in_progress(transaction, job_id)))
    reader = JobAdmin(one.executor, scheduler_of(one), one.clock, Limits())
    step(one, 61)
    found = done(one, reader.show(job_id))
    assert found is not None
    assert found.fields["why"].startswith("interrupted when the server ended")
    assert found.fields["why"].endswith(": everything is paused")
    assert found.fields["stuck"]


def scheduler_of(backend: LocalBackend) -> Scheduler:
    return Scheduler(backend.executor, backend.database.subscriptions, backend.clock, backend.limits)


def test_one_whose_completion_is_still_to_be_told(one: LocalBackend) -> None:
    hold_place(one)
    job_id = schedule(one, "hold", options={"on_complete": "test_job_admin:told"})
    assert done(one, admin(one).cancel(job_id)) == "pending"
    fields = shown(one, job_id)
    assert (fields["state"], fields["completedTime"]) == ("canceled", None)
    assert fields["why"].startswith("canceled, and its completion function is")
    assert fields["onComplete"] == "test_job_admin:told"


@pytest.mark.parametrize("how", ["retried", "canceled"])
def test_an_old_job_that_has_something_new_to_do_is_not_late(one: LocalBackend, how: str) -> None:
    """Its turn is by when it was run again by hand, or canceled, however long ago it was scheduled."""
    if how == "canceled":
        done(one, admin(one).pause("default"))
    job_id = schedule(one, "note", args={"text": "bad"}, options={"on_complete": "test_job_admin:told"})
    one.run_due()
    done(one, admin(one).pause("default"))
    one.advance(seconds=3600)
    done(one, admin(one).retry(job_id) if how == "retried" else admin(one).cancel(job_id))
    fields = shown(one, job_id)
    assert (fields["dueTime"], fields["stuck"]) == (pytest.approx(one.clock.now_ns() / 1e6, abs=1), False)
    oldest_ns = done(one, admin(one).backlog())["default"].oldest_ns
    assert oldest_ns == pytest.approx(one.clock.now_ns(), abs=1e6)


def test_durations() -> None:
    told = [duration(ms) for ms in (0, 250, 1000, 12_000, 119_000, 180_000, 7_200_000, 3 * 86_400_000)]
    assert told == ["0 ms", "250 ms", "1 s", "12 s", "119 s", "3 min", "2 h", "3 d"]


# --- changes ----------------------------------------------------------------------------------------------------------


def test_cancelling(one: LocalBackend) -> None:
    running, waiting = hold_place(one), schedule(one, "hold")
    assert done(one, admin(one).cancel(waiting)) == "pending"
    assert done(one, admin(one).cancel(running)) == "inProgress"
    one.run_due()
    assert [shown(one, job_id)["state"] for job_id in (running, waiting)] == ["canceled", "canceled"]
    assert done(one, admin(one).cancel(waiting)) == "canceled", "as it was found"
    one._wait(one.executor.run_system(lambda transaction: transaction.delete(waiting)))
    assert done(one, admin(one).cancel(waiting)) is None
    assert done(one, admin(one).show(waiting)) is None
    with pytest.raises(InvalidId):
        done(one, admin(one).cancel("nonsense"))


def test_retrying_and_purging(one: LocalBackend) -> None:
    failed = [schedule(one, "note", args={"text": "bad"}) for _ in range(3)]
    well = schedule(one, "note", args={"text": "good"})
    one.advance(seconds=1)
    assert shown(one, failed[0])["state"] == "failed"
    assert done(one, admin(one).retry(failed[0])) == "failed"
    assert done(one, admin(one).retry(well)) == "success", "as it was found, and as it stays"
    one.advance(seconds=1)
    assert one.scheduler.statistics().outcomes["test_job_admin:note", "failed"] == 4
    now_ms = one.clock.now_ns() / 1e6
    swept = done(one, admin(one).retry_failed(function="test_job_admin:note", after=None, before_ms=now_ms))
    assert (swept.jobs, swept.next) == (3, None)
    one.advance(seconds=1)
    assert done(one, admin(one).purge("finished", after=None, before_ms=now_ms)).jobs == 1
    assert done(one, admin(one).purge("failed", after=None, before_ms=one.clock.now_ns() / 1e6)).jobs == 3
    assert done(one, admin(one).find(limit=9)).jobs == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"state": "done"}, "There is no state 'done'. There are: pending, "),
        ({"order": "oldest"}, "There is no order 'oldest'. There are: newest, due."),
        ({"after": "x"}, "'x' is no position"),
    ],
)
def test_what_there_is_not_is_refused(one: LocalBackend, wrong: dict[str, str], text: str) -> None:
    with pytest.raises(BadRequest) as error:
        done(
            one,
            admin(one).find(
                limit=5, state=wrong.get("state"), order=wrong.get("order", "due"), after=wrong.get("after")
            ),
        )
    assert text in str(error.value)


def test_only_pools_that_there_are_can_be_paused(one: LocalBackend) -> None:
    with pytest.raises(BadRequest, match=r"There is no pool 'emial'. There are: default, narrow, slow."):
        done(one, admin(one).pause("emial"))
    with pytest.raises(BadRequest, match=r"Not everything is paused. Paused: nothing."):
        done(one, admin(one).resume(None))
    done(one, admin(one).pause("slow"))
    with pytest.raises(BadRequest, match=r"The pool 'narrow' is not paused. Paused: the pool slow."):
        done(one, admin(one).resume("narrow"))
    with pytest.raises(BadRequest, match=r"Jobs are purged that have failed, or finished, got 'all'."):
        done(one, admin(one).purge("all", after=None, before_ms=0))


def test_pages_are_bounded(one: LocalBackend) -> None:
    few = JobAdmin(one.executor, one.scheduler, one.clock, Limits(admin_page_rows_max=2))
    made = [schedule(one, "note", delay=1000, args={"text": "x"}) for _ in range(3)]
    first = done(one, few.find(limit=1000))
    assert [job["id"] for job in first.jobs] == made[:0:-1]
    second = done(one, few.find(limit=1000, after=first.next))
    assert ([job["id"] for job in second.jobs], second.next) == (made[:1], None)


def test_arguments_are_shown_unless_they_are_too_long(one: LocalBackend) -> None:
    short, long = (schedule(one, "note", delay=1000, args={"text": "x" * length}) for length in (1, 70_000))
    found, hidden = done(one, admin(one).show(short)), done(one, admin(one).show(long))
    assert found is not None
    assert found.arguments == b'{"text":"x"}'
    assert hidden is not None
    assert hidden.arguments is None


def test_the_backlog_leaves_out_what_has_been_begun(one: LocalBackend) -> None:
    hold_place(one)
    schedule(one, "hold")
    step(one, 5)
    backlog = done(one, admin(one).backlog())
    assert {pool: waiting.length for pool, waiting in backlog.items()} == {"narrow": 1}
    oldest_ns = backlog["narrow"].oldest_ns
    assert oldest_ns is not None
    assert one.clock.now_ns() - oldest_ns == pytest.approx(5e9, rel=0.01)
