"""What is due and not begun, pool by pool: how many jobs, and whose turn it has been for longest.

It counts no further than it is told to, because it holds the event loop; the longest wait is exact all the same, since
the first jobs of each function are always read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from typing import NamedTuple

from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.system import job_queue
from evolute.system.jobs import DUE_NOW, Row, turn_ns
from evolute.system.tables import BY_DUE, SCHEDULED
from evolute.values.value import Int64


class PoolBacklog(NamedTuple):
    """`length` is at least that many if it is the most that was to be counted. `oldest_ns` is None if there is none."""

    length: int
    oldest_ns: float | None

    def lag_ns(self, now_ns: int) -> float:
        """For how long the first of them has been due."""
        return 0.0 if self.oldest_ns is None else max(0.0, now_ns - self.oldest_ns)


def backlog(transaction: Transaction, *, now_ns: int, begun: Collection[str], rows_max: int) -> dict[str, PoolBacklog]:
    """Of every pool that has something to do, now or later. `begun` are the ids that do not count."""
    pools = job_queue.pools(transaction)
    share = rows_max // max(1, len(pools))
    return {pool: _of_pool(transaction, pool, now_ns, begun, share) for pool in pools}


def _of_pool(transaction: Transaction, pool: str, now_ns: int, begun: Collection[str], rows_max: int) -> PoolBacklog:
    count, oldest_ns = 0, None
    with transaction.uncounted():
        for name in job_queue.names(transaction, pool):
            for dues in (Range(gte=DUE_NOW, lte=DUE_NOW), Range(gt=DUE_NOW, lte=Int64(now_ns))):
                rows = transaction.query(SCHEDULED).with_index(BY_DUE, _pool=pool, name=name, _due=dues)
                waiting = (row for row in rows if row["_id"] not in begun)
                for row in _first_and_more(waiting, count < rows_max):
                    turn = turn_ns(row)
                    oldest_ns = turn if oldest_ns is None else min(oldest_ns, turn)
                    count += 1
                    if count >= rows_max:
                        break
    return PoolBacklog(count, oldest_ns)


def _first_and_more(rows: Iterator[Row], more: bool) -> Iterator[Row]:
    first = next(rows, None)
    return iter(()) if first is None else chain([first], rows if more else ())
