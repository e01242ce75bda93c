"""How long each stage takes of what a client waits for: histograms that cost next to nothing, and are always on.

    mutation   line ──► queue ──► run ──► validate ──► batch ──► sync ──► publish
    query                queue ──► run                                     publish ──► push

    line       its turn on a contended key, in a narrow function or to run serially; only if there was one to wait for
    queue      from being asked for until its outcome is there, without the run: for a worker, behind what was sent
               ahead to that, and on the way
    run        in the worker, from its snapshot to its outcome
    validate   from its arrival at the committer until it is pending; longer if a serial turn holds it
    batch      pending, until its batch is given to the writer: because another is with the disk, or waits for more
    sync       of the batch: put, committed and synced by the writer thread
    publish    from there until all are told, on the event loop
    push       from there, or from whatever else makes a session begin a Transition, until its frame has been written

What a mutation takes is about the sum of its stages, once for each attempt. A stage whose time is that of a whole batch
is counted once for each commit in it, so counts can be compared. The times are of the monotonic clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from evolute.clock import NS_PER_S, monotonic_ns

BOUNDS_US: Final = (
    *(10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 10_000_000),
)
_BOUNDS_NS: Final = tuple(bound * 1000 for bound in BOUNDS_US)


@dataclass(frozen=True)
class StageDurations:
    """One stage since the start. `counts[i]` took at most `BOUNDS_US[i]` and longer than those before it; the last of
    them took longer than any bound."""

    counts: tuple[int, ...]
    total_s: float


class Durations:
    """A histogram that is added to. For one thread only."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS_NS) + 1)
        self.total_ns = 0

    def add(self, duration_ns: int, count: int = 1) -> None:
        self.counts[bisect_left(_BOUNDS_NS, duration_ns)] += count
        self.total_ns += duration_ns * count

    def add_all(self, durations_ns: Sequence[int]) -> None:
        counts = self.counts
        for duration_ns in durations_ns:
            counts[bisect_left(_BOUNDS_NS, duration_ns)] += 1
        self.total_ns += sum(durations_ns)

    def statistics(self) -> StageDurations:
        return StageDurations(tuple(self.counts), self.total_ns / NS_PER_S)


class Timed(Protocol):
    """A commit on its way."""

    arrived_ns: int
    validated_ns: int


class Stages:
    """For the event loop's thread."""

    def __init__(self) -> None:
        self.line = Durations()
        self.queue = {"mutation": Durations(), "queries": Durations()}
        self.run = {"mutation": Durations(), "queries": Durations()}
        self.validate = Durations()
        self.batch = Durations()
        self.sync = Durations()
        self.publish = Durations()
        self.push = Durations()

    def note_run(self, kind: str, asked_ns: int, answered_ns: int, busy_ns: int) -> None:
        """A transaction worker has answered, and was busy with it for so long."""
        self.run[kind].add(busy_ns)
        self.queue[kind].add(answered_ns - asked_ns - busy_ns)

    def note_published(self, commits: Sequence[Timed], begun_ns: int, written_ns: int) -> None:
        """Everybody has been told of a batch that the writer was given, and had written, at these times."""
        self.validate.add_all([commit.validated_ns - commit.arrived_ns for commit in commits])
        self.batch.add_all([begun_ns - commit.validated_ns for commit in commits])
        self.sync.add(written_ns - begun_ns, len(commits))
        self.publish.add(monotonic_ns() - written_ns, len(commits))

    def statistics(self) -> Mapping[tuple[str, str], StageDurations]:
        """By kind and stage, in the order in which they are passed through."""
        kept = {
            ("mutation", "line"): self.line,
            ("mutation", "queue"): self.queue["mutation"],
            ("mutation", "run"): self.run["mutation"],
            ("mutation", "validate"): self.validate,
            ("mutation", "batch"): self.batch,
            ("mutation", "sync"): self.sync,
            ("mutation", "publish"): self.publish,
            ("query", "queue"): self.queue["queries"],
            ("query", "run"): self.run["queries"],
            ("query", "push"): self.push,
        }
        return {names: durations.statistics() for names, durations in kept.items()}
