"""What the scheduler is not to start: everything, or the jobs of one pool. A row each, so that it survives restarts.

What runs already goes on. The scheduler reads these rows whenever it looks for work, so that it sees a change by its
subscription; on resuming, what is overdue runs in order of its due time.
"""

from __future__ import annotations

from collections.abc import Iterator

from evolute.database.transaction import Transaction
from evolute.system.tables import PAUSES


def pause(transaction: Transaction, pool: str | None = None) -> None:
    """Starts no more jobs of `pool`, or of any pool. Nothing if it is paused already."""
    if not list(_rows(transaction, pool)):
        transaction.insert(PAUSES, {"pool": pool})


def resume(transaction: Transaction, pool: str | None = None) -> None:
    """Takes back the same `pause`: a pool that was paused by itself stays so when everything is resumed."""
    for row_id in _rows(transaction, pool):
        transaction.delete(row_id)


def paused(transaction: Transaction) -> frozenset[str | None]:
    """The pools that are paused; None among them stands for everything."""
    with transaction.uncounted():
        return frozenset(row["pool"] for row in transaction.query(PAUSES))


def _rows(transaction: Transaction, pool: str | None) -> Iterator[str]:
    with transaction.uncounted():
        yield from [row["_id"] for row in transaction.query(PAUSES) if row["pool"] == pool]
