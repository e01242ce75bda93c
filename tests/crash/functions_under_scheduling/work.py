"""What is scheduled: every run leaves a trace, so that a run too many or too few is seen.

Mutations count themselves in the row of their ticket. Actions first leave a line in a file, which no crash takes back,
and then count themselves too.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

from evolute import (
    ActionCtx,
    BlockingActionCtx,
    JobOutcome,
    MutationCtx,
    Retry,
    internal_action,
    internal_mutation,
)

SOME_TIME_S = 0.02
FAILS = "it fails on purpose"


def leave_trace(file: str, line: str) -> None:
    """One line, written in one piece."""
    trace = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(trace, f"{line}\n".encode())
    finally:
        os.close(trace)


@internal_mutation
def tick(ctx: MutationCtx, name: str) -> str:
    row = ctx.db.query("tickets").with_index("by_name", name=name).unique()
    assert row is not None
    ctx.db.patch(row["_id"], {"runs": row["runs"] + 1})
    return name


@internal_mutation
def fail(ctx: MutationCtx, name: str) -> None:
    ctx.run_mutation(tick, name=name)
    raise RuntimeError(FAILS)


@internal_mutation
def kill(ctx: MutationCtx, name: str) -> None:
    ctx.run_mutation(tick, name=name)
    os._exit(7)


@internal_action
async def act(ctx: ActionCtx, name: str, file: str) -> str:
    leave_trace(file, name)
    await asyncio.sleep(SOME_TIME_S)
    return await ctx.run_mutation(tick, name=name)


@internal_action
def block(ctx: BlockingActionCtx, name: str, file: str) -> str:
    leave_trace(file, name)
    time.sleep(SOME_TIME_S)
    return ctx.run_mutation(tick, name=name)


@internal_action(retry=Retry(attempts=4, initial_ms=20, max_ms=100))
async def insist(ctx: ActionCtx, name: str, file: str) -> str:
    """Most often it fails, before it has counted itself or after."""
    leave_trace(file, name)
    await asyncio.sleep(SOME_TIME_S / 2)
    luck = random.random()
    if luck < 0.4:
        raise RuntimeError(FAILS)
    await ctx.run_mutation(tick, name=name)
    if luck < 0.6:
        raise RuntimeError(FAILS)
    return name


@internal_action
async def spawn(ctx: ActionCtx, name: str, file: str) -> str:
    """Schedules two jobs that are its children, each in a commit of its own."""
    leave_trace(file, name)
    await ctx.scheduler.run_after(0, "work:born", name=name)
    await ctx.run_mutation("tickets:ask", name=f"{name}/child", what="tick", delay_ms=0.0)
    return await ctx.run_mutation(tick, name=name)


@internal_mutation
def born(ctx: MutationCtx, name: str) -> None:
    ctx.db.insert("counts", {"what": f"born of {name}"})


@internal_mutation
def told(ctx: MutationCtx, job: JobOutcome) -> None:
    write_down(ctx, job)


@internal_mutation
def told_badly(ctx: MutationCtx, job: JobOutcome) -> None:
    write_down(ctx, job)
    raise RuntimeError(FAILS)


def write_down(ctx: MutationCtx, job: JobOutcome) -> None:
    ctx.db.insert("told", {"job": job.id, "kind": job.kind, "value": job.value, "error": job.error})


@internal_mutation
def count(ctx: MutationCtx, cron: str) -> None:
    ctx.db.insert("counts", {"what": cron})


@internal_action
async def count_outside(ctx: ActionCtx, cron: str, file: str) -> None:
    """Leaves a trace when it begins and when it ends, with the server that runs it.

    Asked again at the end, the system may name another: a server that is killed loses its children a moment before it
    loses its files, and so before their lifeline ends them.
    """
    server = os.getppid()
    leave_trace(file, f"cron {cron} begins {server}")
    await asyncio.sleep(random.uniform(0.0, 1.5))
    leave_trace(file, f"cron {cron} ends {server}")


@internal_action
def count_outside_and_block(ctx: BlockingActionCtx, cron: str, file: str) -> None:
    server = os.getppid()
    leave_trace(file, f"cron {cron} begins {server}")
    time.sleep(random.uniform(0.0, 0.2))
    leave_trace(file, f"cron {cron} ends {server}")
