"""Pages of crons for those who operate the server: the one that is due first, first, each with its latest run."""

from __future__ import annotations

from typing import NamedTuple

from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.errors import BadRequest
from evolute.system.crons import Row
from evolute.system.tables import BY_CRON, BY_DUE, CRON_RUNS, CRONS
from evolute.values.value import Int64


class CronPosition(NamedTuple):
    """Where a page ends: when its last cron is due, and when that was made."""

    due_ns: int
    created_ms: float

    def __str__(self) -> str:
        return f"{self.due_ns}~{self.created_ms!r}"

    @staticmethod
    def of(text: str) -> CronPosition:
        """What `str` gave. Raises BadRequest."""
        due, _, created = text.partition("~")
        try:
            position = CronPosition(int(due), float(created))
        except ValueError:
            position = CronPosition(-1, 0)
        if not 0 <= position.due_ns < 1 << 63:
            raise BadRequest(f"{text[:100]!r} is no position: give the `next` of the page before.")
        return position


class CronRow(NamedTuple):
    """A cron and the latest of its runs that are on record, hidden fields and all."""

    cron: Row
    run: Row | None


class CronPage(NamedTuple):
    """`next` is where the next page begins, None after the last."""

    rows: list[CronRow]
    next: CronPosition | None


def page(transaction: Transaction, *, after: CronPosition | None, limit: int) -> CronPage:
    """Up to `limit` crons, from a position on."""
    found: list[CronRow] = []
    last: CronPosition | None = None
    start = Int64(0 if after is None else after.due_ns)
    with transaction.uncounted():
        for row in transaction.query(CRONS).with_index(BY_DUE, _due=Range(gte=start)):
            position = CronPosition(int(row["_due"]), row["_creationTime"])
            if after is not None and position <= after:
                continue
            if len(found) == limit:
                return CronPage(found, last)
            runs = transaction.query(CRON_RUNS).with_index(BY_CRON, name=row["name"]).order("desc")
            found.append(CronRow(row, next((run for run in runs if run["status"]["kind"] != "canceled"), None)))
            last = position
    return CronPage(found, None)
