"""`ctx.crons` of a mutation: crons that are rows of the same transaction; see `registry.contexts.CronTable`."""

from __future__ import annotations

from typing import Any

from evolute.database.transaction import Transaction
from evolute.errors import InvalidSchedule
from evolute.execution.arguments import encode_arguments
from evolute.execution.scope import Scope
from evolute.limits import Limits
from evolute.registry.cron_loader import schedule_fault, target_of
from evolute.registry.definition import Function
from evolute.registry.registry import Registry
from evolute.system import crons
from evolute.values.cron_schedule import Schedule, name_fault


class ContextCrons:
    __slots__ = ("_limits", "_registry", "_scope", "_transaction")

    def __init__(self, registry: Registry, transaction: Transaction, limits: Limits, scope: Scope) -> None:
        self._registry = registry
        self._transaction = transaction
        self._limits = limits
        self._scope = scope

    def set(
        self, name: str, schedule: Schedule, function: Function[..., Any] | str, /, *args: object, **kwargs: object
    ) -> None:
        with self._scope:
            fault = schedule_fault(name, schedule)
            if fault is not None:
                raise InvalidSchedule(fault)
            target = target_of(self._registry, name, function)
            arguments = encode_arguments(target, args, kwargs, self._transaction, self._limits)
            crons.set_dynamic(self._transaction, name, schedule, target.path, arguments)

    def remove(self, name: str, /) -> None:
        with self._scope:
            fault = name_fault(name)
            if fault is not None:
                raise InvalidSchedule(fault)
            crons.remove_dynamic(self._transaction, name)
