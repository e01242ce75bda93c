"""The pool at one moment."""

from __future__ import annotations

from dataclasses import dataclass


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
