"""Functions whose every run leaves a trace, so that a run too many or too few is seen."""

from __future__ import annotations

import asyncio
import itertools
import os

from evolute import ActionCtx, MutationCtx, QueryCtx, internal_action, internal_mutation, mutation, query

EVERYONE = "everyone"


@mutation
def add(ctx: MutationCtx, client: str, number: int) -> int:
    """Counts the client and everyone: two totals and an entry, all or none. The client's new total."""
    count(ctx, EVERYONE)
    ctx.db.insert("entries", {"client": client, "number": number})
    return count(ctx, client)


def count(ctx: MutationCtx, client: str) -> int:
    row = ctx.db.query("totals").with_index("by_client", client=client).unique()
    if row is None:
        ctx.db.insert("totals", {"client": client, "total": 1})
        return 1
    ctx.db.patch(row["_id"], {"total": row["total"] + 1})
    return int(row["total"]) + 1


@query
def total(ctx: QueryCtx) -> int:
    row = ctx.db.query("totals").with_index("by_client", client=EVERYONE).unique()
    return 0 if row is None else int(row["total"])


@mutation
def schedule_mutation(ctx: MutationCtx, name: str, delay_ms: float) -> None:
    job = ctx.scheduler.run_after(delay_ms, tick, name=name)
    ctx.db.insert("tickets", {"name": name, "job": job, "kind": "mutation", "runs": 0})


@mutation
def schedule_action(ctx: MutationCtx, name: str, delay_ms: float, file: str) -> None:
    job = ctx.scheduler.run_after(delay_ms, leave_trace, name=name, file=file)
    ctx.db.insert("tickets", {"name": name, "job": job, "kind": "action", "runs": 0})


@internal_mutation
def tick(ctx: MutationCtx, name: str) -> None:
    row = ctx.db.query("tickets").with_index("by_name", name=name).unique()
    assert row is not None
    ctx.db.patch(row["_id"], {"runs": row["runs"] + 1})


@internal_action
async def leave_trace(ctx: ActionCtx, name: str, file: str) -> None:
    """One line in a file for each run, whatever becomes of the process afterwards."""
    trace = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(trace, f"{name}\n".encode())
    finally:
        os.close(trace)
    await asyncio.sleep(0.02)
    await ctx.run_mutation(tick, name=name)


@query
def unfinished(ctx: QueryCtx) -> int:
    """The jobs that have not ended."""
    jobs = ctx.db.system.query("_scheduled_functions").collect()
    return sum(job["state"]["kind"] in ("pending", "inProgress") for job in jobs)


@query
def spin(ctx: QueryCtx) -> None:
    """Reads, and then holds its snapshot for as long as its process lives."""
    ctx.db.query("totals").first()
    all(itertools.repeat(True))
