"""The executor at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExecutorStatistics:
    """`running` calls have entered and have not been answered; `in_line` wait for their turn on a contended key."""

    running: int
    in_line: int
    conflicts: int
    serial_runs: int
