"""What makes a session's mutation run once: its result, written by the mutation's own commit.

A client that has lost its connection sends its unanswered mutations again. The id of a record is derived from
(session, request), so finding it is one point read, whether or not it is there; and since that read is in the
mutation's read set, of two runs at the same time only one can commit. Mutations that fail leave no record, and run
again (semantics C6).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

from evolute.database.transaction import Transaction
from evolute.system.tables import SESSIONS, SESSIONS_NUMBER
from evolute.values.document_id import INTERNAL_ID_BYTES
from evolute.values.value import COMMIT_TS, Int64

_REQUESTS_MAX = 16


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """How a session's mutation ended: the canonical JSON of its result, its log lines, and when it was committed."""

    value: bytes
    log_lines: tuple[str, ...]
    commit_ts: int


def find(transaction: Transaction, session: str, request: int) -> SessionRecord | None:
    """The record of a mutation that has been committed, or None."""
    with transaction.uncounted():
        row = transaction.row(SESSIONS_NUMBER, _internal_id(session, request))
    if row is None:
        return None
    return SessionRecord(
        value=cast(bytes, row["value"]),
        log_lines=tuple(cast("list[str]", row["logLines"])),
        commit_ts=int(cast(Int64, row["commitTs"])),
    )


def record(
    transaction: Transaction, session: str, request: int, value: bytes, log_lines: list[str] | tuple[str, ...]
) -> None:
    """Part of the mutation's own transaction, when it has succeeded. `find` must have found nothing in it."""
    transaction.insert(
        SESSIONS,
        {
            "session": session,
            "request": Int64(request),
            "value": value,
            "logLines": list(log_lines),
            "commitTs": COMMIT_TS,
        },
        internal_id=_internal_id(session, request),
    )


def purge(transaction: Transaction, *, before_ms: float, limit: int) -> int:
    """Delete up to `limit` records made before `before_ms`; returns how many."""
    purged = 0
    with transaction.uncounted():
        for row in transaction.query(SESSIONS):
            if purged == limit or row["_creationTime"] >= before_ms:
                break
            transaction.delete(row["_id"])
            purged += 1
    return purged


@functools.lru_cache(maxsize=_REQUESTS_MAX)  # looked for at the beginning of a mutation, recorded at its end
def _internal_id(session: str, request: int) -> bytes:
    text = f"{request}:{session}"
    return blake2b(text.encode(), digest_size=INTERNAL_ID_BYTES, person=b"session request").digest()
