"""DBOS with its system database in SQLite: a durable queue of workflows that do nothing."""

from __future__ import annotations

import os
from typing import Any

from dbos import DBOS

from tests.benchmarks.peers.phases import Counter, Task, measure

task = Task.from_arguments()
counter = Counter()
DBOS(
    config={
        "name": "benchmark",
        "system_database_url": f"sqlite:///{task.folder / 'dbos.db'}",
        "log_level": "ERROR",
        "console_log_level": "ERROR",
        "run_migrations": True,
    }
)


def nothing() -> None:
    counter.add()


workflow: Any = DBOS.workflow()(nothing)
DBOS.launch()
queue: Any = DBOS.register_queue("jobs", polling_interval_sec=0.05)


def enqueue(count: int) -> None:
    for _ in range(count):
        queue.enqueue(workflow)


measure(
    task,
    counter,
    enqueue=enqueue,
    start=None,
    settings="SQLite as DBOS sets it up; each workflow and its steps are recorded; polls every 50 ms",
)
os._exit(0)
