"""The runtime's own tables. Their numbers are fixed, below those of users' tables, so that their ids can be derived.

_scheduled_functions     jobs                   jobs.py; functions read its public fields with `ctx.db.system`
_scheduled_arguments     long arguments of jobs
_deployments             the active deployment                          deployments.py
_deployment_sources      its files

515 was that of `_session_requests` in format 1, and is not given out again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from evolute.database.transaction import Transaction
from evolute.values.schema import IndexDefinition

SCHEDULED: Final = "_scheduled_functions"
SCHEDULED_ARGUMENTS: Final = "_scheduled_arguments"
DEPLOYMENTS: Final = "_deployments"
SOURCES: Final = "_deployment_sources"

SCHEDULED_NUMBER: Final = 513
SCHEDULED_ARGUMENTS_NUMBER: Final = 514
DEPLOYMENTS_NUMBER: Final = 516
SOURCES_NUMBER: Final = 517

BY_DUE: Final = "by_due"
BY_COMPLETED: Final = "by_completed"


class SystemTable(NamedTuple):
    """A table of the runtime's."""

    name: str
    number: int
    indexes: tuple[IndexDefinition, ...] = ()


TABLES: Final = (
    SystemTable(
        SCHEDULED,
        SCHEDULED_NUMBER,
        (IndexDefinition(BY_DUE, ("_due",)), IndexDefinition(BY_COMPLETED, ("completedTime",))),
    ),
    SystemTable(SCHEDULED_ARGUMENTS, SCHEDULED_ARGUMENTS_NUMBER),
    SystemTable(DEPLOYMENTS, DEPLOYMENTS_NUMBER),
    SystemTable(SOURCES, SOURCES_NUMBER),
)


def bootstrap(transaction: Transaction) -> None:
    """Make those that are missing: all of them in a new store, none in an old one."""
    for table in TABLES:
        if transaction.table(table.name) is None:
            transaction.create_table(table.name, table.indexes, number=table.number)
