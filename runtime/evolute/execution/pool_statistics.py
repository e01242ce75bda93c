"""The pool at one moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from evolute.execution.worker_process import WorkerProcess


@dataclass(frozen=True)
class PoolStatistics:
    """`queued` requests have no worker yet; `running` ones have been sent to one."""

    deployment: str | None
    transaction_workers: int
    action_workers: int
    blocking_workers: int
    queued: int
    running: int
    deaths: int
    pids: tuple[int, ...]


def statistics_of(
    deployment: str | None, workers: Collection[WorkerProcess], *, queued: int, deaths: int
) -> PoolStatistics:
    return PoolStatistics(
        deployment=deployment,
        transaction_workers=sum(worker.lane == "transaction" for worker in workers),
        action_workers=sum(worker.lane == "action" for worker in workers),
        blocking_workers=sum(worker.lane == "blocking" for worker in workers),
        queued=queued,
        running=sum(len(worker.pending) for worker in workers),
        deaths=deaths,
        pids=tuple(worker.pid for worker in workers if worker.pid is not None),
    )
