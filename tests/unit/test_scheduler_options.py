"""`ctx.scheduler.options`: keys, pools, completion and what is refused, with the real scheduler and a manual clock."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    ConvexError,
    DefinitionError,
    InvalidSchedule,
    JobOutcome,
    MutationCtx,
    Pool,
    QueryCtx,
    Retry,
    action,
    internal_mutation,
    mutation,
    query,
)
from evolute.limits import Limits
from evolute.registry.loader import load, read_folder
from evolute.testing import LocalBackend

meet: threading.Barrier | None = None


@internal_mutation
def note(ctx: MutationCtx, text: str) -> str:
    ctx.db.insert("notes", {"text": text})
    return text.upper()


@internal_mutation
def burst(ctx: MutationCtx, text: str) -> None:
    ctx.db.insert("notes", {"text": text})
    raise ValueError(f"burst {text}")


@internal_mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", {"kind": job.kind, "value": job.value, "error": job.error, "name": job.name, "id": job.id})


@internal_mutation
def told_badly(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", {"kind": "never"})
    raise ValueError("did not listen")


@internal_mutation
def told_too_much(ctx: MutationCtx, job: JobOutcome) -> None:
    for _ in range(50):
        ctx.db.insert("told", {"kind": "never"})


@internal_mutation
def again(ctx: MutationCtx, count: int) -> None:
    ctx.db.insert("notes", {"text": str(count)})
    if count:
        ctx.scheduler.options(key="again").run_after(10, again, count=count - 1)


@mutation
def plan(ctx: MutationCtx, text: str, delay: float = 0, target: str = "note", options: dict[str, Any] = {}) -> str:  # noqa: B006
    if meet is not None:
        wait_once(meet)
    return ctx.scheduler.options(**options).run_after(delay, f"test_scheduler_options:{target}", text=text)


@action
async def plan_from_action(ctx: ActionCtx, texts: list[str], options: dict[str, Any]) -> list[str]:
    scheduler = ctx.scheduler.options(**options)
    return [await scheduler.run_after(1000, note, text=text) for text in texts]


@action
async def greet(ctx: ActionCtx, text: str) -> str:
    if text == "rude":
        raise ConvexError("no")
    return text


@mutation
def cancel(ctx: MutationCtx, job: str) -> None:
    ctx.scheduler.cancel(job)  # type: ignore[arg-type]


@query
def jobs(ctx: QueryCtx) -> list[dict[str, Any]]:
    return ctx.db.system.query("_scheduled_functions").collect()


@query
def rows(ctx: QueryCtx, table: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k[0] != "_"} for row in ctx.db.query(table).collect()]


FUNCTIONS = (
    note, burst, told, told_badly, told_too_much, again, plan, plan_from_action, greet, cancel, jobs, rows,
)  # fmt: skip


def backend(**options: Any) -> LocalBackend:
    return LocalBackend(*FUNCTIONS, **options)


def wait_once(barrier: threading.Barrier) -> None:
    global meet
    barrier.wait(timeout=10)
    meet = None


def states(one: LocalBackend) -> list[str]:
    return [job["state"]["kind"] for job in one.query(jobs)]


def texts(one: LocalBackend) -> list[str]:
    return [row["text"] for row in one.query(rows, table="notes")]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_replace_cancels_the_pending_job_of_the_key() -> None:
    with backend() as one:
        first = one.mutation(plan, text="a", delay=1000, options={"key": "digest"})
        second = one.mutation(plan, text="b", delay=2000, options={"key": "digest"})
        other = one.mutation(plan, text="c", delay=3000, options={"key": "another"})
        assert len({first, second, other}) == 3
        assert states(one) == ["canceled", "pending", "pending"]
        one.advance(seconds=5)
        assert texts(one) == ["b", "c"]


def test_keep_returns_the_pending_job_of_the_key() -> None:
    with backend() as one:
        options = {"key": "digest", "key_policy": "keep"}
        first = one.mutation(plan, text="a", delay=1000, options=options)
        assert one.mutation(plan, text="b", delay=10, options=options) == first
        one.advance(seconds=5)
        assert texts(one) == ["a"]
        assert one.mutation(plan, text="c", options=options) != first, "a key is free once its job has ended"
        one.run_due()
        assert texts(one) == ["a", "c"]


def test_a_job_may_schedule_the_next_one_of_its_own_key() -> None:
    with backend() as one:
        one.mutation("test_scheduler_options:again", count=3)
        one.advance(seconds=1)
        assert texts(one) == ["3", "2", "1", "0"]
        assert states(one) == ["success"] * 3


def test_keys_from_an_action_each_commit() -> None:
    with backend() as one:
        one.action(plan_from_action, texts=["a", "b"], options={"key": "k"})
        first, second = one.action(plan_from_action, texts=["c", "d"], options={"key": "k", "key_policy": "keep"})
        assert first == second
        assert sorted(states(one)) == ["canceled", "pending"]


@pytest.mark.parametrize("policy", ["replace", "keep"])
def test_of_two_who_schedule_one_key_at_once_one_is_run_again(policy: str) -> None:
    global meet
    with backend() as one:
        options = {"key": "k", "key_policy": policy}
        meet = threading.Barrier(2)
        ids: list[str] = []
        threads = [
            threading.Thread(
                target=lambda text=text: ids.append(one.mutation(plan, text=text, delay=1000, options=options))
            )
            for text in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.executor.statistics().conflicts == 1
        assert sorted(states(one)) == (["canceled", "pending"] if policy == "replace" else ["pending"])
        assert len(set(ids)) == (2 if policy == "replace" else 1)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"key": ""}, "`key` is a string of 1 to 256 characters"),
        ({"key": "k", "key_policy": "drop"}, '`key_policy` is "replace" or "keep", not \'drop\''),
        ({"pool": "video"}, "There is no pool 'video'; functions/pools.py has default, email"),
        ({"retry": 3}, r"`retry` is a Retry\(…\), not 3"),
        ({"retry": Retry()}, "`retry` is for actions, and test_scheduler_options:note is a mutation"),
        ({"on_complete": 3}, "`on_complete` is a mutation, or 'module:function', not 3"),
        ({"on_complete": "x:y"}, "which this deployment does not have"),
        ({"on_complete": greet}, "but test_scheduler_options:greet is defined as a action"),
        ({"on_complete": "test_scheduler_options:cancelled"}, "does not have"),
    ],
)
def test_options_that_cannot_be_are_errors_where_they_are_given(options: dict[str, Any], text: str) -> None:
    @mutation
    def try_it(ctx: MutationCtx) -> None:
        with pytest.raises(InvalidSchedule, match=text):
            ctx.scheduler.options(**options).run_after(0, note, text="x")

    with LocalBackend(*FUNCTIONS, try_it, pools={"email": Pool(concurrency=1)}) as one:
        one.mutation(try_it)
        assert states(one) == []


def test_arguments_of_the_target_may_have_the_names_of_options() -> None:
    @internal_mutation
    def odd(ctx: MutationCtx, key: str, pool: str, retry: int, delay: int, function: str, on_complete: str) -> None:
        ctx.db.insert("notes", {"text": key + pool + function + on_complete})

    @mutation
    def plan_odd(ctx: MutationCtx) -> None:
        scheduler = ctx.scheduler.options(key="k")
        scheduler.run_after(0, odd, key="a", pool="b", retry=1, delay=2, function="c", on_complete="d")

    with LocalBackend(*FUNCTIONS, odd, plan_odd) as one:
        one.mutation(plan_odd)
        one.run_due()
        assert texts(one) == ["abcd"]


# --- pools.py ---------------------------------------------------------------------------------------------------------

FUNCTIONS_PY = """
from evolute import MutationCtx, mutation

@mutation(pool="email")
def send(ctx: MutationCtx) -> None: ...
"""


def write(folder: Path, pools: str | None) -> Path:
    functions = folder / "functions"
    functions.mkdir()
    (functions / "mail.py").write_text(FUNCTIONS_PY)
    if pools is not None:
        (functions / "pools.py").write_text("from evolute import Pool\n" + pools)
    return functions


def test_pools_are_loaded(tmp_path: Path) -> None:
    registry = load(
        read_folder(write(tmp_path, 'pools = {"email": Pool(concurrency=4, per_second=10)}'), Limits()), Limits()
    )
    assert registry.pools == {"email": Pool(concurrency=4, per_second=10)}
    assert registry.functions["mail:send"].function.pool == "email"


@pytest.mark.parametrize(
    ("pools", "text"),
    [
        (None, r"mail\.py:4 send is of the pool 'email', which pools\.py does not declare"),
        ("pools = {}", "send is of the pool 'email'"),
        ("pool = 3", r"pools\.py: it has no pools; write"),
        ("pools = {'email': 4}", r"the pool 'email' is a Pool\(…\), not 4"),
        ("pools = {'e mail': Pool(concurrency=1), 'email': Pool(concurrency=1)}", "the name of a pool is ASCII"),
        ("pools = {'email': Pool(concurrency=0)}", "a whole number of at least 1, not 0"),
        ("pools = {'email': Pool(concurrency=1, per_second=0)}", "a positive number or None, not 0"),
    ],
)
def test_what_is_wrong_with_pools_is_an_error_at_load(tmp_path: Path, pools: str | None, text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        load(read_folder(write(tmp_path, pools), Limits()), Limits())


@pytest.mark.parametrize(
    "given",
    [
        {"attempts": 0},
        {"attempts": 101},
        {"initial_ms": 0},
        {"max_ms": float("inf")},
        {"factor": 0.5},
        {"on": ValueError},
        {"on": ("ValueError",)},
    ],
)
def test_a_retry_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of a Retry"):
        Retry(**given)


# --- completion -------------------------------------------------------------------------------------------------------


def test_a_completion_is_told_of_success_in_the_same_commit() -> None:
    with backend() as one:
        job = one.mutation(plan, text="a", options={"on_complete": "test_scheduler_options:told"})
        before = one.database.log.published_ts
        commits = []
        one.run_due()
        commits.append(one.database.log.published_ts > before)
        name = "test_scheduler_options.py:note"
        assert one.query(rows, table="told") == [
            {"kind": "success", "value": "A", "error": None, "name": name, "id": job}
        ]
        assert states(one) == ["success"]
        assert texts(one) == ["a"]


@pytest.mark.parametrize(("target", "error"), [("burst", "Uncaught ValueError: burst x"), ("greet", "Uncaught Convex")])
def test_a_completion_is_told_of_failure(target: str, error: str) -> None:
    with backend() as one:
        text = "rude" if target == "greet" else "x"
        options = {"on_complete": "test_scheduler_options:told"}
        one.mutation(plan, text=text, target=target, options=options)
        one.run_due()
        (row,) = one.query(rows, table="told")
        assert row["kind"] == "failed"
        assert row["error"].startswith(error)
        assert states(one) == ["failed"]
        assert texts(one) == []


def test_a_completion_is_told_of_an_actions_value() -> None:
    with backend() as one:
        one.mutation(plan, text="hi", target="greet", options={"on_complete": "test_scheduler_options:told"})
        one.run_due()
        (row,) = one.query(rows, table="told")
        assert (row["kind"], row["value"]) == ("success", "hi")


@pytest.mark.parametrize("delay", [0, 1000])
def test_a_completion_is_told_once_of_a_job_that_was_canceled(delay: float) -> None:
    @mutation
    def plan_and_cancel(ctx: MutationCtx) -> None:
        ctx.scheduler.cancel(ctx.scheduler.options(on_complete=told).run_after(delay, note, text="x"))

    with LocalBackend(*FUNCTIONS, plan_and_cancel) as one:
        one.mutation(plan_and_cancel)
        one.run_due()
        one.advance(seconds=5)
        assert [row["kind"] for row in one.query(rows, table="told")] == ["canceled"]
        assert [sorted(job) for job in one.query(jobs)] == [
            ["_creationTime", "_id", "args", "completedTime", "name", "scheduledTime", "state"]
        ]
        assert (states(one), texts(one)) == (["canceled"], [])


@pytest.mark.parametrize("bad", ["told_badly", "told_too_much"])
@pytest.mark.parametrize(("target", "state"), [("note", "success"), ("burst", "failed"), ("greet", "success")])
def test_a_job_is_not_held_by_its_completion(bad: str, target: str, state: str) -> None:
    with backend(limits=Limits(documents_written_max=20)) as one:
        one.mutation(plan, text="x", target=target, options={"on_complete": f"test_scheduler_options:{bad}"})
        one.run_due()
        (job,) = one.query(jobs)
        assert job["state"]["kind"] == state
        expected = "did not listen" if bad == "told_badly" else "documents_written_max"
        assert expected in job["completionError"]
        assert one.query(rows, table="told") == []
        assert texts(one) == (["x"] if target == "note" else [])


def test_what_a_completion_schedules_is_not_the_jobs_child() -> None:
    @internal_mutation
    def go_on(ctx: MutationCtx, job: JobOutcome) -> None:
        ctx.scheduler.run_after(0, note, text=job.kind)

    @mutation
    def plan_and_cancel(ctx: MutationCtx) -> None:
        ctx.scheduler.cancel(ctx.scheduler.options(on_complete=go_on).run_after(10, note, text="x"))

    with LocalBackend(*FUNCTIONS, go_on, plan_and_cancel) as one:
        one.mutation(plan_and_cancel)
        one.run_due()
        assert texts(one) == ["canceled"]
