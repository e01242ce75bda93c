"""Why a job is where it is: what an operator wants to know of one that does not run, or does not end.

    its row ─────────────┐
    the scheduler's view ┴──► "the pool email is full: 4 of 4 run"     and whether that has lasted longer than it should

A pure function of what is given. Times are told in UTC.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from evolute.clock import NS_PER_MS, NS_PER_S
from evolute.limits import Limits
from evolute.system.jobs import CANCELED, IN_PROGRESS, PENDING, Row, options_of, turn_ns


class BackOff(NamedTuple):
    """What could not be done to a job, and when it is tried again."""

    until_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands with the scheduler. `taken`: it has a task, and so a place in its pool.

    `is_action` is whether its function is one; those are begun only when a worker has room for them. `no_room` says why
    no job of its pool is started now, None if one could be.
    """

    taken: bool
    is_action: bool
    back_off: BackOff | None
    no_room: str | None


class Reason(NamedTuple):
    """`is_stuck`: it has lasted longer than `job_stuck_ms`, or than an action may take."""

    text: str
    is_stuck: bool


def reason_of(
    row: Row, standing: Standing, *, pool: str, paused: Collection[str | None], now_ns: int, limits: Limits
) -> Reason | None:
    """None for a job with nothing left to do."""
    kind = row["state"]["kind"]
    if "_due" not in row:
        return None
    if kind == IN_PROGRESS and standing.taken and standing.back_off is None:
        return _running(row, now_ns, limits)
    waited_ms = max(0.0, now_ns - turn_ns(row)) / NS_PER_MS
    if kind == PENDING and int(row["_due"]) > now_ns and not standing.taken:
        return Reason(_not_due(row), False)
    started_ms = row.get("_started")
    if started_ms is not None:
        waited_ms = max(0.0, now_ns / NS_PER_MS - started_ms)
    text = _waiting(row, standing, pool, paused)
    if kind == CANCELED:
        text = f"canceled, and its completion function is still to be told: {text}"
    elif kind == IN_PROGRESS and not standing.taken:
        text = f"interrupted when the server ended, and its end is still to be written: {text}"
    return Reason(text, waited_ms > limits.job_stuck_ms)


def _running(row: Row, now_ns: int, limits: Limits) -> Reason:
    started_ms = row.get("_started")
    if started_ms is None:
        return Reason("running", False)
    for_ms = max(0.0, now_ns / NS_PER_MS - started_ms)
    if for_ms <= limits.action_ms_max + limits.kill_grace_ms:
        return Reason(f"running for {duration(for_ms)}", False)
    limit = f"{duration(limits.action_ms_max)} (action_ms_max)"
    return Reason(f"in progress for {duration(for_ms)}, which is longer than its limit of {limit}", True)


def _not_due(row: Row) -> str:
    when = moment(int(row["_due"]))
    tries = int(row.get("_tries", 0))
    if not tries:
        return f"due at {when}"
    attempts = int(options_of(row).get("retry", {}).get("attempts", tries))
    return f"backing off until {when}, after {tries} of {attempts} attempts"


def _waiting(row: Row, standing: Standing, pool: str, paused: Collection[str | None]) -> str:
    """What it waits for, that which would hold it even if all others were gone first."""
    if standing.back_off is not None:
        return f"backing off until {moment(standing.back_off.until_ns)}: {standing.back_off.reason}"
    if standing.taken and row["state"]["kind"] != PENDING:
        return "it is on its way"
    if standing.taken:
        return "waiting for an action worker" if standing.is_action else "running, or waiting for a worker"
    if None in paused:
        return "everything is paused"
    if pool in paused:
        return f"the pool {pool} is paused"
    return standing.no_room or "it is its turn soon"


def moment(ts_ns: float) -> str:
    return datetime.fromtimestamp(ts_ns / NS_PER_S, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(ms: float) -> str:
    """In the largest unit that says something: `250 ms`, `12 s`, `3 min`, `5 h`, `2 d`."""
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= 2 * unit_ms or (unit == "s" and ms >= unit_ms):
            return f"{ms / unit_ms:.0f} {unit}"
    return f"{ms:.0f} ms"
