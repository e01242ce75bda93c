"""APScheduler with a durable job store: SQLAlchemy on SQLite."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from tests.benchmarks.peers import apscheduler_job
from tests.benchmarks.peers.phases import Task, measure

WORKERS = 2

logging.disable(logging.WARNING)
task = Task.from_arguments()
scheduler: Any = BackgroundScheduler(
    jobstores={"default": SQLAlchemyJobStore(url=f"sqlite:///{task.folder / 'jobs.db'}")},
    executors={"default": ThreadPoolExecutor(WORKERS)},
    job_defaults={"misfire_grace_time": None},
    timezone=UTC,
)
scheduler.start(paused=True)


def enqueue(count: int) -> None:
    for _ in range(count):
        scheduler.add_job(apscheduler_job.nothing, "date", run_date=datetime.now(UTC))


measure(
    task,
    apscheduler_job.counter,
    enqueue=enqueue,
    start=scheduler.resume,
    settings=f"SQLAlchemy on SQLite, rollback journal, synchronous FULL, {WORKERS} threads; deleted as it starts",
)
os._exit(0)
