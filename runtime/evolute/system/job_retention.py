"""How many jobs have ended: counted in pages, so that nobody holds the event loop over a hundred thousand rows."""

from __future__ import annotations

from typing import NamedTuple

from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.system.tables import BY_COMPLETED, SCHEDULED


class CompletedPage(NamedTuple):
    """`last` is where the next page begins, None after the last one."""

    length: int
    last: tuple[float, float] | None


def count_completed(transaction: Transaction, *, after: tuple[float, float] | None, limit: int) -> CompletedPage:
    """Counts up to `limit` jobs that have ended, the newest first, from a position (`completedTime`, created) on."""
    bounds = Range(gte=0) if after is None else Range(gte=0, lte=after[0])
    count, last = 0, after
    with transaction.uncounted():
        for row in transaction.query(SCHEDULED).with_index(BY_COMPLETED, completedTime=bounds).order("desc"):
            position = (row["completedTime"], row["_creationTime"])
            if after is not None and position >= after:
                continue
            if count == limit:
                return CompletedPage(count, last)
            count, last = count + 1, position
    return CompletedPage(count, None)
