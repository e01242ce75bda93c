"""Jobs: functions that run later, as rows of `_scheduled_functions`.

                    ┌──────────────► canceled ◄───────────────┐
    schedule ──► pending ──► success (a mutation: in its own commit)
                    │ └────► failed                            │
                    └──► inProgress (an action: committed first) ──► success | failed

A row is written by the transaction that schedules, so a job exists if and only if that commits. `_due` is there as
long as the job is pending or in progress, and 0 says "due now": then no clock decides about its turn. Jobs that are due
at the same time start in the order in which they were scheduled. No transition leaves a terminal state (semantics A5 to
A13).

Functions see the public fields; those that begin with an underscore are the scheduler's. Long arguments have a row of
their own, so that walking over the jobs stays cheap.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from evolute.clock import NS_PER_MS
from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.errors import InvalidId, InvalidSchedule, LimitReached
from evolute.system.tables import BY_COMPLETED, BY_DUE, SCHEDULED, SCHEDULED_ARGUMENTS, SCHEDULED_NUMBER
from evolute.values.display import display
from evolute.values.document_id import decode_id
from evolute.values.value import SYSTEM_FIELDS, UNSET, Int64, Value, size_of, type_name
from evolute.values.wire_codec import encode

PENDING: Final = "pending"
IN_PROGRESS: Final = "inProgress"
SUCCESS: Final = "success"
FAILED: Final = "failed"
CANCELED: Final = "canceled"

DUE_NOW: Final = Int64(0)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A job that has not ended. `arguments` is the canonical JSON of one object; `due_ns` 0 means due at once."""

    id: str
    path: str
    arguments: bytes
    scheduled_ms: float
    due_ns: int
    in_progress: bool


class DueJobs(NamedTuple):
    """The jobs to start, and the due time of the next one that was read, which may have come as well; None if none."""

    jobs: list[Job]
    next_due_ns: int | None


# --- scheduling -------------------------------------------------------------------------------------------------------


def schedule(
    transaction: Transaction,
    *,
    path: str,
    arguments: Value,
    due_ns: int | None,
    scheduled_ms: float,
    parent_job: str | None = None,
) -> str:
    """A new job; returns its id. `due_ns` None is due now. The child of a canceled parent is canceled from the start.

    Raises LimitReached for too many, or too large arguments, in one transaction: it can be caught, and what was
    scheduled before stays. The counters are not rolled back with a nested mutation (semantics A4).
    """
    _count(transaction, arguments)
    now_ms = transaction.now_ns / NS_PER_MS
    row: dict[str, object] = {"name": _name_of(path), "scheduledTime": scheduled_ms}
    if len(encode(arguments)) > transaction.limits.scheduled_inline_arguments_bytes_max:
        row["_arguments"] = transaction.insert(SCHEDULED_ARGUMENTS, {"args": [arguments]})
    else:
        row["args"] = [arguments]
    if parent_job is not None and _is_canceled(transaction, parent_job):
        row |= {"state": {"kind": CANCELED}, "completedTime": now_ms}
    else:
        row |= {"state": {"kind": PENDING}, "_due": DUE_NOW if due_ns is None else Int64(due_ns)}
    return transaction.insert(SCHEDULED, row)


def cancel(transaction: Transaction, job_id: str, *, own_job: str | None = None) -> None:
    """A pending job will not run, the result of a running action is ignored; what has ended, or is gone, stays so.

    `own_job` is the job on whose behalf this is asked for. Raises InvalidSchedule if it is this one; InvalidId.
    """
    if own_job is not None and job_id == own_job:
        raise InvalidSchedule("A mutation cannot cancel itself")
    check_job_id(job_id)
    row = _row(transaction, job_id)
    if row is not None and "_due" in row:
        _end(transaction, job_id, {"kind": CANCELED}, transaction.now_ns / NS_PER_MS)


def check_job_id(job_id: object) -> None:
    """Raises InvalidId for what cannot be the id of a job."""
    if not isinstance(job_id, str):
        raise InvalidId(
            f"Invalid argument `id` for `scheduler.cancel`, expected string but got '{type_name(job_id)}': "
            f"{display(job_id)}"
        )
    try:
        number, _ = decode_id(job_id)
    except InvalidId as error:
        raise InvalidId(f"Invalid argument `id` for `db.cancel_job`: {error}") from None
    if number != SCHEDULED_NUMBER:
        raise InvalidId(f"Invalid scheduled function ID. The ID must be an ID on the '{SCHEDULED}' table.")


def _count(transaction: Transaction, arguments: Value) -> None:
    limits = transaction.limits
    transaction.scheduled_count += 1
    transaction.scheduled_bytes += size_of(arguments)
    if transaction.scheduled_count > limits.scheduled_per_mutation_max:
        raise LimitReached(
            f"Too many functions scheduled by this mutation (limit: {limits.scheduled_per_mutation_max}). "
            f"The setting is `scheduled_per_mutation_max`."
        )
    if transaction.scheduled_bytes > limits.scheduled_arguments_bytes_max:
        raise LimitReached(
            f"Too large total size of the arguments of scheduled functions from this mutation "
            f"(limit: {limits.scheduled_arguments_bytes_max} bytes). The setting is `scheduled_arguments_bytes_max`."
        )


def _is_canceled(transaction: Transaction, job_id: str) -> bool:
    row = _row(transaction, job_id)
    return row is not None and row["state"]["kind"] == CANCELED


# --- running ----------------------------------------------------------------------------------------------------------


def due(transaction: Transaction, *, now_ns: int, limit: int, skip: Collection[str] = frozenset()) -> DueJobs:
    """Up to `limit` jobs that are due, first come first served, passing over the ids in `skip`.

    Reads one row more than it takes, so that what it has read tells when there is something else to do.
    """
    later: list[int] = []

    def at_their_time() -> Iterator[Row]:
        for row in transaction.query(SCHEDULED).with_index(BY_DUE, _due=Range(gt=DUE_NOW)):
            if int(row["_due"]) > now_ns and row["_id"] not in skip:
                later.append(int(row["_due"]))
                return
            yield row

    found: list[Job] = []
    with transaction.uncounted():
        at_once = transaction.query(SCHEDULED).with_index(BY_DUE, _due=DUE_NOW)
        for row in heapq.merge(at_once, at_their_time(), key=_turn_ns):
            if row["_id"] in skip:
                continue
            if len(found) >= limit:
                return DueJobs(found, int(row["_due"]))
            found.append(_job(transaction, row))
    return DueJobs(found, later[0] if later else None)


def _turn_ns(row: Row) -> float:
    """What is due at once takes its turn by when it was scheduled, or those due at their time might never have one."""
    return int(row["_due"]) or row["_creationTime"] * NS_PER_MS


def begin(transaction: Transaction, job_id: str) -> Job | None:
    """Take a pending job in progress; None if it is not pending any more, and then it must not be run.

    In the transaction of a mutation that is the job; a job of an action is marked in a commit of its own.
    """
    if not mark_in_progress(transaction, job_id):
        return None
    with transaction.uncounted():
        row = transaction.get(job_id)
        assert row is not None
        return _job(transaction, row)


def mark_in_progress(transaction: Transaction, job_id: str) -> bool:
    """`begin` for a job whose arguments are at hand. False if it must not be run."""
    row = _row(transaction, job_id)
    if row is None or row["state"]["kind"] != PENDING:
        return False
    with transaction.uncounted():
        transaction.patch(job_id, {"state": {"kind": IN_PROGRESS}})
    return True


def succeed(transaction: Transaction, job_id: str, now_ms: float) -> bool:
    """The job has finished. False if it was canceled meanwhile, or is gone: then it stays so."""
    return _finish(transaction, job_id, {"kind": SUCCESS}, now_ms)


def fail(transaction: Transaction, job_id: str, text: str, now_ms: float) -> bool:
    """The job has failed, or cannot be run. False if it was canceled meanwhile, or is gone: then it stays so."""
    return _finish(transaction, job_id, {"kind": FAILED, "error": text}, now_ms)


def _finish(transaction: Transaction, job_id: str, state: Mapping[str, Value], now_ms: float) -> bool:
    row = _row(transaction, job_id)
    if row is None or row["state"]["kind"] == CANCELED:
        return False
    assert "_due" in row, f"job {job_id} has ended already: {row['state']}"
    _end(transaction, job_id, state, now_ms)
    return True


def _end(transaction: Transaction, job_id: str, state: Mapping[str, Value], now_ms: float) -> None:
    with transaction.uncounted():
        transaction.patch(job_id, {"state": dict(state), "completedTime": now_ms, "_due": UNSET})


# --- rows -------------------------------------------------------------------------------------------------------------


def public_row(transaction: Transaction, row: Mapping[str, Any]) -> Row:
    """What functions see of a row. Reads long arguments from their own row."""
    shown = {name: value for name, value in row.items() if not name.startswith("_") or name in SYSTEM_FIELDS}
    shown["args"] = _arguments(transaction, row)
    return shown


def purge_completed(transaction: Transaction, *, before_ms: float, limit: int) -> int:
    """Delete up to `limit` jobs that ended before `before_ms`, with their arguments; returns how many."""
    purged = 0
    with transaction.uncounted():
        ended = transaction.query(SCHEDULED).with_index(BY_COMPLETED, completedTime=Range(gte=0, lt=before_ms))
        for row in ended.take(limit):
            if "_arguments" in row:
                transaction.delete(row["_arguments"])
            transaction.delete(row["_id"])
            purged += 1
    return purged


def _row(transaction: Transaction, job_id: str) -> Row | None:
    with transaction.uncounted():
        return transaction.get(job_id)


def _job(transaction: Transaction, row: Row) -> Job:
    return Job(
        id=row["_id"],
        path=_path_of(row["name"]),
        arguments=encode(_arguments(transaction, row)[0]),
        scheduled_ms=row["scheduledTime"],
        due_ns=int(row["_due"]),
        in_progress=row["state"]["kind"] == IN_PROGRESS,
    )


def _arguments(transaction: Transaction, row: Mapping[str, Any]) -> list[Value]:
    if "args" in row:
        return cast("list[Value]", row["args"])
    kept = transaction.get(row["_arguments"])
    assert kept is not None, f"the arguments of job {row['_id']} are gone"
    return cast("list[Value]", kept["args"])


def _name_of(path: str) -> str:
    """`messages:send` is shown as `messages.py:send`."""
    module, _, function = path.partition(":")
    return f"{module}.py:{function}"


def _path_of(name: str) -> str:
    module, _, function = name.partition(":")
    return f"{module.removesuffix('.py')}:{function}"
