"""Reads what `crons.py` declares, with the functions at hand: every mistake is a line with its file and number.

The same checks serve crons that mutations make while the code runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from evolute.errors import BadRequest, FunctionNotFound, InvalidSchedule
from evolute.registry.crons import CRONS_FILE, CronDefinition, Crons, Registration
from evolute.registry.definition import Function, FunctionDefinition, named_arguments
from evolute.registry.registry import Registry
from evolute.values import wire_codec
from evolute.values.cron_schedule import Schedule, name_fault
from evolute.values.function_path import canonical_path


def schedule_fault(name: object, schedule: object) -> str | None:
    """What is wrong with a cron's name or schedule."""
    fault = name_fault(name)
    if fault is not None:
        return fault
    if not isinstance(schedule, Schedule):
        made = "interval(…), hourly(…), daily(…), weekly(…), monthly(…) or cron(…)"
        return f"The cron job '{name}' has no schedule but {schedule!r}; make one with {made}"
    return None if schedule.fault is None else f"The cron job '{name}': {schedule.fault}"


def target_of(registry: Registry, name: str, reference: object) -> FunctionDefinition:
    """The mutation or action that a cron runs. Raises InvalidSchedule for anything else."""
    if not isinstance(reference, (Function, str)):
        what = f"{reference!r}, which is no function reference: give a decorated function, or 'module:function'"
        raise InvalidSchedule(f"The cron job '{name}' schedules {what}")
    try:
        definition = registry.resolve(reference)
    except FunctionNotFound:
        raise InvalidSchedule(
            f"The cron job '{name}' schedules a function that does not exist: {_shown(reference)}"
        ) from None
    if definition.kind == "query":
        raise InvalidSchedule(
            f"The cron job '{name}' schedules a query function, only actions and mutations can be scheduled: "
            f"{definition.path}"
        )
    return definition


def read(
    modules: Mapping[str, ModuleType],
    registry: Registry,
    broken: Mapping[str, Function[..., Any]],
    faults: list[str],
) -> list[CronDefinition]:
    """The crons of a deployment whose modules, by path, have been imported. What is wrong is added to `faults`.

    `broken` are functions by path whose own faults have been told.
    """
    crons = getattr(modules.get(CRONS_FILE), "crons", None)
    if CRONS_FILE in modules and not isinstance(crons, Crons):
        faults.append(f"{CRONS_FILE}: it has no crons; write `crons = Crons()`")
    faults.extend(_misplaced(modules, crons))
    return read_registrations(crons, registry, broken, faults) if isinstance(crons, Crons) else []


def read_registrations(
    crons: Crons, registry: Registry, broken: Mapping[str, Function[..., Any]], faults: list[str]
) -> list[CronDefinition]:
    """Those that are right; what is wrong with the others is added to `faults`."""
    found: list[CronDefinition] = []
    lines: dict[str, int] = {}
    for registration in crons.registrations:
        where = f"{registration.file}:{registration.line}"
        fault = schedule_fault(registration.name, registration.schedule)
        if fault is not None:
            faults.append(f"{where} {fault}")
        elif registration.name in lines:
            first = f"first in line {lines[registration.name]}"
            faults.append(f"{where} Cron identifier registered twice: {registration.name}, {first}")
        lines.setdefault(registration.name, registration.line)
        if registration.function in (*broken, *broken.values()):
            continue
        try:
            path, arguments = _called(registry, registration)
        except BadRequest as error:
            faults.append(f"{where} {error}")
            continue
        if fault is None:
            schedule = registration.schedule.to_value()
            found.append(
                CronDefinition(registration.name, schedule, path, arguments, registration.file, registration.line)
            )
    return found


def _called(registry: Registry, registration: Registration) -> tuple[str, bytes]:
    definition = target_of(registry, registration.name, registration.function)
    try:
        named = named_arguments(definition, registration.positional, registration.named)
        return definition.path, wire_codec.encode(definition.unbind(named, _UnknownTables()))
    except BadRequest as error:
        text = f"The cron job '{registration.name}' gives {definition.path} wrong arguments: {error}"
        raise InvalidSchedule(text) from None


def _misplaced(modules: Mapping[str, ModuleType], crons: object) -> Iterator[str]:
    for path, module in modules.items():
        for name, value in vars(module).items():
            if isinstance(value, Crons) and value is not crons:
                yield f"{path}: the crons in `{name}` would never run; declare them in {CRONS_FILE}"


def _shown(reference: Function[..., Any] | str) -> str:
    if isinstance(reference, Function):
        return repr(reference)
    try:
        return canonical_path(reference)
    except FunctionNotFound:
        return f"{reference!r} (write 'module:function')"


class _AnyTable(int):
    """The number of a table before there is a store to ask: it differs from none."""

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = int.__eq__
    __hash__ = int.__hash__


class _UnknownTables:
    """Ids that are written in the source are checked when the cron runs."""

    def table_number(self, name: str) -> int:
        return _AnyTable()

    def table_name(self, number: int) -> None:
        return None
