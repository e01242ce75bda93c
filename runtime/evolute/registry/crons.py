"""The crons that an author declares in `crons.py`, and what the loader makes of them.

crons = Crons()
crons.add("digest", daily(hour=8, timezone="Europe/Berlin"), digest.write, limit=100)
     │ Registration         schedule, function and arguments as written, with file and line
cron_loader.read()          at load: everything is checked, all mistakes are told at once
     │ CronDefinition       plain data: the server learns it with the functions
activation                  the deployment's own transaction brings the table of crons up to it
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, overload

from evolute.registry.definition import Function, SchedulableFunction
from evolute.values.cron_schedule import Schedule

P = ParamSpec("P")

CRONS_FILE: Final = "crons.py"


@dataclass(frozen=True, slots=True)
class Registration:
    """One `crons.add`, as it was written."""

    name: str
    schedule: Schedule
    function: Function[..., Any] | str
    positional: tuple[object, ...]
    named: Mapping[str, object]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class CronDefinition:
    """A cron whose schedule, function and arguments fit. `arguments` is the canonical JSON of one object."""

    name: str
    schedule: Mapping[str, Any]
    path: str
    arguments: bytes
    file: str
    line: int


class Crons:
    """The crons of a deployment: `crons = Crons()` in the file crons.py of the functions folder.

    They begin when the code is deployed and end when it no longer names them. One whose schedule is as it was keeps its
    cadence. Crons that come and go with data are made by mutations, with `ctx.crons`.
    """

    def __init__(self) -> None:
        self._registrations: list[Registration] = []

    @overload
    def add(
        self,
        name: str,
        schedule: Schedule,
        function: SchedulableFunction[P, object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    def add(self, name: str, schedule: Schedule, function: str, /, **args: object) -> None: ...
    def add(self, name: str, schedule: Schedule, function: Any, /, *args: Any, **kwargs: Any) -> None:
        """Runs the mutation or action with these arguments whenever the schedule says so, as nobody in particular.

        Runs of one cron never overlap. What is wrong with it is told when the folder is loaded (semantics B1).
        """
        caller = sys._getframe(1)
        self._registrations.append(
            Registration(name, schedule, function, args, kwargs, caller.f_code.co_filename, caller.f_lineno)
        )

    @property
    def registrations(self) -> tuple[Registration, ...]:
        return tuple(self._registrations)
