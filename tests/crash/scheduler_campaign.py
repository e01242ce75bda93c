"""The scheduler's crash campaign: whatever can be scheduled is, while server after server is killed.

    clients ──► ask for a job, with a ticket ──► server ──► runs: in the database, and as lines of a file
       ▲    └──► cancel one, change a cron      ✗ SIGKILL
       └── reconnect, send again ──► server ──► …              `scheduler_ledger` compares it all in the end

A ticket is written in the transaction that schedules, so every promise can be held against what became of its job.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from evolute import failpoints
from evolute.system.tables import CRON_RUNS, SCHEDULED
from evolute_client.async_client import Client
from tests.crash.crashes import Crashes
from tests.crash.scheduler_ledger import Ledger

FUNCTIONS = Path(__file__).parent / "functions_under_scheduling"
# Everything is kept until it has been counted.
ENVIRONMENT = {
    "EVOLUTE_CRON_RUNS_KEPT_MAX": "1000000",
    "EVOLUTE_COMPLETED_JOBS_MAX": "10000000",
    "EVOLUTE_DOCUMENTS_READ_MAX": "10000000",
    "EVOLUTE_BYTES_READ_MAX": "1000000000",
    "EVOLUTE_BLOCKING_WORKERS_MAX": "4",
}
# What clients ask for, and how often.
WORK = {"tick": 8, "fail": 1, "act": 3, "block": 1, "insist": 2, "spawn": 1, "kill": 0.05}
WITH_FILE = ("act", "block", "insist", "spawn")
CANCELED = 0.12
CRON_CHANGED = 0.02
DELAYS_MS = (0.0, 0.0, 10.0, 100.0, 500.0)
KEYS = 3
# What brings a server to these failpoints sooner, and how many times it may pass.
SOUGHT = {
    failpoints.AFTER_PUT_OFF: "insist",
    failpoints.AFTER_DEATH: "kill",
    failpoints.AFTER_IN_PROGRESS: "act",
    failpoints.AFTER_ACTION_EFFECT: "spawn",
}
HITS_MAX = {failpoints.AFTER_DEATH: 3, failpoints.AFTER_CRON_END: 4, failpoints.AFTER_COMPLETION_FAILED: 4}
HITS_MAX_SOUGHT = 8
HITS_MAX_DEFAULT = 40


class SchedulerCampaign(Crashes):
    """The load, and what clients were told. `tickets` are the names of the jobs whose asking was answered."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed, FUNCTIONS, spins="tickets:spin", stops=True, robs=True, environment=ENVIRONMENT)
        self.kills: Counter[str] = Counter()
        self.tickets: set[str] = set()
        self.canceled: set[str] = set()
        self._sought: str | None = None
        self._latest: dict[str, deque[str]] = {}

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients at work while the block runs. When it ends, a server must run, and every open call is answered."""
        async with self.clients_at_work(self._call) as tasks:
            beginning = tasks.create_task(self.clients[0].mutation("tickets:begin", file=str(self.traces)))
            yield
            await beginning

    async def crash(self, failpoint: str | None) -> None:
        """At the failpoint, or without one at a random moment."""
        if failpoint is None:
            await self.crash_at_a_random_moment()
        else:
            self._sought = SOUGHT.get(failpoint)
            most = HITS_MAX.get(failpoint, HITS_MAX_DEFAULT if self._sought is None else HITS_MAX_SOUGHT)
            await self.crash_at(f"{failpoint}:{self.chance.randint(1, most)}")
            self._sought = None
        self.kills[failpoint or "at random"] += 1

    async def _call(self, client: Client, name: str) -> None:
        latest = self._latest.setdefault(name, deque(maxlen=8))
        luck = self.chance.random()
        if luck < CRON_CHANGED:
            await client.mutation("tickets:change_cron", seconds=self.chance.randint(1, 2))
        elif luck < CRON_CHANGED + CANCELED and latest:
            ticket = self.chance.choice(latest)
            await client.mutation("tickets:cancel", name=ticket)
            self.canceled.add(ticket)
        else:
            ticket = f"{name}, {next(self.names)}"
            await client.mutation("tickets:ask", name=ticket, **self._some_job())
            self.tickets.add(ticket)
            latest.append(ticket)

    def _some_job(self) -> dict[str, Any]:
        chance = self.chance
        what = chance.choices(list(WORK), list(WORK.values()))[0]
        if self._sought is not None and chance.random() < 0.3:
            what = self._sought
        job: dict[str, Any] = {"what": what, "delay_ms": chance.choice(DELAYS_MS)}
        if what in WITH_FILE:
            job["file"] = str(self.traces)
        if what == "tick" and chance.random() < 0.4:
            job |= {"key": f"key {chance.randrange(KEYS)}", "replaces": chance.random() < 0.5}
        if chance.random() < 0.3:
            job["pool"] = chance.choice(("narrow", "slow"))
        if chance.random() < 0.6:
            job["completion"] = chance.choice(("told", "told", "told_badly"))
        return job

    async def verify(self) -> Ledger:
        """Compares the data folder and the traces with what was promised. No server may run."""
        async with self.stored() as transaction:
            names = ("tickets", "told", "counts", SCHEDULED, CRON_RUNS)
            tables = {name: transaction.query(name).collect() for name in names}
        ledger = Ledger(tables, self.traces.read_text().splitlines(), self.robbed)
        ledger.verify(self.tickets, self.canceled)
        return ledger
