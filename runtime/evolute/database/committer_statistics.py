"""What the committer has done and has to do, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CommitterStatistics:
    """The committer since its start, and what is under way."""

    commits: int
    conflicts: int
    batches: int
    """Batches that became durable; `commits / batches` is what group commit saves."""
    failed_batches: int
    withdrawn: int
    """Transactions that had seen a commit which the disk refused, and were run again."""
    queue_length: int
    """Commits under way: held, pending or being written; bounded by `commit_queue_length_max`."""
    queue_bytes: int
    held: int
    """Of these the ones that wait for a serial turn to end."""
