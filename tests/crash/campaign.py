"""The crash campaign: a real server under load is killed again and again, and nothing may be lost or done twice.

    clients ──► mutations, jobs ──► server ──► data folder     every promise that the server made is written down
       ▲                              ✗ SIGKILL                and compared with the data folder in the end
       └── reconnect, send again ──► server ──► …

The clients live through all of it, each with one session. What they send is counted by increments, so that a mutation
that ran twice is seen as well as one that was lost. Scheduled actions leave a line in a file for each run.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolute.scheduler.job_runner import INTERRUPTED
from evolute.storage.keyspace import SESSION_RECORDS_RANGE
from evolute.system.tables import SCHEDULED
from evolute_client.async_client import Client
from tests.crash.crashes import Crashes

FUNCTIONS = Path(__file__).parent / "functions_under_crash"
# What the file may take beyond what is in it: pages that a crash left half used, and the free list.
STORE_FACTOR_MAX = 4
STORE_EXTRA_BYTES = 16 * 1024 * 1024


@dataclass
class Promises:
    """What clients were told. `totals` are the answers of `add`, in the order in which they came."""

    entries: dict[str, set[int]] = field(default_factory=dict)
    totals: dict[str, list[int]] = field(default_factory=dict)
    tickets: set[str] = field(default_factory=set)


@dataclass
class Report:
    """The campaign in numbers."""

    kills: int = 0
    failpoints: list[str] = field(default_factory=list)
    mutations: int = 0
    jobs: Counter[str] = field(default_factory=Counter)
    traces: int = 0
    processes: int = 0
    store_bytes: int = 0
    content_bytes: int = 0

    def __str__(self) -> str:
        jobs = ", ".join(f"{count} {kind}" for kind, count in sorted(self.jobs.items()))
        return (
            f"{self.kills} kills at random moments, {len(self.failpoints)} at failpoints, {self.processes} processes; "
            f"{self.mutations} mutations; jobs: {jobs}; {self.traces} runs of actions; "
            f"the store takes {self.store_bytes} bytes for {self.content_bytes}"
        )


class Campaign(Crashes):
    """The load of mutations, jobs and actions, and what it was promised."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed, FUNCTIONS, spins="load:spin")
        self.report = Report()
        self.promises = Promises()

    # --- Load ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients at work while the block runs. When it ends, a server must run, and every open call is answered."""
        async with self.clients_at_work(self._call) as tasks:
            watching = tasks.create_task(self._watch_the_total(self.clients[0]))
            yield
            watching.cancel()

    async def _call(self, client: Client, name: str) -> None:
        number, delay_ms = next(self.names), self.chance.choice((0, 0, 10, 100, 500))
        match self.chance.choices(("add", "mutation", "action"), (6, 2, 1))[0]:
            case "add":
                total = await client.mutation("load:add", client=name, number=number)
                self.promises.totals.setdefault(name, []).append(total)
                self.promises.entries.setdefault(name, set()).add(number)
            case "mutation":
                await client.mutation("load:schedule_mutation", name=f"{name}, {number}", delay_ms=delay_ms)
                self.promises.tickets.add(f"{name}, {number}")
            case "action":
                await client.mutation(
                    "load:schedule_action", name=f"{name}, {number}", delay_ms=delay_ms, file=str(self.traces)
                )
                self.promises.tickets.add(f"{name}, {number}")

    async def _watch_the_total(self, client: Client) -> None:
        """What has been shown once is never taken back, by no crash."""
        shown = 0
        async for total in client.subscribe("load:total"):
            assert total >= shown, f"the total went back from {shown} to {total}"
            shown = total

    async def grow(self, client: Client, commits: int) -> int:
        """By how many bytes the store grows when a client counts itself so many times."""
        before = self._store_bytes()
        for _ in range(commits):
            await client.mutation("load:add", client="grow", number=next(self.names))
        return self._store_bytes() - before

    # --- The end ---------------------------------------------------------------------------------------------------

    async def verify(self) -> Report:
        """Compares the data folder with the promises. No server may run."""
        async with self.stored() as transaction:
            tables = {name: transaction.query(name).collect() for name in ("totals", "entries", "tickets", SCHEDULED)}
            records = sum(len(value) for _, value in transaction.scan_raw(*SESSION_RECORDS_RANGE))
        self._verify_entries(tables)
        self._verify_jobs(tables)
        report = self.report
        report.processes = len(self.seen)
        report.store_bytes = self._store_bytes()
        report.content_bytes = records + sum(len(repr(row)) for rows in tables.values() for row in rows)
        assert report.store_bytes < STORE_FACTOR_MAX * report.content_bytes + STORE_EXTRA_BYTES, str(report)
        return report

    def _verify_entries(self, tables: Mapping[str, list[dict[str, Any]]]) -> None:
        """Every mutation that was acknowledged is there, and every increment has happened once."""
        entries = Counter((row["client"], row["number"]) for row in tables["entries"])
        totals = {row["client"]: row["total"] for row in tables["totals"]}
        assert set(entries.values()) <= {1}, [entry for entry, count in entries.items() if count > 1]
        for client, acknowledged in self.promises.entries.items():
            written = {number for name, number in entries if name == client}
            assert written == acknowledged, written ^ acknowledged
            assert totals.get(client, 0) == len(acknowledged)
            assert sorted(self.promises.totals[client]) == list(range(1, len(acknowledged) + 1)), client
        assert totals.get("everyone", 0) == len(entries)
        self.report.mutations = len(entries) + len(self.promises.tickets)

    def _verify_jobs(self, tables: Mapping[str, list[dict[str, Any]]]) -> None:
        """Mutations ran once, actions at most once, and all of them have ended."""
        traces = Counter(self.traces.read_text().splitlines())
        jobs = {row["_id"]: row["state"] for row in tables[SCHEDULED]}
        tickets = {row["name"]: row for row in tables["tickets"]}
        assert set(tickets) == self.promises.tickets
        assert set(jobs) == {ticket["job"] for ticket in tickets.values()}
        for name, ticket in tickets.items():
            state, runs, ran = jobs[ticket["job"]], ticket["runs"], traces[name]
            self.report.jobs[f"{ticket['kind']} {state['kind']}"] += 1
            seen = f"{name}: {ticket}, {state}, {ran} traces"
            if ticket["kind"] == "mutation":
                assert (state["kind"], runs) == ("success", 1), seen
            elif state["kind"] == "success":
                assert (runs, ran) == (1, 1), seen
            else:
                assert state == {"kind": "failed", "error": INTERRUPTED}, seen
                assert runs <= ran <= 1, seen
        self.report.traces = traces.total()

    def _store_bytes(self) -> int:
        return (self.data / "store" / "data.mdb").stat().st_blocks * 512
