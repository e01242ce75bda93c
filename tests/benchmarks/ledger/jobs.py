"""Jobs that do nothing, and how far they have come."""

from __future__ import annotations

from typing import Any

from evolute import Id, MutationCtx, QueryCtx, internal_mutation, mutation, query


@internal_mutation
def nothing(ctx: MutationCtx) -> None:
    pass


@mutation
def enqueue(ctx: MutationCtx, count: int, due_ms: float | None = None) -> str:
    """Schedules `count` jobs, due now or at `due_ms`; the id of the last."""
    assert count > 0
    for _ in range(count):
        job = ctx.scheduler.run_after(0, nothing) if due_ms is None else ctx.scheduler.run_at(due_ms, nothing)
    return job


@query
def has_ended(ctx: QueryCtx, job: Id[Any]) -> bool:
    row = ctx.db.system.get(job)
    return row is not None and "completedTime" in row


@query
def outcome(ctx: QueryCtx, since_ms: float) -> dict[str, float]:
    """How many of the jobs scheduled since then have ended well, badly or not at all, and when the last one ended."""
    counts = {"success": 0.0, "failed": 0.0, "open": 0.0, "last_ms": 0.0}
    for job in ctx.db.system.query("_scheduled_functions").order("desc"):
        if job["_creationTime"] < since_ms:
            break
        kind = job["state"]["kind"]
        counts[kind if kind in counts else "open"] += 1
        counts["last_ms"] = max(counts["last_ms"], job.get("completedTime", 0.0))
    return counts


@mutation
def scatter(ctx: MutationCtx, due_ms: list[float]) -> None:
    """Schedules a job for each of these times."""
    for time_ms in due_ms:
        ctx.scheduler.run_at(time_ms, nothing)


@query
def lateness_ms(ctx: QueryCtx, since_ms: float) -> list[float]:
    """How long after its time each job scheduled since then had ended; empty while one has not."""
    late: list[float] = []
    for job in ctx.db.system.query("_scheduled_functions").order("desc"):
        if job["_creationTime"] < since_ms:
            break
        if "completedTime" not in job:
            return []
        late.append(job["completedTime"] - job["scheduledTime"])
    return late
