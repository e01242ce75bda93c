"""What the server is told at its start: command line and environment, read once, here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from evolute.limits import Limits, limits_from

DEFAULT_PORT = 3210
FAILPOINT_VARIABLE = "EVOLUTE_FAILPOINT"
SERVER_READERS = 8  # the server's own snapshots at one time, and then some


@dataclass(frozen=True)
class Config:
    """A server's settings. `development` watches the folder and shows full errors to clients.

    Raises ValueError for settings that do not fit each other.
    """

    functions_folder: Path
    data_folder: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 2
    action_workers: int = 1
    development: bool = True
    redact_errors: bool = False
    limits: Limits = field(default_factory=Limits)
    failpoint: str | None = None
    static_folder: Path | None = None

    def __post_init__(self) -> None:
        needed = self.workers + self.action_workers + SERVER_READERS
        if self.limits.readers_max < needed:
            raise ValueError(
                f"readers_max must be at least {needed} with {self.workers} workers and {self.action_workers} action "
                f"workers, because each of them reads the store; it is {self.limits.readers_max}"
            )


def limits_from_environment() -> Limits:
    """Raises ValueError naming the variable that is wrong."""
    return limits_from(os.environ)


def failpoint_from_environment() -> str | None:
    """`name` or `name:hits`; see `failpoints`."""
    return os.environ.get(FAILPOINT_VARIABLE)


def worker_environment() -> dict[str, str]:
    """The environment of a worker: the server's, with one hash seed for all workers.

    A query that returns `list(set(…))` must not differ from worker to worker.
    """
    return {**os.environ, "PYTHONHASHSEED": "0"}
