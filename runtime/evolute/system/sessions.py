"""What makes a session's mutation run once: its result, written by the mutation's own commit.

A client that has lost its connection sends its unanswered mutations again. The record of (session, request) has a key
of its own, so finding it is one point read, whether or not it is there; and since that read is in the mutation's read
set, of two runs at the same time only one can commit. Mutations that fail leave no record, and run again (semantics
C6).

A session's newest records are kept, as many as it can have in flight, and all of them go when it has not been used for
long. What may go is found by a walk over all records, a piece at a time:

    session a      1 ─ 2 ─ 3 ─ 4 ─ 5 ─ 6     no more than are kept: passed over
    session b      1 ─ 2 ─ 3 ┄┄┄┄┄┄┄┄ 2000   read from the first on: the 1st may go when the 1001st is met
    session c      1 ─ 2                     its newest is too old: all of them

Looking and dropping are two transactions. The walk has read what busy sessions are about to write, so it would lose
against their commits if it wrote; and a record that may go at one time may go at any later time, so dropping reads
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from evolute.database.session_record import SessionRecord, commit_ts_of, record_from, unstamped_record
from evolute.database.transaction import Transaction
from evolute.storage.keyspace import (
    SESSION_RECORDS_RANGE,
    prefix_range,
    request_of,
    session_prefix_of,
    session_record_key,
)


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk over all records stands: from `position` on nothing has been looked at.

    `kept` are the keys just before it, of the session there, that are the newest of it as far as it has been read.
    """

    position: bytes = SESSION_RECORDS_RANGE[0]
    kept: tuple[bytes, ...] = ()


BEGINNING: Final = Walk()


def find(transaction: Transaction, session: str, request: int) -> SessionRecord | None:
    """The record of a mutation that has been committed, or None. Raises StoreCorrupt."""
    data = transaction.get_raw(session_record_key(session, request))
    return record_from(data) if data is not None else None


def record(transaction: Transaction, session: str, request: int, value: bytes, log_lines: Sequence[str]) -> None:
    """Part of the mutation's own transaction, when it has succeeded. `find` must have found nothing in it."""
    transaction.put_raw(session_record_key(session, request), unstamped_record(value, log_lines), stamped=1)


def look(
    transaction: Transaction, walk: Walk, *, before_ts: int, records_max: int, limit: int
) -> tuple[list[bytes], Walk]:
    """The next piece of a walk, of about `limit` keys: the keys that may go, and the walk from there on.

    These are all but a session's newest `records_max`, and all of a session whose newest is older than `before_ts`.
    At the end the walk is at its BEGINNING again. However large the records are, it stops after `bytes_read_max`.
    Raises StoreCorrupt.
    """
    piece = _Piece(transaction, limit)
    position, kept = walk.position, deque(walk.kept)
    may_go: list[bytes] = []
    while not piece.is_full:
        oldest, _ = next(piece.rows(position, SESSION_RECORDS_RANGE[1]), (None, b""))
        if oldest is None:
            return may_go, BEGINNING
        prefix, after = prefix_range(session_prefix_of(oldest))
        if kept and session_prefix_of(kept[0]) != prefix:
            kept.clear()
        newest, data = next(piece.rows(prefix, after, reverse=True))
        keep = 0 if commit_ts_of(data) < before_ts else records_max
        if len(kept) + request_of(newest) - request_of(oldest) < keep:
            position = after  # it has no more than that, however densely its requests are numbered
            continue
        for key, _ in piece.rows(oldest, after):
            kept.append(key)
            position = key + b"\0"
            while len(kept) > keep:
                may_go.append(kept.popleft())
    return may_go, Walk(position, tuple(kept))


class _Piece:
    """The rows that one transaction of a walk reads; once it is full, every scan ends with its next row."""

    def __init__(self, transaction: Transaction, limit: int) -> None:
        self._transaction = transaction
        self._keys_left = min(limit, transaction.limits.read_set_intervals_max)
        self._bytes_left = transaction.limits.bytes_read_max

    @property
    def is_full(self) -> bool:
        return self._keys_left <= 0 or self._bytes_left <= 0

    def rows(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for row in self._transaction.scan_raw(start, end, reverse=reverse):
            self._keys_left -= 1
            self._bytes_left -= len(row[1])
            yield row
            if self.is_full:
                return


def drop(transaction: Transaction, keys: Iterable[bytes]) -> None:
    """Delete what `look` has found."""
    for key in keys:
        transaction.put_raw(key, None)
