"""Which worker a request goes to: the one with the least to do, or the one whose runs see each other's writes."""

from __future__ import annotations

from collections.abc import Iterable

from evolute.execution.worker_process import WorkerProcess


def least_busy(workers: Iterable[WorkerProcess], *, nested: bool = False) -> WorkerProcess | None:
    """None if none of them can take a request. What is `nested` uses a slot that is held already, so what is held says
    nothing about where to run it."""
    best, least = None, 0
    for worker in workers:
        if worker.ready and not worker.retired and (nested or worker.has_room):
            load = len(worker.pending) + (0 if nested else worker.rooms)
            if best is None or load < least:
                best, least = worker, load
    return best


class ChainChoice:
    """What is to see all that is pending goes to one worker for as long as that takes it: its runs form a chain."""

    def __init__(self) -> None:
        self._current: WorkerProcess | None = None

    def of(self, workers: list[WorkerProcess]) -> WorkerProcess | None:
        current = self._current
        if current in workers and current.ready and not current.retired and current.has_room:
            return current
        self._current = least_busy(workers)
        return self._current
