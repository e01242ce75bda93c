"""When crons run: every schedule against a walk over all minutes, a simulated week and year, and clock changes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.clock import NS_PER_S
from evolute.values.cron_schedule import (
    EPOCH,
    Advance,
    Schedule,
    cron,
    daily,
    from_value,
    hourly,
    interval,
    matches,
    monthly,
    name_fault,
    weekly,
)

MINUTE = timedelta(minutes=1)
BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def at(text: str, zone: str = "UTC") -> datetime:
    """`2026-03-29 02:30`, and in a repeated hour `2026-10-25 02:30 again`."""
    wall = datetime.fromisoformat(text.removesuffix(" again"))
    return wall.replace(tzinfo=ZoneInfo(zone), fold=int(text.endswith("again"))).astimezone(UTC)


def ns(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1) * NS_PER_S


def moment(due_ns: int) -> datetime:
    return EPOCH + timedelta(seconds=due_ns // NS_PER_S)


def runs(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    """Every run of a cron that is made at `start` and whose runs take no time."""
    assert schedule.fault is None, schedule.fault
    due_ns = schedule.first_ns(ns(start))
    while due_ns < ns(end):
        yield moment(due_ns)
        due_ns = schedule.next(due_ns, due_ns).due_ns


def walls(schedule: Schedule, start: datetime, end: datetime, zone: ZoneInfo) -> list[str]:
    return [f"{run.astimezone(zone):%m-%d %H:%M %Z}" for run in runs(schedule, start, end)]


# --- Against a walk over all minutes ----------------------------------------------------------------------------------


def field_matches(field: str, number: int, first: int, last: int) -> bool:
    for part in field.split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        start, stop = (first, last) if low == "*" else (int(low), int(high or (last if step else low)))
        if number in range(start, stop + 1, int(step or 1)):
            return True
    return False


def wall_matches(expression: str, wall: datetime) -> bool:
    minute, hour, day, month, weekday = expression.split()
    if not (
        field_matches(minute, wall.minute, 0, 59)
        and field_matches(hour, wall.hour, 0, 23)
        and field_matches(month, wall.month, 1, 12)
    ):
        return False
    in_month, in_week = field_matches(day, wall.day, 1, 31), field_matches(weekday, wall.isoweekday() % 7, 0, 6)
    either = not day.startswith("*") and not weekday.startswith("*")
    return in_month or in_week if either else in_month and in_week


def walked(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The rules of the module's first paragraph, minute by minute: (start, end]."""
    minute, hour, *_ = expression.split()
    if minute.startswith("*") or hour.startswith("*"):
        minutes = ((start + number * MINUTE) for number in range(1, (end - start) // MINUTE + 1))
        return [one for one in minutes if wall_matches(expression, one.astimezone(zone))]
    found = set()
    wall = start.astimezone(zone).replace(tzinfo=None) - timedelta(hours=3)
    while wall <= end.astimezone(zone).replace(tzinfo=None):
        if wall_matches(expression, wall):
            real = wall
            while real.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != real:
                real += MINUTE
            found.add(real.replace(tzinfo=zone, fold=0).astimezone(UTC))
        wall += MINUTE
    return sorted(one for one in found if start < one <= end)


@st.composite
def fields(draw: st.DrawFn, first: int, last: int) -> str:
    number = st.integers(first, last)
    match draw(st.integers(0, 5)):
        case 0 | 1:
            return "*"
        case 2:
            return f"*/{draw(st.integers(1, 30))}"
        case 3:
            return ",".join(str(one) for one in sorted(draw(st.sets(number, min_size=1, max_size=3))))
        case 4:
            low, high = sorted((draw(number), draw(number)))
            return f"{low}-{high}"
        case _:
            return str(draw(number))


expressions = st.tuples(fields(0, 59), fields(0, 5), fields(1, 31), st.just("*"), fields(0, 6)).map(" ".join)
# Two days on either side of a change of the clocks, or of none.
CHANGES = [("Europe/Berlin", "2026-03-28"), ("Europe/Berlin", "2026-10-24"), ("America/New_York", "2026-03-07")]
CHANGES += [("America/New_York", "2026-10-31"), ("Asia/Kolkata", "2026-10-24"), ("UTC", "2028-02-28")]
CHANGES += [("America/Havana", "2026-03-07"), ("America/Havana", "2026-10-31"), ("Asia/Beirut", "2026-03-28")]


@settings(max_examples=40, deadline=None)
@given(expressions, st.sampled_from(CHANGES), st.integers(0, 36 * 3600))
def test_matches_are_those_of_a_walk_over_all_minutes(expression: str, change: tuple[str, str], into_s: int) -> None:
    zone, day = change
    start = at(day, zone) + timedelta(seconds=into_s)
    whole, end = start.replace(second=0), at(day, zone) + timedelta(days=3)
    found = []
    for match in matches(expression, zone, start):
        if match > end:
            break
        found.append(match)
    assert found == [one for one in walked(expression, ZoneInfo(zone), whole, end) if one > start]


@settings(max_examples=40, deadline=None)
@given(expressions, st.sampled_from(CHANGES), st.integers(0, 72 * 3600), st.integers(0, 3599))
def test_the_next_run_is_after_now_and_nothing_lies_between(
    expression: str, change: tuple[str, str], into_s: int, offset_s: int
) -> None:
    """With an offset too: an occurrence is a match plus the offset."""
    schedule = cron(expression, timezone=change[0])
    now = at(change[1], change[0]) + timedelta(seconds=into_s)
    due_ns = schedule.first_ns(ns(now), offset_ns=offset_s * NS_PER_S)
    match = moment(due_ns) - timedelta(seconds=offset_s)
    assert moment(due_ns) > now
    assert next(matches(expression, change[0], match - timedelta(seconds=1))) == match
    assert next(matches(expression, change[0], now - timedelta(seconds=offset_s))) == match


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**5), st.integers(0, 10**12), st.integers(-(10**6), 10**6))
def test_intervals_are_anchored_and_every_time_is_run_or_counted(seconds: int, due_s: int, took_s: int) -> None:
    due_ns, now_ns = due_s * 1000, due_s * 1000 + took_s * NS_PER_S
    following, skipped = interval(seconds=seconds).next(due_ns, now_ns)
    assert following == due_ns + (skipped + 1) * seconds * NS_PER_S
    assert following >= now_ns
    assert skipped == 0 or following - seconds * NS_PER_S < now_ns


# --- Weeks, years, and the days on which the clocks change ------------------------------------------------------------


def test_a_week_in_two_time_zones() -> None:
    monday, end = at("2026-06-01"), at("2026-06-08")
    assert [f"{run:%a %H:%M}" for run in runs(daily(hour=8, minute=30, timezone="Europe/Berlin"), monday, end)] == [
        f"{day} 06:30" for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    ]
    office = cron("0 9,17 * * MON-FRI", timezone="America/New_York")
    assert [f"{run:%a %H}" for run in runs(office, monday, end)] == [
        f"{day} {hour}" for day in ("Mon", "Tue", "Wed", "Thu", "Fri") for hour in ("13", "21")
    ]
    assert [f"{run:%a %H:%M}" for run in runs(weekly(day="sunday", hour=0), monday, end)] == ["Sun 00:00"]
    assert len(list(runs(hourly(minute=15), monday, end))) == 7 * 24
    assert len(list(runs(cron("*/20 * * * *"), monday, end))) == 7 * 24 * 3 - 1, "not at the moment it is made"
    every = list(runs(interval(hours=5), monday, end))
    assert (every[0], len(every)) == (monday, 34)


def test_a_year_of_days_has_one_run_a_day_whatever_the_clocks_do() -> None:
    for zone, hour in (("Europe/Berlin", 2), ("America/New_York", 1), ("America/Havana", 0), ("UTC", 2)):
        found = list(runs(daily(hour=hour, minute=30, timezone=zone), at("2026-01-01", zone), at("2027-01-01", zone)))
        days = [run.astimezone(ZoneInfo(zone)).date() for run in found]
        assert len(days) == 365
        assert all(second - first == timedelta(days=1) for first, second in pairwise(days))


def test_a_year_of_hours_follows_the_clock_on_the_wall() -> None:
    hours = list(runs(hourly(minute=5, timezone="Europe/Berlin"), at("2026-01-01"), at("2027-01-01")))
    assert len(hours) == 365 * 24
    assert {second - first for first, second in pairwise(hours)} == {timedelta(hours=1)}


def test_a_time_that_the_clock_jumps_over_runs_right_after_the_jump() -> None:
    start, end = at("2026-03-28 12:00", "Europe/Berlin"), at("2026-03-30 12:00", "Europe/Berlin")
    early = daily(hour=2, minute=30, timezone="Europe/Berlin")
    assert walls(early, start, end, BERLIN) == ["03-29 03:00 CEST", "03-30 02:30 CEST"]
    several = cron("0,20,40 2,3 * * *", timezone="Europe/Berlin")
    assert walls(several, start, end, BERLIN)[:3] == ["03-29 03:00 CEST", "03-29 03:20 CEST", "03-29 03:40 CEST"]


def test_a_time_that_comes_twice_runs_the_first_time() -> None:
    start, end = at("2026-10-24 12:00", "Europe/Berlin"), at("2026-10-26 12:00", "Europe/Berlin")
    early = daily(hour=2, minute=30, timezone="Europe/Berlin")
    assert walls(early, start, end, BERLIN) == ["10-25 02:30 CEST", "10-26 02:30 CET"]
    between = ns(at("2026-10-25 02:10 again", "Europe/Berlin"))
    assert moment(early.first_ns(between)) == at("2026-10-26 02:30", "Europe/Berlin")


def test_patterns_run_whenever_the_clock_shows_them() -> None:
    half_hours = cron("*/30 1-2 * * *", timezone="America/New_York")
    spring = walls(half_hours, at("2026-03-08 00:00", "America/New_York"), at("2026-03-08 12:00"), NEW_YORK)
    assert spring == ["03-08 01:00 EST", "03-08 01:30 EST"]
    autumn = walls(half_hours, at("2026-11-01 00:00", "America/New_York"), at("2026-11-01 12:00"), NEW_YORK)
    assert autumn == [
        "11-01 01:00 EDT",
        "11-01 01:30 EDT",
        "11-01 01:00 EST",
        "11-01 01:30 EST",
        "11-01 02:00 EST",
        "11-01 02:30 EST",
    ]


def test_a_day_without_a_midnight_begins_when_it_begins() -> None:
    start, end = at("2026-03-07 23:58", "America/Havana"), at("2026-03-08 01:02", "America/Havana")
    sundays = walls(cron("* * * * SUN", timezone="America/Havana"), start, end, ZoneInfo("America/Havana"))
    assert sundays == ["03-08 01:00 CDT", "03-08 01:01 CDT"]
    never = walls(cron("*/30 0 * * SUN", timezone="America/Havana"), start, end, ZoneInfo("America/Havana"))
    assert never == []


def test_r4_a_month_without_the_31st_is_left_out() -> None:
    found = runs(monthly(day=31, hour=0), at("2026-03-01"), at("2026-09-01"))
    assert [f"{run:%m-%d}" for run in found] == ["03-31", "05-31", "07-31", "08-31"]
    leap_days = runs(cron("0 0 29 2 *"), at("2026-01-01"), at("2037-01-01"))
    assert [f"{run:%Y-%m-%d}" for run in leap_days] == ["2028-02-29", "2032-02-29", "2036-02-29"]


# --- What comes next --------------------------------------------------------------------------------------------------


def test_a_long_run_skips_intervals_and_clock_times_jump() -> None:
    assert interval(seconds=10).next(0, 35 * NS_PER_S) == Advance(40 * NS_PER_S, 3)
    assert interval(seconds=10).next(0, 40 * NS_PER_S) == Advance(40 * NS_PER_S, 3), "what is due now is not past"
    due, ended = at("2026-06-01 00:00"), at("2026-06-01 05:20")
    assert hourly().next(ns(due), ns(ended)) == Advance(ns(at("2026-06-01 06:00")), 0)


def test_a_clock_that_steps_back_runs_nothing_twice() -> None:
    due, now = at("2026-06-01 08:00"), at("2026-06-01 07:00")
    assert daily(hour=8).next(ns(due), ns(now)).due_ns == ns(at("2026-06-02 08:00"))


def test_a_changed_interval_is_anchored_to_the_last_run() -> None:
    now = 1000 * NS_PER_S
    assert interval(seconds=60).first_ns(now) == now
    assert interval(seconds=60).first_ns(now, previous_ns=990 * NS_PER_S) == 1050 * NS_PER_S
    assert interval(seconds=60).first_ns(now, previous_ns=0) == now


# --- Values and faults ------------------------------------------------------------------------------------------------

RIGHT = [
    interval(seconds=1),
    interval(timedelta(days=2)),
    hourly(),
    hourly(minute=59, timezone="Asia/Kolkata"),
    daily(hour=0),
    weekly(day="sunday", hour=23, minute=1),
    monthly(day=31, hour=4, timezone="Europe/Berlin"),
    cron("0 0 * * 7"),
    cron("*/5 9-17 1,15 JAN-MAR MON", timezone="America/New_York"),
]


@pytest.mark.parametrize("schedule", RIGHT, ids=lambda schedule: schedule.type)
def test_a_schedule_survives_as_a_value(schedule: Schedule) -> None:
    assert schedule.fault is None
    assert from_value(schedule.to_value()) == schedule


def test_every_mistake_has_its_text() -> None:
    wrong: object = "8"
    texts = {
        interval(): "Must specify one of seconds, minutes, or hours, or a timedelta",
        interval(seconds=1, hours=1): "Must specify one of seconds, minutes, or hours, or a timedelta",
        interval(seconds=0): "Interval must be an integer greater than 0: one second to ten years",
        interval(minutes=-1): "Interval must be an integer greater than 0: one second to ten years",
        interval(hours=10**6): "Interval must be an integer greater than 0: one second to ten years",
        interval(timedelta(milliseconds=1500)): "Interval must be an integer greater than 0: one second to ten years",
        hourly(minute=60): "Minute of hour must be an integer from 0 to 59",
        daily(hour=24): "Hour of day must be an integer from 0 to 23",
        daily(hour=wrong): "Hour of day must be an integer from 0 to 23",  # type: ignore[arg-type]
        daily(hour=True): "Hour of day must be an integer from 0 to 23",
        weekly(day="Monday", hour=1): 'Day of week must be a string like "monday".',  # type: ignore[arg-type]
        monthly(day=0, hour=1): "Day of month must be an integer from 1 to 31",
        cron("* * * *"): "The cron spec '* * * *' must have five fields: minute hour day month weekday",
        cron("0 * * * * *"): "The cron spec '0 * * * * *' must have five fields: minute hour day month weekday",
        cron("60 * * * *"): 'The cron spec "60 * * * *" is wrong: Bad minute',
        cron("0 0 30 2 *"): 'The cron spec "0 0 30 2 *" will never match any time',
        cron("0 0 31 4,6 *"): 'The cron spec "0 0 31 4,6 *" will never match any time',
        daily(hour=1, timezone="Berlin"): "There is no time zone 'Berlin'; name one of the IANA database, "
        'such as "Europe/Berlin"',
    }
    for schedule, text in texts.items():
        assert schedule.fault == text


def test_names_are_printable_ascii() -> None:
    assert name_fault("send digest (daily) #1!") is None
    assert name_fault("x" * 256) is None
    assert name_fault("x" * 257) == f"Invalid cron identifier '{'x' * 20}'…: use at most 256 characters, not 257"
    for name in ("", "é", "a\n", "\x7f", 3):
        fault = name_fault(name)
        assert fault is not None
        assert fault.startswith("Invalid cron identifier")
