"""When a cron runs: a schedule is a plain value, and what comes next is a pure function of it and of the time before.

    interval(minutes=5)                                  from its first run on, which is at once; anchored to due times
    hourly(minute=15)  daily(hour=8)  weekly(day="monday", hour=8)  monthly(day=31, hour=8)
    cron("*/5 9-17 * * MON-FRI", timezone="Europe/Berlin")     five fields: minute hour day month weekday (0 = Sunday)

All but intervals follow a wall clock, UTC or that of `timezone`. Where that clock is changed, they keep the rules of
Debian's cron: **times of day** (daily, weekly, monthly, and expressions whose minute and hour both begin with no `*`)
run once a day whatever happens: a time that the clock jumps over runs at the first minute after the jump, several such
times as one; a time that comes twice runs the first time. **Patterns** (hourly, and expressions with a `*` at the
beginning of minute or hour) run whenever the clock shows what they match: not in the hour that is left out, twice in
the hour that is repeated.

A schedule is not checked where it is made, so that all mistakes of a file can be told at once: `fault` is the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from evolute.clock import NS_PER_S

ScheduleType: TypeAlias = Literal["interval", "hourly", "daily", "weekly", "monthly", "cron"]
Weekday: TypeAlias = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

WEEKDAYS: Final = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LOOK_AHEAD: Final = timedelta(hours=6)
SECONDS_MAX: Final = 10 * 366 * 24 * 3600
NAME: Final = re.compile(r"[ -~]+")
NAME_CHARACTERS_MAX: Final = 256


class Advance(NamedTuple):
    """The next due time after a run, and how many that came meanwhile are left out."""

    due_ns: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Made by `interval`, `hourly`, `daily`, `weekly`, `monthly` and `cron`. `fields` are what the author gave.

    `seconds` is set for intervals, `expression` for all others; both are None if there is a `fault`.
    """

    type: ScheduleType
    fields: tuple[tuple[str, Any], ...]
    seconds: int | None = None
    expression: str | None = None
    timezone: str = "UTC"
    fault: str | None = None

    def to_value(self) -> dict[str, Any]:
        """As the table of crons and the channel hold it."""
        return {"type": self.type, **dict(self.fields)}

    def first_ns(self, now_ns: int, previous_ns: int | None = None, offset_ns: int = 0) -> int:
        """The first due time of a new cron, or of one whose schedule has changed and that was due `previous_ns`."""
        if self.seconds is None:
            return self._match_after(now_ns, offset_ns)
        return now_ns if previous_ns is None else max(now_ns, previous_ns + self.seconds * NS_PER_S)

    def next(self, due_ns: int, now_ns: int, offset_ns: int = 0) -> Advance:
        """What follows the run that was due `due_ns` and has ended `now_ns`, which may be before it if a clock steps.

        Only intervals skip; times of a wall clock jump straight to the next one.
        """
        if self.seconds is None:
            return Advance(self._match_after(max(due_ns, now_ns), offset_ns), 0)
        step_ns = self.seconds * NS_PER_S
        skipped = max(0, -((due_ns + step_ns - now_ns) // step_ns))
        return Advance(due_ns + (1 + skipped) * step_ns, skipped)

    def _match_after(self, after_ns: int, offset_ns: int) -> int:
        """Every match is delayed by the offset."""
        assert self.expression is not None, f"a schedule with a fault is never run: {self.fault}"
        match = next(matches(self.expression, self.timezone, EPOCH + _whole_seconds(after_ns - offset_ns)), None)
        assert match is not None, f"{self.expression} was checked, and yet nothing matches"
        return (match - EPOCH) // timedelta(seconds=1) * NS_PER_S + offset_ns


# --- Making them ------------------------------------------------------------------------------------------------------


def interval(
    every: timedelta | None = None,
    /,
    *,
    seconds: int | None = None,
    minutes: int | None = None,
    hours: int | None = None,
) -> Schedule:
    """Every so often: a `timedelta` of whole seconds, or one of `seconds`, `minutes`, `hours`."""
    given = [(amount, unit_s) for amount, unit_s in ((seconds, 1), (minutes, 60), (hours, 3600)) if amount is not None]
    if isinstance(every, timedelta) and not given:
        given = [(every // timedelta(seconds=1) if every % timedelta(seconds=1) == timedelta() else 0, 1)]
    elif every is not None or len(given) != 1:
        return Schedule("interval", (), fault="Must specify one of seconds, minutes, or hours, or a timedelta")
    ((amount, unit_s),) = given
    if not _is_whole(amount, 1, SECONDS_MAX // unit_s):
        return Schedule("interval", (), fault="Interval must be an integer greater than 0: one second to ten years")
    return Schedule("interval", (("seconds", amount * unit_s),), seconds=amount * unit_s)


def hourly(*, minute: int = 0, timezone: str = "UTC") -> Schedule:
    """Whenever the clock shows this minute."""
    fields = {"minute": minute, "timezone": timezone}
    return _of_clock("hourly", fields, f"{minute} * * * *", _minute_fault(minute))


def daily(*, hour: int, minute: int = 0, timezone: str = "UTC") -> Schedule:
    fields = {"hour": hour, "minute": minute, "timezone": timezone}
    return _of_clock("daily", fields, f"{minute} {hour} * * *", _time_fault(hour, minute))


def weekly(*, day: Weekday, hour: int, minute: int = 0, timezone: str = "UTC") -> Schedule:
    fields = {"day": day, "hour": hour, "minute": minute, "timezone": timezone}
    if day not in WEEKDAYS:
        return _of_clock("weekly", fields, "", 'Day of week must be a string like "monday".')
    return _of_clock("weekly", fields, f"{minute} {hour} * * {WEEKDAYS.index(day)}", _time_fault(hour, minute))


def monthly(*, day: int, hour: int, minute: int = 0, timezone: str = "UTC") -> Schedule:
    """Months that do not have the day are left out."""
    fields = {"day": day, "hour": hour, "minute": minute, "timezone": timezone}
    fault = None if _is_whole(day, 1, 31) else "Day of month must be an integer from 1 to 31"
    return _of_clock("monthly", fields, f"{minute} {hour} {day} * *", fault or _time_fault(hour, minute))


def cron(expression: str, /, *, timezone: str = "UTC") -> Schedule:
    """The five fields of crontab(5): lists, ranges, steps and names; also `L` and `MON#2`."""
    fields = {"expression": expression, "timezone": timezone}
    return _of_clock("cron", fields, expression, _expression_fault(expression))


def from_value(value: Mapping[str, Any]) -> Schedule:
    """What `to_value` gave."""
    fields = {name: given for name, given in value.items() if name != "type"}
    match value["type"]:
        case "interval":
            return interval(**fields)
        case "hourly":
            return hourly(**fields)
        case "daily":
            return daily(**fields)
        case "weekly":
            return weekly(**fields)
        case "monthly":
            return monthly(**fields)
        case _:
            return cron(fields["expression"], timezone=fields["timezone"])


def load_libraries() -> None:
    """What is imported late otherwise. Inside a mutation Python may not write the bytecode of what it imports."""
    assert cron("0 0 * * *", timezone="Etc/UTC").fault is None


def name_fault(name: object) -> str | None:
    """Why this cannot be the name of a cron (semantics B1)."""
    if isinstance(name, str) and len(name) > NAME_CHARACTERS_MAX:
        return f"Invalid cron identifier {name[:20]!r}…: use at most {NAME_CHARACTERS_MAX} characters, not {len(name)}"
    if isinstance(name, str) and NAME.fullmatch(name):
        return None
    return f"Invalid cron identifier {name!r}: use ASCII letters that are not control characters"


def _of_clock(kind: ScheduleType, fields: Mapping[str, Any], expression: str, fault: str | None) -> Schedule:
    timezone = fields["timezone"]
    fault = fault or _timezone_fault(timezone)
    if fault is not None:
        return Schedule(kind, (), fault=fault)
    return Schedule(kind, tuple(fields.items()), expression=expression, timezone=timezone)


# --- Faults -----------------------------------------------------------------------------------------------------------


def _is_whole(number: object, least: int, most: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and least <= number <= most


def _time_fault(hour: object, minute: object) -> str | None:
    return _minute_fault(minute) if _is_whole(hour, 0, 23) else "Hour of day must be an integer from 0 to 23"


def _minute_fault(minute: object) -> str | None:
    return None if _is_whole(minute, 0, 59) else "Minute of hour must be an integer from 0 to 59"


def _timezone_fault(timezone: object) -> str | None:
    try:
        zone_of(cast(str, timezone))
    except (KeyError, ValueError, TypeError, OSError):
        return f'There is no time zone {timezone!r}; name one of the IANA database, such as "Europe/Berlin"'
    return None


def _expression_fault(expression: object) -> str | None:
    from cronsim import CronSimError

    if not isinstance(expression, str) or len(expression.split()) != 5:
        return f"The cron spec {expression!r} must have five fields: minute hour day month weekday"
    never = f'The cron spec "{expression}" will never match any time'
    try:
        found = next(matches(expression, "UTC", EPOCH), None)
    except CronSimError as error:
        return never if _is_possible_in_a_long_month(expression) else f'The cron spec "{expression}" is wrong: {error}'
    return never if found is None else None


def _is_possible_in_a_long_month(expression: str) -> bool:
    """The library takes the 30th of February for a bad day; it is a good one that never comes."""
    from cronsim import CronSim, CronSimError

    minute, hour, day, month, weekday = expression.split()
    try:
        CronSim(f"{minute} {hour} * {month} {weekday}", EPOCH)
        CronSim(f"{minute} {hour} {day} * {weekday}", EPOCH)
    except CronSimError:
        return False
    return True


# --- Matches ----------------------------------------------------------------------------------------------------------


def zone_of(timezone: str) -> tzinfo:
    """Raises ValueError, KeyError or OSError for what is no time zone."""
    if timezone == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # late: a worker without crons does not need it

    return ZoneInfo(timezone)


def matches(expression: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """The instants in UTC, each once and in order, that an expression matches after `after`, an aware datetime.

    Ends when nothing matches for fifty years. Raises CronSimError for what is no expression.
    """
    zone, start = zone_of(timezone), after.astimezone(UTC).replace(microsecond=0)
    minute, hour, *_ = expression.split()
    is_pattern = minute.startswith("*") or hour.startswith("*")
    try:
        yield from (_pattern_matches if is_pattern else _time_matches)(expression, zone, start)
    except (OverflowError, ValueError):
        return  # the end of the calendar


def _time_matches(expression: str, zone: tzinfo, last: datetime) -> Iterator[datetime]:
    """Times of day: the library knows Debian's rules for them. In a repeated hour it starts over."""
    from cronsim import CronSim

    for wall in CronSim(expression, last.astimezone(zone)):
        found = wall.astimezone(UTC)
        if found > last:
            last = found
            yield found


def _pattern_matches(expression: str, zone: tzinfo, last: datetime) -> Iterator[datetime]:
    """What the clock shows, from one of its changes to the next: in between it is the time in UTC and an offset.

    The library's own search would lose the first hour of days that have no midnight.
    """
    from cronsim import CronSim

    offset = _offset(zone, last)
    while True:
        change = None
        for wall in CronSim(expression, last + offset):
            found = wall - offset
            change = _first_change(zone, offset, last, found)
            if change is not None:
                break
            last = found
            yield found
        if change is None:
            return
        offset = _offset(zone, change)
        last = change - timedelta(seconds=1)


def _first_change(zone: tzinfo, offset: timedelta, start: datetime, end: datetime) -> datetime | None:
    """The first second after `start`, up to `end`, at which the clock is not `offset` ahead of UTC any more."""
    while zone is not UTC and start < end:
        step = min(start + LOOK_AHEAD, end)
        if _offset(zone, step) != offset:
            while step - start > timedelta(seconds=1):
                middle = start + timedelta(seconds=(step - start) // timedelta(seconds=2))
                start, step = (middle, step) if _offset(zone, middle) == offset else (start, middle)
            return step
        start = step
    return None


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _whole_seconds(ns: int) -> timedelta:
    return timedelta(seconds=ns // NS_PER_S)
