"""What the server is told at its start: command line and environment, read once, here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from evolute.limits import Limits, limits_from

DEFAULT_PORT = 3210
FAILPOINT_VARIABLE = "EVOLUTE_FAILPOINT"


@dataclass(frozen=True)
class Config:
    """A server's settings. `development` watches the folder and shows full errors to clients."""

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
