"""Which jobs are next: an index over pool, function and due time, of which only what is needed is read.

    by_due   (_pool, name, _due)      "default"  mail:send     3  5  8  …
                                                 mail:sweep    0  …
                                      "video"    video:encode  2  …

A look hops from pool to pool, and in each pool with room from function to function, reading one row of each; then it
takes jobs from the function of which the fewest run, and of these the one whose turn is first. So a full pool costs one
row, a flood of one function does not starve the others, and a million waiting jobs cost as much as one. Within a
function jobs start strictly by due time, then in the order in which they were scheduled. What is due at once takes its
turn by when it was scheduled, so that a flood of it does not starve what is due at its time.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from evolute.database.catalog import IndexEntry
from evolute.database.index_range import Range
from evolute.database.interval import Interval, point
from evolute.database.transaction import Transaction
from evolute.storage.keyspace import index_prefix, prefix_range
from evolute.system.jobs import DUE_NOW, Job, Row, job_of, turn_ns
from evolute.system.tables import BY_DUE, SCHEDULED
from evolute.values.document_id import decode_id
from evolute.values.key_codec import encode_component

_FIRST: Final = Range(gte="")


@dataclass(slots=True)
class DueJobs:
    """What a look found. `jobs` are to be started, in order of their turns and of scheduling.

    `next_due_ns` is when the first of the others that were read is due, None if none is waiting. `left_over` is the
    first turn of those that are due and had to be left. Unless something is left, `own` are the index entries
    of the jobs that run or are taken: what happens to them is no reason to look again.
    """

    jobs: list[Job] = field(default_factory=list)
    next_due_ns: int | None = None
    left_over: float | None = None
    own: list[Interval] = field(default_factory=list)

    def wait_for(self, due_ns: int) -> None:
        self.next_due_ns = due_ns if self.next_due_ns is None else min(self.next_due_ns, due_ns)

    def leave(self, turn: float) -> None:
        self.left_over = turn if self.left_over is None else min(self.left_over, turn)


def pools(transaction: Transaction) -> list[str]:
    """The pools that have something to do, now or later. Reads one row of each."""
    return list(_hops(transaction, "_pool", {}))


def names(transaction: Transaction, pool: str) -> list[str]:
    """The functions of which a pool has jobs to do, now or later, as rows name them. Reads one row of each."""
    return list(_hops(transaction, "name", {"_pool": pool}))


def due(
    transaction: Transaction,
    pool: str,
    *,
    now_ns: int,
    limit: int,
    skip: Collection[str] = frozenset(),
    running: Mapping[str, int] | None = None,
) -> DueJobs:
    """Up to `limit` due jobs of a pool, passing over the ids in `skip`; `running` counts those that run by name."""
    found = DueJobs()
    counts = dict(running or {})
    rows: dict[str, Iterator[Row]] = {}
    heads: list[tuple[int, float, float, str]] = []  # how many run, whose turn, when scheduled, function
    waiting: dict[str, Row] = {}
    taken: list[Row] = []
    passed: list[Row] = []

    def at_their_time(name: str) -> Iterator[Row]:
        timed = transaction.query(SCHEDULED).with_index(BY_DUE, _pool=pool, name=name, _due=Range(gt=DUE_NOW))
        for row in timed:
            if int(row["_due"]) > now_ns and row["_id"] not in skip:
                found.wait_for(int(row["_due"]))
                return
            yield row

    def advance(name: str) -> None:
        for row in rows[name]:
            if row["_id"] in skip:
                passed.append(row)
                continue
            waiting[name] = row
            heapq.heappush(heads, (counts.get(name, 0), turn_ns(row), row["_creationTime"], name))
            return

    with transaction.uncounted():
        for name in _hops(transaction, "name", {"_pool": pool}):
            at_once = transaction.query(SCHEDULED).with_index(BY_DUE, _pool=pool, name=name, _due=DUE_NOW)
            rows[name] = heapq.merge(at_once, at_their_time(name), key=turn_ns)
            advance(name)
        while heads and len(taken) < limit:
            _, _, _, name = heapq.heappop(heads)
            taken.append(waiting[name])
            counts[name] = counts.get(name, 0) + 1
            advance(name)
        for _, turn, _, _ in heads:
            found.leave(turn)
        taken.sort(key=lambda row: (turn_ns(row), row["_creationTime"], row["_id"]))
        found.jobs = [job_of(transaction, row) for row in taken]
        if found.left_over is None:
            index = _index(transaction)
            found.own = [point(index.key_of(row, decode_id(row["_id"])[1])) for row in (*passed, *taken)]
    return found


def part_of(transaction: Transaction, pool: str) -> Interval:
    """The part of the index that is the pool's."""
    return Interval(*prefix_range(index_prefix(_index(transaction).id, encode_component(pool))))


def _index(transaction: Transaction) -> IndexEntry:
    definition = transaction.table(SCHEDULED)
    assert definition is not None
    return definition.indexes[BY_DUE]


def _hops(transaction: Transaction, field_name: str, equal: Mapping[str, str]) -> Iterator[str]:
    """The different values of an index field, by reading the first row of each and leaping over the rest."""
    after = _FIRST
    while True:
        with transaction.uncounted():
            row = transaction.query(SCHEDULED).with_index(BY_DUE, **equal, **{field_name: after}).first()
        if row is None:
            return
        value: str = row[field_name]
        yield value
        after = Range(gt=value)
