"""Dead letters: the jobs that failed, listed newest first, run again, or thrown away.

They are rows like all others and are kept as long; an index holds only those that failed.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.system import jobs
from evolute.system.jobs import DEFAULT_POOL, DUE_NOW, FAILED, PENDING, Row
from evolute.system.tables import BY_MARK, SCHEDULED
from evolute.values.value import UNSET

_FAILED: Final = Range(gte=0, lt="")  # the numbers among the marks


class Position(NamedTuple):
    """Where a page ends: when its last job failed, and when that was scheduled."""

    failed_ms: float
    scheduled_ms: float


class Page(NamedTuple):
    """Jobs as functions see them; `next` is where the next page begins, None after the last."""

    rows: list[Row]
    next: Position | None


def failed(transaction: Transaction, *, after: Position | None = None, limit: int) -> Page:
    """The jobs that failed, the newest first, from a position on."""
    found: list[dict[str, Any]] = []
    bounds = _FAILED if after is None else Range(gte=0, lte=after.failed_ms)
    with transaction.uncounted():
        for row in transaction.query(SCHEDULED).with_index(BY_MARK, _mark=bounds).order("desc"):
            if after is not None and _position(row) >= after:
                continue  # of the page before
            if len(found) == limit:
                return Page([jobs.public_row(transaction, one) for one in found], _position(found[-1]))
            found.append(row)
        return Page([jobs.public_row(transaction, one) for one in found], None)


def retry(transaction: Transaction, job_id: str) -> bool:
    """A failed job is pending again and due now, with all its attempts. False if it is not a failed one.

    Its completion function hears of its new end as well. It has no key any more. Raises InvalidId.
    """
    jobs.check_job_id(job_id)
    row = jobs.read(transaction, job_id)
    if row is None or row["state"]["kind"] != FAILED:
        return False
    gone = ("completedTime", "completionError", "_mark", "_tries", "_deaths", "_started")
    options = {name: value for name, value in jobs.options_of(row).items() if name != "key"}
    changes = {"state": {"kind": PENDING}, "_due": DUE_NOW, "_pool": options.get("pool", DEFAULT_POOL)}
    with transaction.uncounted():
        transaction.patch(job_id, {**dict.fromkeys(gone, UNSET), "_options": options or UNSET, **changes})
    return True


def purge(transaction: Transaction, *, limit: int) -> int:
    """Deletes up to `limit` failed jobs, the oldest first; returns how many."""
    with transaction.uncounted():
        rows = transaction.query(SCHEDULED).with_index(BY_MARK, _mark=_FAILED).take(limit)
        for row in rows:
            jobs.delete(transaction, row)
    return len(rows)


def _position(row: Row) -> Position:
    return Position(row["_mark"], row["_creationTime"])
