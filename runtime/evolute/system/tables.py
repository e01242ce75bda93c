"""The runtime's own tables. Their numbers are fixed, below those of users' tables, so that their ids can be derived.

_scheduled_functions     jobs                                  jobs.py; `ctx.db.system` shows their public fields
_scheduled_arguments     long arguments of jobs
_scheduler_pauses        what the scheduler is not to start    pauses.py
_admin_keys              hashes of admin keys                  admin_keys.py
_crons                   crons                                 crons.py; so it does these
_cron_runs               the latest runs of each
_deployments             the active deployment                 deployments.py
_deployment_sources      its files

515 was that of `_session_requests` in format 1, and is not given out again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from evolute.clock import random_bytes
from evolute.database.cursor import CURSOR_KEY_BYTES
from evolute.database.transaction import Transaction
from evolute.storage.keyspace import CURSOR_KEY
from evolute.values.schema import IndexDefinition

SCHEDULED: Final = "_scheduled_functions"
SCHEDULED_ARGUMENTS: Final = "_scheduled_arguments"
DEPLOYMENTS: Final = "_deployments"
SOURCES: Final = "_deployment_sources"
PAUSES: Final = "_scheduler_pauses"
ADMIN_KEYS: Final = "_admin_keys"

CRONS: Final = "_crons"
CRON_RUNS: Final = "_cron_runs"

SCHEDULED_NUMBER: Final = 513
SCHEDULED_ARGUMENTS_NUMBER: Final = 514
DEPLOYMENTS_NUMBER: Final = 516
SOURCES_NUMBER: Final = 517
CRONS_NUMBER: Final = 540
CRON_RUNS_NUMBER: Final = 541
PAUSES_NUMBER: Final = 520
ADMIN_KEYS_NUMBER: Final = 521

BY_DUE: Final = "by_due"
BY_COMPLETED: Final = "by_completed"
BY_STATIC: Final = "by_static"
BY_CRON: Final = "by_cron"
BY_MARK: Final = "by_mark"


class SystemTable(NamedTuple):
    """A table of the runtime's."""

    name: str
    number: int
    indexes: tuple[IndexDefinition, ...] = ()


TABLES: Final = (
    SystemTable(
        SCHEDULED,
        SCHEDULED_NUMBER,
        (
            IndexDefinition(BY_DUE, ("_pool", "name", "_due"), sparse=True),
            IndexDefinition(BY_COMPLETED, ("completedTime",), sparse=True),
            IndexDefinition(BY_MARK, ("_mark",), sparse=True),
        ),
    ),
    SystemTable(SCHEDULED_ARGUMENTS, SCHEDULED_ARGUMENTS_NUMBER),
    SystemTable(CRONS, CRONS_NUMBER, (IndexDefinition(BY_DUE, ("_due",)), IndexDefinition(BY_STATIC, ("static",)))),
    SystemTable(CRON_RUNS, CRON_RUNS_NUMBER, (IndexDefinition(BY_CRON, ("name",)),)),
    SystemTable(DEPLOYMENTS, DEPLOYMENTS_NUMBER),
    SystemTable(SOURCES, SOURCES_NUMBER),
    SystemTable(PAUSES, PAUSES_NUMBER),
    SystemTable(ADMIN_KEYS, ADMIN_KEYS_NUMBER),
)


def bootstrap(transaction: Transaction) -> None:
    """Make those that are missing, and the key of cursors: all of it in a new store, nothing in an old one."""
    if transaction.get_raw(CURSOR_KEY) is None:
        transaction.put_raw(CURSOR_KEY, random_bytes(CURSOR_KEY_BYTES))
    for table in TABLES:
        if transaction.table(table.name) is None:
            transaction.create_table(table.name, table.indexes, number=table.number)
