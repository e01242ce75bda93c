"""Pages of jobs for those who operate the server: in the order of their turns, or the newest first.

    order "due"      what has something left to do: the next turn first     the functions of by_due, merged
    order "newest"   in a final state: the latest end first                 by_completed, and of failed ones by_mark
                     otherwise: the latest scheduled first                  by_creation_time

A page reads at most `rows_max` rows, whatever it is asked for, so that nobody holds the event loop: one that was asked
for something rare may be short, or empty, and has a next page all the same. A position is a place in an order and not a
row: the row may be gone when the next page is read.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from evolute.clock import NS_PER_MS
from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.errors import BadRequest, InvalidId
from evolute.system import job_queue
from evolute.system.jobs import (
    CANCELED,
    DEFAULT_POOL,
    DUE_NOW,
    FAILED,
    IN_PROGRESS,
    PENDING,
    SUCCESS,
    Row,
    options_of,
    turn_ns,
)
from evolute.system.tables import BY_COMPLETED, BY_DUE, BY_MARK, SCHEDULED
from evolute.values.document_id import decode_id
from evolute.values.value import Int64

Order: TypeAlias = Literal["newest", "due"]

STATES: Final = (PENDING, IN_PROGRESS, SUCCESS, FAILED, CANCELED)
ORDERS: Final = ("newest", "due")
_FINAL: Final = (SUCCESS, FAILED, CANCELED)
_SEPARATOR: Final = "~"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs. `name` is a function's as rows have it (`mail.py:send`); None is any."""

    state: str | None = None
    name: str | None = None
    pool: str | None = None


class Position(NamedTuple):
    """Where a page ends: what its order goes by, when that job was scheduled, and its id."""

    key: float
    created_ms: float
    id: str

    @property
    def place(self) -> tuple[float, float, bytes]:
        """What the indexes go by: of an id that is what it stands for."""
        return (self.key, self.created_ms, decode_id(self.id)[1])

    def __str__(self) -> str:
        return _SEPARATOR.join((repr(self.key), repr(self.created_ms), self.id))

    @staticmethod
    def of(text: str) -> Position:
        """What `str` gave. Raises BadRequest."""
        try:
            key, created_ms, job_id = text.split(_SEPARATOR)
            decode_id(job_id)
            position = Position(_number(key), _number(created_ms), job_id)
        except (ValueError, InvalidId):
            raise BadRequest(f"{text[:100]!r} is no position: give the `next` of the page before.") from None
        return position


def _number(text: str) -> float:
    """Exact: the nanoseconds of a due time are a whole number that no float holds. Raises ValueError."""
    number = int(text) if text.isdecimal() else float(text)
    if not 0 <= number < 1 << 63:
        raise ValueError(text)
    return number


class Page(NamedTuple):
    """Rows as they are stored; `next` is where the next page begins, None after the last."""

    rows: list[Row]
    next: Position | None


def page(
    transaction: Transaction,
    wanted: Wanted,
    order: Order,
    *,
    after: Position | None,
    limit: int,
    rows_max: int,
    also: Callable[[Row], bool] = lambda row: True,
) -> Page:
    """Up to `limit` jobs that are wanted, and of which `also` is true, from a position on."""
    found: list[Row] = []
    last = after
    read = 0
    with transaction.uncounted():
        for position, row in _walk(transaction, wanted, order, after):
            if read == rows_max:
                return Page(found, last)
            read += 1
            if _matches(row, wanted) and also(row):
                if len(found) == limit:
                    return Page(found, last)
                found.append(row)
            last = position
    return Page(found, None)


def pool_of(row: Row) -> str:
    """Of a job that has ended, too."""
    return str(options_of(row).get("pool", DEFAULT_POOL))


def _matches(row: Row, wanted: Wanted) -> bool:
    return (
        wanted.state in (None, row["state"]["kind"])
        and wanted.name in (None, row["name"])
        and wanted.pool in (None, pool_of(row))
    )


# --- Orders -----------------------------------------------------------------------------------------------------------


def _walk(
    transaction: Transaction, wanted: Wanted, order: Order, after: Position | None
) -> Iterator[tuple[Position, Row]]:
    """The rows behind a position, each with its own."""
    if order == "due":
        return _by_turn(transaction, wanted, after)
    if wanted.state == FAILED:
        return _newest(transaction, BY_MARK, "_mark", after)
    if wanted.state in _FINAL:
        return _newest(transaction, BY_COMPLETED, "completedTime", after)
    return _newest(transaction, None, "_creationTime", after)


def _newest(
    transaction: Transaction, index: str | None, field: str, after: Position | None
) -> Iterator[tuple[Position, Row]]:
    bounds = Range(gte=0, lt="") if after is None else Range(gte=0, lte=after.key)  # the numbers
    query = transaction.query(SCHEDULED).with_index(index or "by_creation_time", **{field: bounds})
    for row in query.order("desc"):
        position = Position(row[field], row["_creationTime"], row["_id"])
        if after is None or position.place < after.place:
            yield position, row


def _by_turn(transaction: Transaction, wanted: Wanted, after: Position | None) -> Iterator[tuple[Position, Row]]:
    pools = job_queue.pools(transaction) if wanted.pool is None else [wanted.pool]
    names = [
        (pool, name)
        for pool in pools
        for name in (job_queue.names(transaction, pool) if wanted.name is None else [wanted.name])
    ]
    rows = (_of_function(transaction, pool, name, after) for pool, name in names)
    for row in heapq.merge(*rows, key=lambda row: _turn(row).place):
        position = _turn(row)
        if after is None or position.place > after.place:
            yield position, row


def _of_function(transaction: Transaction, pool: str, name: str, after: Position | None) -> Iterator[Row]:
    """What is due at once and what is due at its time, merged. A little before the position, because of rounding."""
    created, due = Range(gte=0), Range(gt=DUE_NOW)
    if after is not None:
        created = Range(gte=max(0.0, math.floor(after.key / NS_PER_MS) - 1.0))
        due = Range(gte=Int64(max(1, math.floor(after.key))))
    query = transaction.query(SCHEDULED)
    at_once = query.with_index(BY_DUE, _pool=pool, name=name, _due=DUE_NOW, _creationTime=created)
    timed = transaction.query(SCHEDULED).with_index(BY_DUE, _pool=pool, name=name, _due=due)
    return heapq.merge(at_once, timed, key=lambda row: _turn(row).place)


def _turn(row: Row) -> Position:
    return Position(turn_ns(row), row["_creationTime"], row["_id"])
