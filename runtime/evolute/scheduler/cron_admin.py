"""What those who operate the server do with crons: list them with their latest runs, and have one run now."""

from __future__ import annotations

from typing import Any, NamedTuple

from evolute.clock import NS_PER_MS
from evolute.errors import BadRequest
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.system import cron_list, crons
from evolute.system.cron_list import CronPosition, CronRow

Shown = dict[str, Any]


class ShownCrons(NamedTuple):
    """`next` is the `after` of the next page, None after the last."""

    crons: list[Shown]
    next: str | None


class CronAdmin:
    """Lives on the event loop, beside the loop that runs crons."""

    def __init__(self, executor: Executor, limits: Limits) -> None:
        self._executor = executor
        self._limits = limits

    async def find(self, *, after: str | None = None, limit: int) -> ShownCrons:
        """A page of at most `limit` crons, the one that is due first, first. Raises BadRequest."""
        start = None if after is None else CronPosition.of(after)
        limit = min(limit, self._limits.admin_page_rows_max)
        found = await self._executor.run_system(
            lambda transaction: cron_list.page(transaction, after=start, limit=limit)
        )
        following = None if found.value.next is None else str(found.value.next)
        return ShownCrons([self._summary(row) for row in found.value.rows], following)

    async def run_now(self, name: str) -> None:
        """A run more, as soon as there is room for it. Raises BadRequest if there is no such cron, or if it runs."""
        begun = await self._executor.run_system(lambda transaction: crons.run_now(transaction, name))
        if begun.value is None:
            raise BadRequest(f"There is no cron {name!r}.")
        if not begun.value:
            raise BadRequest(f"The cron {name!r} is running, or about to.")

    def _summary(self, row: CronRow) -> Shown:
        cron, run = row
        return {
            "name": cron["name"],
            "function": cron["path"],
            "schedule": dict(cron["schedule"]),
            "static": cron["static"],
            "state": cron["state"]["kind"],
            "nextTime": cron["nextTime"],
            "previousTime": int(cron["_previous"]) / NS_PER_MS if "_previous" in cron else None,
            "lastRun": None if run is None else self._run(run),
        }

    def _run(self, run: dict[str, Any]) -> Shown:
        status = run["status"]
        return {
            "scheduledTime": run["scheduledTime"],
            "endedTime": run["_creationTime"],
            "durationMs": run["executionTime"],
            "state": status["kind"],
            "error": status.get("error"),
        }
