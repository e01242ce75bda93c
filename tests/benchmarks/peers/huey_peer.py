"""huey on SQLite, with its consumer's threads in this process."""

from __future__ import annotations

import os
import threading
from typing import Any

from huey import SqliteHuey

from tests.benchmarks.peers.phases import Counter, Task, measure

WORKERS = 2

task = Task.from_arguments()
counter = Counter()
huey: Any = SqliteHuey(filename=str(task.folder / "huey.db"), fsync=True, journal_mode="wal", results=False)


def nothing() -> None:
    counter.add()


nothing_task = huey.task()(nothing)


def enqueue(count: int) -> None:
    for _ in range(count):
        nothing_task()


def start() -> None:
    consumer = huey.create_consumer(workers=WORKERS, worker_type="thread", periodic=False, initial_delay=0.01)
    consumer._set_signal_handlers = lambda: None  # it does not run on the main thread
    threading.Thread(target=consumer.run, daemon=True).start()


measure(
    task,
    counter,
    enqueue=enqueue,
    start=start,
    settings=f"SQLite, WAL, fsync=True (synchronous FULL), {WORKERS} threads; a job is taken off before it runs",
)
os._exit(0)
