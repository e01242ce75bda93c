"""The job of APScheduler's benchmark, in a module that its store can name."""

from __future__ import annotations

from tests.benchmarks.peers.phases import Counter

counter = Counter()


def nothing() -> None:
    counter.add()
