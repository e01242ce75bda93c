"""What every peer is measured by, in the process of the peer: so many jobs that do nothing, enqueued and executed.

    enqueue all, nobody works ──► enqueued jobs/s
    the workers start         ──► drained jobs/s
    enqueue all once more, the workers run meanwhile ──► enqueued and drained jobs/s

It knows the standard library only, because it runs with the interpreter of the peer's own environment. A phase that
takes too long is cut off, and its figure is of what was done by then.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ENQUEUED_AT_ONCE_MAX = 250
POLL_S = 0.01


@dataclass(frozen=True)
class Task:
    """What the command line asks for."""

    folder: Path
    jobs: int
    phase_s_max: float

    @classmethod
    def from_arguments(cls) -> Task:
        folder, jobs, phase_s_max = sys.argv[1:]
        return cls(Path(folder), int(jobs), float(phase_s_max))


class Counter:
    """How many jobs have been executed. Adding one is atomic enough: the interpreter's lock is held."""

    def __init__(self) -> None:
        self._done: list[None] = []

    def add(self) -> None:
        self._done.append(None)

    @property
    def count(self) -> int:
        return len(self._done)


def measure(
    task: Task,
    counter: Counter,
    *,
    enqueue: Callable[[int], object],
    start: Callable[[], object] | None,
    settings: str,
) -> None:
    """Prints the figures as one JSON object. `enqueue(n)` enqueues n jobs; `start` lets the workers work.

    Without `start` they work from the beginning, and only both together can be measured.
    """
    if start is None:
        begun_s = time.perf_counter()
        _wait(task, counter, _enqueue(task, enqueue))
        both_s = time.perf_counter() - begun_s
        figures: dict[str, object] = {"enqueued and drained jobs/s": counter.count / both_s}
        figures["executed"] = f"{counter.count} of {task.jobs}"
        print(json.dumps({**figures, "settings": settings}))
        return
    begun_s = time.perf_counter()
    enqueued = _enqueue(task, enqueue)
    enqueued_s = time.perf_counter() - begun_s

    begun_s = time.perf_counter()
    start()
    _wait(task, counter, enqueued)
    drained, drained_s = counter.count, time.perf_counter() - begun_s

    figures = {"enqueued jobs/s": enqueued / enqueued_s, "drained jobs/s": drained / drained_s}
    if drained == enqueued == task.jobs:
        begun_s = time.perf_counter()
        enqueued += _enqueue(task, enqueue)
        _wait(task, counter, enqueued)
        both = counter.count - drained
        figures["enqueued and drained jobs/s"] = both / (time.perf_counter() - begun_s)
    else:  # a worker that is behind would be measured with the old jobs
        figures["enqueued and drained jobs/s"] = drained / (enqueued_s + drained_s)
    figures["executed"] = f"{counter.count} of {2 * task.jobs}"
    print(json.dumps({**figures, "settings": settings}))
    sys.stdout.flush()


def _enqueue(task: Task, enqueue: Callable[[int], object]) -> int:
    until_s, enqueued = time.perf_counter() + task.phase_s_max, 0
    while enqueued < task.jobs and time.perf_counter() < until_s:
        count = min(ENQUEUED_AT_ONCE_MAX, task.jobs - enqueued)
        enqueue(count)
        enqueued += count
    return enqueued


def _wait(task: Task, counter: Counter, count: int) -> None:
    until_s = time.perf_counter() + task.phase_s_max
    while counter.count < count and time.perf_counter() < until_s:
        time.sleep(POLL_S)
