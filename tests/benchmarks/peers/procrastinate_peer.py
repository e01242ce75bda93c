"""procrastinate on a PostgreSQL of its own, which `--peers` has started; its address is in PROCRASTINATE_DSN."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from procrastinate import App, PsycopgConnector

from tests.benchmarks.peers.phases import Counter, Task, measure

CONCURRENCY = 16

task = Task.from_arguments()
counter = Counter()
dsn = os.environ["PROCRASTINATE_DSN"]
app: Any = App(connector=PsycopgConnector(conninfo=dsn))
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


async def nothing() -> None:
    counter.add()


nothing_task = app.task(name="nothing")(nothing)


def run(coroutine: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


def enqueue(count: int) -> None:
    run(nothing_task.batch_defer_async(*({} for _ in range(count))))


def start() -> None:
    worker = app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False, delete_jobs="never")
    asyncio.run_coroutine_threadsafe(worker, loop)


async def open_app() -> None:
    await app.open_async()
    await app.schema_manager.apply_schema_async()


run(open_app())
measure(
    task,
    counter,
    enqueue=enqueue,
    start=start,
    settings=f"PostgreSQL, synchronous_commit on; enqueued 250 at a time, {CONCURRENCY} at once in one process",
)
os._exit(0)
