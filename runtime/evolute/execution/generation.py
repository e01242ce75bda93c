"""The workers of one deployment."""

from __future__ import annotations

from dataclasses import dataclass, field

from evolute.execution.worker_process import Lane, WorkerProcess
from evolute.registry.registry import RegistryReport
from evolute.system.deployments import Deployment


def _no_workers() -> dict[Lane, list[WorkerProcess]]:
    return {"transaction": [], "action": [], "blocking": []}


@dataclass(eq=False)
class Generation:
    """The workers of one deployment by lane, and what they reported of it.

    `failures` counts the workers that could not be started since one could; `starting` those of the blocking lane that
    are on their way.
    """

    deployment: Deployment
    report: RegistryReport
    workers: dict[Lane, list[WorkerProcess]] = field(default_factory=_no_workers)
    failures: int = 0
    starting: int = 0

    def all_workers(self) -> list[WorkerProcess]:
        return [worker for workers in self.workers.values() for worker in workers]
