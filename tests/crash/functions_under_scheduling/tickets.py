"""What clients call: they ask for jobs, each with a ticket in the same transaction, and cancel them."""

from __future__ import annotations

import itertools
from typing import Any

from evolute import MutationCtx, QueryCtx, interval, mutation, query

UNFINISHED_MAX = 1000


@mutation
def begin(ctx: MutationCtx, file: str) -> None:
    """The crons that leave traces in `file`."""
    ctx.crons.set("dynamic", interval(seconds=2), "work:count", cron="dynamic")
    ctx.crons.set("outside", interval(seconds=1), "work:count_outside", cron="outside", file=file)
    ctx.crons.set("blocking", interval(seconds=1), "work:count_outside_and_block", cron="blocking", file=file)


@mutation
def change_cron(ctx: MutationCtx, seconds: int) -> None:
    ctx.crons.set("changing", interval(seconds=seconds), "work:count", cron="changing")


@mutation
def ask(
    ctx: MutationCtx,
    name: str,
    what: str,
    delay_ms: float,
    file: str | None = None,
    key: str | None = None,
    replaces: bool = True,
    pool: str | None = None,
    completion: str | None = None,
) -> None:
    """Schedules one job of the function `what` of `work`."""
    options: dict[str, Any] = {} if completion is None else {"on_complete": f"work:{completion}"}
    if pool is not None:
        options["pool"] = pool
    if key is not None:
        options |= {"key": key, "key_policy": "replace" if replaces else "keep"}
    arguments = {"name": name} if file is None else {"name": name, "file": file}
    job = ctx.scheduler.options(**options).run_after(delay_ms, f"work:{what}", **arguments)
    kept = ctx.db.query("tickets").with_index("by_job", job=job).first() is not None
    ticket: dict[str, Any] = {"name": name, "what": what, "job": job, "kept": kept, "key": key, "replaces": replaces}
    turn = 0 if key is None else next_turn(ctx, key)
    ctx.db.insert("tickets", {**ticket, "turn": turn, "completion": completion, "saw": None, "runs": 0})


def next_turn(ctx: MutationCtx, key: str) -> int:
    row = ctx.db.query("keys").with_index("by_key", key=key).unique()
    if row is None:
        ctx.db.insert("keys", {"key": key, "turn": 1})
        return 1
    ctx.db.patch(row["_id"], {"turn": row["turn"] + 1})
    return int(row["turn"]) + 1


@mutation
def cancel(ctx: MutationCtx, name: str) -> None:
    """Cancels the ticket's job, and notes what it was when this was asked for first."""
    ticket = ctx.db.query("tickets").with_index("by_name", name=name).unique()
    assert ticket is not None
    for holder in ctx.db.query("tickets").with_index("by_job", job=ticket["job"]).collect():
        if not holder["kept"] and holder["saw"] is None:
            job = ctx.db.system.get(holder["job"])
            assert job is not None
            ctx.db.patch(holder["_id"], {"saw": job["state"]["kind"]})
    ctx.scheduler.cancel(ticket["job"])


@query
def unfinished(ctx: QueryCtx) -> int:
    """The jobs that have not ended; no more than so many are counted."""
    jobs = ctx.db.system.query("_scheduled_functions")
    ended = (job for job in jobs if "completedTime" not in job)
    return sum(1 for _ in itertools.islice(ended, UNFINISHED_MAX))


@query
def spin(ctx: QueryCtx) -> None:
    """Reads, and then holds its snapshot for as long as its process lives."""
    ctx.db.query("tickets").first()
    all(itertools.repeat(True))
