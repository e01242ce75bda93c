"""Crons: rows that say what runs and when, and the latest runs of each.

    _crons       name, schedule, path, args, static, state, nextTime       _due: when it is due    _previous: was due
                 _regular: what was next before somebody asked for a run now
    _cron_runs   name, path, scheduledTime, status, logLines, executionTime      the newest of each cron

    due ──► in progress ──► the run is recorded, the next due time set
             └ in a mutation's own transaction, or in a commit of its own before an action

The id of a row is derived from the cron's name, so a name is taken once, whoever takes it. Static crons come with the
deployment, whose activation brings the table up to it; dynamic ones are rows that mutations write. A cron whose
schedule stays as it is keeps its cadence, whatever else of it changes (semantics B2 to B5).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, cast

from evolute.clock import NS_PER_MS, NS_PER_S
from evolute.database.index_range import Range
from evolute.database.transaction import Transaction
from evolute.errors import DefinitionError, InvalidSchedule, LimitReached
from evolute.limits import Limits
from evolute.system.jobs import count_scheduled
from evolute.system.tables import BY_CRON, BY_DUE, BY_STATIC, CRON_RUNS, CRONS, CRONS_NUMBER
from evolute.values.cron_schedule import Advance, Schedule, from_value
from evolute.values.document_id import INTERNAL_ID_BYTES, encode_id
from evolute.values.value import SYSTEM_FIELDS, UNSET, Int64, Value
from evolute.values.wire_codec import decode_canonical, encode

PENDING: Final = {"kind": "pending"}
IN_PROGRESS: Final = {"kind": "inProgress"}

WRONG_CLOCK_NS: Final = 3600 * NS_PER_S

Row = dict[str, Any]


class StaticCron(Protocol):
    """A cron of the deployment. `schedule` is a schedule's value, `arguments` the canonical JSON of one object."""

    @property
    def name(self) -> str: ...
    @property
    def schedule(self) -> Mapping[str, Any]: ...
    @property
    def path(self) -> str: ...
    @property
    def arguments(self) -> bytes: ...
    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...


class Due(NamedTuple):
    """One run of a cron: its id, and when that run is due. What it names is over once the cron has gone on."""

    cron_id: str
    due_ns: int


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron that is due, or whose action runs."""

    id: str
    name: str
    path: str
    arguments: bytes
    due_ns: int
    in_progress: bool

    @property
    def due(self) -> Due:
        return Due(self.id, self.due_ns)


class DueCrons(NamedTuple):
    """The crons to run, and the due time of the next one that was read, which may have come as well; None if none."""

    crons: list[Cron]
    next_due_ns: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended: the JSON of its result, or the text of its error."""

    result: bytes | None
    error: str | None
    log_lines: Sequence[str]
    duration_ms: float
    ended_ns: int


# --- Which crons there are --------------------------------------------------------------------------------------------


def apply(transaction: Transaction, crons: Sequence[StaticCron]) -> None:
    """Make these the static crons. Writes nothing for those that are as they were.

    Part of the transaction that activates a deployment. Raises DefinitionError naming each one that cannot be.
    """
    wanted, faults = {cron.name for cron in crons}, []
    with transaction.uncounted():
        for row in transaction.query(CRONS).with_index(BY_STATIC, static=True).collect():
            if row["name"] not in wanted:
                _delete(transaction, row)
    for cron in crons:
        existing = _row(transaction, cron_id(cron.name))
        if existing is not None and not existing["static"]:
            text = f"The cron job '{cron.name}' exists already: a mutation has made it with ctx.crons. Rename this one"
            faults.append(f"{cron.file}:{cron.line} {text}")
            continue
        try:
            check_size(cron.name, cron.arguments, transaction.limits)
        except LimitReached as error:
            faults.append(f"{cron.file}:{cron.line} {error}")
            continue
        _put(transaction, existing, cron.name, from_value(cron.schedule), cron.path, cron.arguments, static=True)
    if faults:
        raise DefinitionError("\n".join(faults))


def set_dynamic(transaction: Transaction, name: str, schedule: Schedule, path: str, arguments: bytes) -> None:
    """Make or change a cron. The schedule has no fault. Raises InvalidSchedule for a static one's name, LimitReached.

    What it counts against the limits of one mutation is counted as scheduled.
    """
    row = _dynamic_row(transaction, name)
    check_size(name, arguments, transaction.limits)
    count_scheduled(transaction, len(arguments))
    _put(transaction, row, name, schedule, path, arguments, static=False)


def remove_dynamic(transaction: Transaction, name: str) -> None:
    """A run that has begun goes on; there is no next. Nothing if there is none. Raises InvalidSchedule for a static."""
    row = _dynamic_row(transaction, name)
    if row is not None:
        with transaction.uncounted():
            _delete(transaction, row)


def check_size(name: str, arguments: bytes, limits: Limits) -> None:
    """Raises LimitReached."""
    if len(arguments) > limits.cron_arguments_bytes_max:
        raise LimitReached(
            f"The arguments of the cron job '{name}' are too large (actual: {len(arguments)} bytes, "
            f"limit: {limits.cron_arguments_bytes_max} bytes; the setting is cron_arguments_bytes_max)"
        )


def cron_id(name: str) -> str:
    """The id of the row of the cron of this name."""
    return encode_id(CRONS_NUMBER, _internal_id(name))


def _dynamic_row(transaction: Transaction, name: str) -> Row | None:
    row = _row(transaction, cron_id(name))
    if row is not None and row["static"]:
        raise InvalidSchedule(f"The cron job '{name}' is declared in crons.py; change it there, or take another name")
    return row


def _put(
    transaction: Transaction,
    row: Row | None,
    name: str,
    schedule: Schedule,
    path: str,
    arguments: bytes,
    *,
    static: bool,
) -> None:
    given = decode_canonical(arguments)
    fields: dict[str, Any] = {"path": path, "args": [given], "schedule": schedule.to_value(), "static": static}
    now_ns, offset_ns = transaction.now_ns, _offset_ns(name, transaction.limits)
    with transaction.uncounted():
        if row is None:
            due = _due_fields(schedule.first_ns(now_ns, offset_ns=offset_ns))
            made = {"name": name, **fields, "state": PENDING, **due}
            transaction.insert(CRONS, made, internal_id=_internal_id(name))
            return
        has_changed = encode(row["schedule"]) != encode(fields["schedule"])
        if has_changed:
            fields["_regular"] = UNSET
        if row["state"] == IN_PROGRESS:  # The run's end sets the next due time, by the schedule of then.
            due = {}
        elif not has_changed:
            due = _due_fields(_mended(int(row["_due"]), schedule, now_ns, offset_ns))
        else:
            previous_ns = int(row["_previous"]) if "_previous" in row else None
            due = _due_fields(schedule.first_ns(now_ns, previous_ns, offset_ns))
        transaction.patch(row["_id"], {**fields, **due})


def _mended(due_ns: int, schedule: Schedule, now_ns: int, offset_ns: int) -> int:
    """The due time, unless it was computed while the clock was far ahead: that would be silence for as long."""
    latest_ns = schedule.first_ns(now_ns, now_ns, offset_ns)
    return latest_ns if due_ns > latest_ns + WRONG_CLOCK_NS else due_ns


def _delete(transaction: Transaction, row: Row) -> None:
    for run in transaction.query(CRON_RUNS).with_index(BY_CRON, name=row["name"]).collect():
        transaction.delete(run["_id"])
    transaction.delete(row["_id"])


# --- Running ----------------------------------------------------------------------------------------------------------


def due(transaction: Transaction, *, now_ns: int, limit: int, skip: Collection[str] = frozenset()) -> DueCrons:
    """Up to `limit` crons that are due, earliest first, passing over the ids in `skip`."""
    found: list[Cron] = []
    with transaction.uncounted():
        for row in transaction.query(CRONS).with_index(BY_DUE, _due=Range(gte=Int64(0))):
            if row["_id"] in skip:
                continue
            due_ns = int(row["_due"])
            if due_ns > now_ns or len(found) >= limit:
                return DueCrons(found, due_ns)
            found.append(_cron(row))
    return DueCrons(found, None)


def begin(transaction: Transaction, run: Due, path: str, arguments: bytes) -> bool:
    """Take a due run in progress. False if the cron is not what was read any more: then it must not be run.

    In the transaction of a mutation that is the run; an action's run is marked in a commit of its own.
    """
    row = _row(transaction, run.cron_id)
    if row is None or row["state"] != PENDING or int(row["_due"]) != run.due_ns:
        return False
    if row["path"] != path or encode(row["args"][0]) != arguments:
        return False
    with transaction.uncounted():
        transaction.patch(run.cron_id, {"state": IN_PROGRESS})
    return True


def end(transaction: Transaction, run: Due, ended: Run) -> int:
    """Record how a run ended and set the next due time, by the schedule of now. Returns how many times it skips.

    Nothing happens if the cron has been removed meanwhile, or made anew.
    """
    row = _row(transaction, run.cron_id)
    if row is None or int(row["_due"]) != run.due_ns:
        return 0
    status: dict[str, Value] = {"kind": "failed", "error": _cut(ended.error or "", transaction.limits)}
    if ended.error is None:
        result = (ended.result or b"null").decode()
        status = {"kind": "success", "result": _cut(result, transaction.limits)}
    schedule, offset_ns = from_value(row["schedule"]), _offset_ns(row["name"], transaction.limits)
    following = _following(row, schedule, ended.ended_ns, offset_ns)
    previous = {"_regular": UNSET} if "_regular" in row else {"_previous": Int64(run.due_ns)}
    with transaction.uncounted():
        lines = _cut_lines(ended.log_lines, transaction.limits)
        _record(transaction, row, status, lines, ended.duration_ms)
        if following.skipped:
            text = skipped_text(row["name"], following.skipped)
            _record(transaction, row, {"kind": "canceled", "skipped": following.skipped}, [text], 0.0)
        _prune(transaction, row["name"])
        transaction.patch(run.cron_id, {"state": PENDING, **previous, **_due_fields(following.due_ns)})
    return following.skipped


def run_now(transaction: Transaction, name: str) -> bool | None:
    """A run more, due now; then it goes on as if there had been none, but for a time that comes while it runs.

    False if it is due or runs already, None if there is no cron of this name.
    """
    row = _row(transaction, cron_id(name))
    if row is None:
        return None
    if row["state"] == IN_PROGRESS or int(row["_due"]) <= transaction.now_ns:
        return False
    with transaction.uncounted():
        transaction.patch(row["_id"], {"_regular": row["_due"], **_due_fields(transaction.now_ns)})
    return True


def _following(row: Row, schedule: Schedule, ended_ns: int, offset_ns: int) -> Advance:
    """After a run that somebody asked for, the time that was next before it; if that is past by now, it is skipped."""
    if "_regular" not in row:
        return schedule.next(int(row["_due"]), ended_ns, offset_ns)
    regular_ns = int(row["_regular"])
    if regular_ns > ended_ns:
        return Advance(regular_ns, 0)
    following = schedule.next(regular_ns, ended_ns, offset_ns)
    return Advance(following.due_ns, following.skipped + 1)


def skipped_since(transaction: Transaction, run: Due) -> int:
    """How many times were left out after this run, if the cron has gone on from it."""
    row = _row(transaction, run.cron_id)
    if row is None or "_previous" not in row or int(row["_previous"]) != run.due_ns:
        return 0
    seconds = from_value(row["schedule"]).seconds
    return 0 if seconds is None else max(0, (int(row["_due"]) - run.due_ns) // (seconds * NS_PER_S) - 1)


def skipped_text(name: str, skipped: int) -> str:
    return f"Skipping {skipped} run(s) of job {name} because multiple scheduled runs are in the past"


def _record(
    transaction: Transaction, row: Row, status: Mapping[str, Value], log_lines: list[str], duration_ms: float
) -> None:
    transaction.insert(
        CRON_RUNS,
        {
            "name": row["name"],
            "path": row["path"],
            "scheduledTime": int(row["_due"]) / NS_PER_MS,
            "status": dict(status),
            "logLines": log_lines,
            "executionTime": duration_ms,
        },
    )


def _prune(transaction: Transaction, name: str) -> None:
    runs = transaction.query(CRON_RUNS).with_index(BY_CRON, name=name).collect()
    for run in runs[: -transaction.limits.cron_runs_kept_max or None]:
        transaction.delete(run["_id"])


# --- Rows -------------------------------------------------------------------------------------------------------------


def public_row(row: Mapping[str, Any]) -> Row:
    """What functions see of a row of either table."""
    return {name: value for name, value in row.items() if not name.startswith("_") or name in SYSTEM_FIELDS}


def _row(transaction: Transaction, cron: str) -> Row | None:
    with transaction.uncounted():
        return cast("Row | None", transaction.get(cron))


def _cron(row: Row) -> Cron:
    return Cron(
        id=row["_id"],
        name=row["name"],
        path=row["path"],
        arguments=encode(row["args"][0]),
        due_ns=int(row["_due"]),
        in_progress=row["state"] == IN_PROGRESS,
    )


def _due_fields(due_ns: int) -> dict[str, Value]:
    return {"_due": Int64(due_ns), "nextTime": due_ns / NS_PER_MS}


def _internal_id(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=INTERNAL_ID_BYTES, person=b"cron").digest()


def _offset_ns(name: str, limits: Limits) -> int:
    """Spreads crons of the same times over `cron_splay_s_max` seconds, each always by its own amount."""
    digest = blake2b(name.encode(), digest_size=8, person=b"cron offset").digest()
    return int.from_bytes(digest, "big") % (limits.cron_splay_s_max + 1) * NS_PER_S


def _cut(text: str, limits: Limits) -> str:
    return text[: limits.cron_text_characters_max]


def _cut_lines(lines: Sequence[str], limits: Limits) -> list[str]:
    """The first lines, as far as they fit together."""
    kept, room = [], limits.cron_text_characters_max
    for line in lines:
        if room <= 0:
            break
        kept.append(line[:room])
        room -= len(line)
    return kept
