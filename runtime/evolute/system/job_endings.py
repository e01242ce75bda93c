"""How a job ends: its terminal state, the attempts on record, and what its completion function is told.

    run ──► error, and its policy has attempts left ──► pending, due later         try_later
     └────► success, failed ──► terminal state ┐
    canceled, and somebody is to be told ──────┴──► JobEnd ──► on_complete         settle

One commit holds the terminal state and what the completion function wrote, wherever that function runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from evolute.clock import NS_PER_MS
from evolute.database.transaction import Transaction
from evolute.storage.keyspace import document_key
from evolute.system import jobs
from evolute.system.jobs import CANCELED, FAILED, IN_PROGRESS, PENDING, SUCCESS, Row
from evolute.system.tables import BY_MARK, SCHEDULED
from evolute.values.document_id import decode_id
from evolute.values.value import UNSET, Int64, Value

ATTEMPT_ERROR_CHARACTERS_MAX: Final = 2000
ATTEMPTS_KEPT_MAX: Final = 100
LOST: Final = "The action was cancelled, and the server ended before it had been interrupted."
KEY_TAKEN: Final = "It is not tried again, because a newer job has its key."

EndKind: TypeAlias = Literal["success", "failed", "canceled"]


class Ending(NamedTuple):
    """How a run ended. `value` is canonical JSON, `error` a text; a canceled one has the error of what was interrupted.

    With `untold` the completion function is not run, because it was and could not: the row records why.
    """

    kind: EndKind
    value: bytes | None = None
    error: str | None = None
    untold: str | None = None


class Policy(Protocol):
    """How often a job is tried, and how long it waits after so many failures."""

    @property
    def attempts(self) -> int: ...
    def wait_ms(self, failures: int) -> float: ...


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job whose terminal state has been set. `on_complete` is the path of the function to be told, if any."""

    id: str
    name: str
    ending: Ending
    attempts: list[dict[str, Value]]
    on_complete: str | None


def settle(
    transaction: Transaction, job_id: str, ending: Ending, *, now_ms: float | None = None, untold: str | None = None
) -> JobEnd | None:
    """Sets the terminal state. None, and nothing is written, if the job is not one to end in this way (any more)."""
    transaction.deferred.withdraw(document_key(*decode_id(job_id)))  # of a job that has begun in this transaction
    row = jobs.read(transaction, job_id)
    if row is None:
        return None
    kind = row["state"]["kind"]
    if kind == CANCELED:
        left = "_due" in row or "_started" in row
        if ending.kind != CANCELED or not left:
            return None
    elif ending.kind == CANCELED or "_due" not in row:
        return None
    now_ms = transaction.now_ns / NS_PER_MS if now_ms is None else now_ms
    attempts = _attempts(row, ending)
    changes: dict[str, object] = {"attempts": attempts} if attempts else {}
    untold = untold or ending.untold
    if untold is not None:
        changes["completionError"] = untold
    state: dict[str, Value] = {"kind": ending.kind}
    if ending.kind == FAILED:
        state["error"] = ending.error
    ended_ms = row.get("completedTime", now_ms)
    jobs.end(transaction, job_id, state, ended_ms, changes)
    on_complete = jobs.options_of(row).get("onComplete")
    return JobEnd(job_id, row["name"], ending, attempts, on_complete if untold is None else None)


def record_untold(transaction: Transaction, job_id: str, text: str) -> None:
    """The completion function has failed, and the job has ended all the same."""
    with transaction.uncounted():
        transaction.patch(job_id, {"completionError": text})


def try_later(transaction: Transaction, job_id: str, error: str, policy: Policy, *, died: bool = False) -> str | None:
    """An attempt has failed: the job is pending again, due when its policy says, and None is returned.

    Otherwise what to add to the error it ends with, "" for nothing: its attempts are used up, it was canceled, a newer
    job has its key, or it has killed too many workers. `died` is whether the worker died of this attempt.
    """
    row = jobs.read(transaction, job_id)
    if row is None or row["state"]["kind"] != IN_PROGRESS:
        return ""
    tries = int(row.get("_tries", 0)) + 1
    if tries >= policy.attempts:
        return ""
    deaths = int(row.get("_deaths", 0)) + died
    if deaths >= transaction.limits.job_worker_deaths_max:
        return f"It has killed its worker process {deaths} times (the setting is job_worker_deaths_max)."
    key = jobs.options_of(row).get("key")
    changes: dict[str, object] = {}
    if key is not None:
        with transaction.uncounted():
            if transaction.query(SCHEDULED).with_index(BY_MARK, _mark=key).first() is not None:
                return KEY_TAKEN
        changes["_mark"] = key
    changes |= {
        "state": {"kind": PENDING},
        "_due": Int64(transaction.now_ns + int(policy.wait_ms(tries) * NS_PER_MS)),
        "_tries": tries,
        "_started": UNSET,
        "attempts": _attempts(row, Ending(FAILED, None, error)),
    }
    if died:
        changes["_deaths"] = deaths
    with transaction.uncounted():
        transaction.patch(job_id, changes)
    return None


def count_death(transaction: Transaction, job_id: str) -> int | None:
    """The worker died while it ran this job; returns how often that has happened, None if the job is over."""
    row = jobs.read(transaction, job_id)
    if row is None or row["state"]["kind"] != PENDING:
        return None
    deaths = int(row.get("_deaths", 0)) + 1
    with transaction.uncounted():
        transaction.patch(job_id, {"_deaths": deaths})
    return deaths


def _attempts(row: Row, ending: Ending) -> list[dict[str, Any]]:
    """With the run that has ended, if it is to be on record: of a job with a policy, or cut short. The latest ones."""
    attempts: list[dict[str, Any]] = list(row.get("attempts", ()))
    started_ms = row.get("_started")
    if started_ms is None or ("retry" not in jobs.options_of(row) and ending.kind != CANCELED):
        return attempts
    attempt: dict[str, Any] = {"startedTime": started_ms}
    if ending.kind != SUCCESS:
        attempt["error"] = (ending.error or LOST)[:ATTEMPT_ERROR_CHARACTERS_MAX]
    return [*attempts, attempt][-ATTEMPTS_KEPT_MAX:]
