"""Many ended jobs at a time, oldest first, a page a transaction: run the failed ones again, or throw ended ones away.

A sweep goes from position to position up to the moment at which it began: what fails again while it goes on is left
alone, or it would never come to an end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.system import jobs
from evolute.system.job_list import Position
from evolute.system.jobs import FAILED, Row
from evolute.system.tables import BY_COMPLETED, BY_MARK, SCHEDULED

Ended: TypeAlias = Literal["failed", "finished"]


class Swept(NamedTuple):
    """To how many `jobs` it was done; `next` is where the next page begins, None after the last."""

    jobs: int
    next: Position | None


def retry(transaction: Transaction, *, name: str | None, after: Position | None, before_ms: float, limit: int) -> Swept:
    """Failed jobs are pending again, those of one function or all. Reads up to `limit` rows."""
    return _sweep(
        transaction,
        (BY_MARK, "_mark"),
        lambda row: name in (None, row["name"]) and jobs.retry(transaction, row["_id"]),
        after=after,
        before_ms=before_ms,
        limit=limit,
    )


def purge(transaction: Transaction, which: Ended, *, after: Position | None, before_ms: float, limit: int) -> Swept:
    """Deletes the failed jobs, or those that succeeded or were canceled. Reads up to `limit` rows."""

    def delete(row: Row) -> bool:
        if (row["state"]["kind"] == FAILED) != (which == "failed"):
            return False
        jobs.delete(transaction, row)
        return True

    index = (BY_MARK, "_mark") if which == "failed" else (BY_COMPLETED, "completedTime")
    return _sweep(transaction, index, delete, after=after, before_ms=before_ms, limit=limit)


def _sweep(
    transaction: Transaction,
    index: tuple[str, str],
    act: Callable[[Row], bool],
    *,
    after: Position | None,
    before_ms: float,
    limit: int,
) -> Swept:
    name, field = index
    bounds = Range(gte=0 if after is None else after.key, lt=before_ms)
    rows: list[Row] = []
    last: Position | None = None
    with transaction.uncounted():
        for row in transaction.query(SCHEDULED).with_index(name, **{field: bounds}):
            position = Position(row[field], row["_creationTime"], row["_id"])
            if after is not None and position.place <= after.place:
                continue
            if len(rows) == limit:
                break
            rows.append(row)
            last = position
        else:
            last = None
    return Swept(sum(act(row) for row in rows), last)
