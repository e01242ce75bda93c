"""What may be scheduled, and for when: the checks that are made where `ctx.scheduler` is called (semantics A2, A3).

The target's kind and its arguments are checked here too, so that a mistake is an error where it was made. They are
checked again when the job runs, because the code may have changed by then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from evolute.clock import NS_PER_MS
from evolute.errors import FunctionNotFound, InvalidSchedule
from evolute.execution.arguments import encode_arguments
from evolute.execution.schedule_options import NO_OPTIONS, Options
from evolute.limits import Limits
from evolute.registry.definition import Function
from evolute.registry.registry import Registry
from evolute.system.jobs import JobOptions
from evolute.values.function_path import canonical_path
from evolute.values.validators import Resolver

YEAR_MS = 366 * 24 * 3600 * 1000
LAST_MS = 253_402_300_799_000  # the end of the year 9999, and of datetime


class Due(NamedTuple):
    """`scheduled_ms` is the time asked for; `due_ns` is None if that has come already."""

    due_ns: int | None
    scheduled_ms: float


class Target(NamedTuple):
    path: str
    arguments: bytes
    options: JobOptions


def due_after(delay: object, now_ns: int, limits: Limits) -> Due:
    """`delay` is milliseconds or a timedelta. Raises InvalidSchedule."""
    if isinstance(delay, timedelta):
        delay = delay / timedelta(milliseconds=1)
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise InvalidSchedule(f"`delay` must be a number of milliseconds or a timedelta, not {delay!r}")
    if isinstance(delay, float) and not math.isfinite(delay):
        raise InvalidSchedule("`delay` must be a finite number")
    if delay < 0:
        raise InvalidSchedule("`delay` must be non-negative")
    return _due(now_ns / NS_PER_MS + min(delay, LAST_MS), now_ns, limits)


def due_at(time: object, now_ns: int, limits: Limits) -> Due:
    """`time` is milliseconds since 1970 or an aware datetime. Raises InvalidSchedule."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise InvalidSchedule(
                f"`time` has no time zone: {time!r}. Use datetime.now(UTC), or .replace(tzinfo=ZoneInfo(…))"
            )
        time = (time - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    if isinstance(time, bool) or not isinstance(time, (int, float)):
        raise InvalidSchedule(f"`time` must be a datetime or milliseconds since 1970, not {time!r}")
    if isinstance(time, float) and not math.isfinite(time):
        raise InvalidSchedule("`time` must be a finite number")
    if time < 0:
        raise InvalidSchedule(f"Invalid arguments for `time`: {time!r} is before 1970")
    return _due(min(time, LAST_MS), now_ns, limits)


def _due(scheduled_ms: float, now_ns: int, limits: Limits) -> Due:
    scheduled_ms = float(min(scheduled_ms, LAST_MS))
    distance_ms = scheduled_ms - now_ns / NS_PER_MS
    if abs(distance_ms) > limits.schedule_ms_max:
        direction = "future" if distance_ms > 0 else "past"
        raise InvalidSchedule(
            f"{_shown(scheduled_ms)} is more than {limits.schedule_ms_max / YEAR_MS:g} years in the {direction}; "
            "the setting is schedule_ms_max"
        )
    due_ns = int(scheduled_ms * NS_PER_MS)
    return Due(due_ns if due_ns > now_ns else None, scheduled_ms)


def _shown(ms: float) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat()


def target_of(
    registry: Registry,
    reference: Function[..., Any] | str,
    positional: tuple[object, ...],
    named: Mapping[str, object],
    resolver: Resolver,
    limits: Limits,
    options: Options = NO_OPTIONS,
) -> Target:
    """Raises InvalidSchedule for what is no mutation or action, ValidationFailed for arguments that do not fit."""
    if not isinstance(reference, (Function, str)):
        raise InvalidSchedule(
            f"{reference!r} is not a function reference: give a decorated function, or 'module:function'"
        )
    try:
        definition = registry.resolve(reference)
    except FunctionNotFound:
        raise InvalidSchedule(_missing_text(registry, reference)) from None
    module, _, name = definition.path.rpartition(":")
    if definition.kind == "query":
        raise InvalidSchedule(
            f"Unsupported function type. {name} in module {module} is defined as a Query. "
            "Only Mutation and Action can be scheduled."
        )
    arguments = encode_arguments(definition, positional, named, resolver, limits)
    return Target(definition.path, arguments, options.of(definition))


def _missing_text(registry: Registry, reference: Function[..., Any] | str) -> str:
    if isinstance(reference, Function):
        return f"Attempted to schedule {reference!r}, which this deployment does not have."
    try:
        module, _, name = canonical_path(reference).rpartition(":")
    except FunctionNotFound:
        return f"{reference!r} is not a function reference: it is written 'module:function'."
    if not any(path.rpartition(":")[0] == module for path in registry.functions):
        return f"Attempted to schedule function at nonexistent path: {module}"
    return (
        f"Attempted to schedule function, but no exported function {name} found in the file: {module}.py. "
        "Did you forget to decorate it?"
    )
