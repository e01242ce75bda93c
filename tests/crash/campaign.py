"""The crash campaign: a real server under load is killed again and again, and nothing may be lost or done twice.

    clients ──► mutations, jobs ──► server ──► data folder     every promise that the server made is written down
       ▲                              ✗ SIGKILL                and compared with the data folder in the end
       └── reconnect, send again ──► server ──► …

The clients live through all of it, each with one session. What they send is counted by increments, so that a mutation
that ran twice is seen as well as one that was lost. Scheduled actions leave a line in a file for each run.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolute.clock import SystemClock, monotonic_ns
from evolute.database.database import Database
from evolute.database.transaction import Transaction
from evolute.limits import Limits
from evolute.scheduler.job_runner import INTERRUPTED
from evolute.storage.keyspace import SESSION_RECORDS_RANGE
from evolute.system.tables import SCHEDULED
from evolute_client.async_client import Client
from evolute_client.backoff import Backoff
from tests.end_to_end.server_process import ServerProcess, alive

FUNCTIONS = Path(__file__).parent / "functions_under_crash"
CLIENTS = 4
CALLS_AT_ONCE = 2
GONE_S_MAX = 1.0
ANSWERS_S_MAX = 1.0
TRACE_S_MAX = 1.5
DIES_S_MAX = 30.0
ENDS_S_MAX = 60.0
# What the file may take beyond what is in it: pages that a crash left half used, and the free list.
STORE_FACTOR_MAX = 4
STORE_EXTRA_BYTES = 16 * 1024 * 1024


class Eager(Backoff):
    """Looks for the server again and again, so that the load is there as soon as the server is."""

    def next_s(self) -> float:
        return 0.02


class EagerClient(Client):
    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._backoff = Eager()


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


class Campaign:
    """One data folder, and the clients that live through all the crashes of its servers."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.report = Report()
        self.promises = Promises()
        self._data = folder / "data"
        self._traces = folder / "traces"
        self._port = _free_port()
        self._names = itertools.count()
        self._loading = True
        self._clients: list[Client] = []
        self._seen: set[int] = set()
        self._answered = 0
        self._awaited: tuple[int, asyncio.Event] = (0, asyncio.Event())

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def server(self, failpoint: str | None = None) -> ServerProcess:
        environment = {} if failpoint is None else {"EVOLUTE_FAILPOINT": failpoint}
        return ServerProcess(FUNCTIONS, self._data, command="serve", port=self._port, environment=environment)

    # --- Load ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients at work while the block runs. When it ends, a server must run, and every open call is answered."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                self._clients.append(await stack.enter_async_context(EagerClient(self.address)))
            async with asyncio.TaskGroup() as tasks:
                for number, client in enumerate(self._clients):
                    for _ in range(CALLS_AT_ONCE):
                        tasks.create_task(self._call(client, f"client {number}"))
                watching = tasks.create_task(self._watch_the_total(self._clients[0]))
                yield
                self._loading = False
                watching.cancel()

    async def _call(self, client: Client, name: str) -> None:
        entries = self.promises.entries.setdefault(name, set())
        totals = self.promises.totals.setdefault(name, [])
        while self._loading:
            number, delay_ms = next(self._names), self.chance.choice((0, 0, 10, 100, 500))
            match self.chance.choices(("add", "mutation", "action"), (6, 2, 1))[0]:
                case "add":
                    totals.append(await client.mutation("load:add", client=name, number=number))
                    entries.add(number)
                case "mutation":
                    await client.mutation("load:schedule_mutation", name=f"{name}, {number}", delay_ms=delay_ms)
                    self.promises.tickets.add(f"{name}, {number}")
                case "action":
                    await client.mutation(
                        "load:schedule_action", name=f"{name}, {number}", delay_ms=delay_ms, file=str(self._traces)
                    )
                    self.promises.tickets.add(f"{name}, {number}")
            self._answered += 1
            if self._answered >= self._awaited[0]:
                self._awaited[1].set()

    async def _answers(self, count: int) -> None:
        """Waits for so many answers, but not long: a crash may leave no worker to give them."""
        self._awaited = (self._answered + count, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWERS_S_MAX):
                await self._awaited[1].wait()

    async def _trace(self) -> None:
        """Waits until an action has left a trace, which is a moment before it ends, but not long."""
        before, until_ns = self._traces_bytes(), monotonic_ns() + round(TRACE_S_MAX * 1e9)
        while self._traces_bytes() == before and monotonic_ns() < until_ns:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.005)

    def _traces_bytes(self) -> int:
        return self._traces.stat().st_size if self._traces.exists() else 0

    async def _watch_the_total(self, client: Client) -> None:
        """What has been shown once is never taken back, by no crash."""
        shown = 0
        async for total in client.subscribe("load:total"):
            assert total >= shown, f"the total went back from {shown} to {total}"
            shown = total

    # --- Crashes ---------------------------------------------------------------------------------------------------

    async def crash_at_a_random_moment(self) -> None:
        """Most often while the server serves, sometimes while it starts, sometimes while a function runs for ever."""
        server = self.server()
        spinning: asyncio.Task[Any] | None = None
        try:
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.uniform(0.1, 1.0))
            else:
                await asyncio.to_thread(server.start)
                if self.chance.random() < 0.3:
                    spinning = asyncio.create_task(self._clients[1].query("load:spin"))
                if self.chance.random() < 0.3:
                    await self._trace()
                else:
                    await self._answers(self.chance.randint(0, 60))
                await asyncio.sleep(self.chance.uniform(0.0, 0.02))
            children = self._children(server)
        finally:
            await asyncio.to_thread(server.close)
            if spinning is not None:
                spinning.cancel()
                await asyncio.gather(spinning, return_exceptions=True)
        await self._all_gone(children)
        self.report.kills += 1

    async def crash_at(self, failpoint: str) -> None:
        """Waits until the load brings the server to the failpoint, and so to its end."""
        server = self.server(failpoint)
        children: set[int] = set()
        try:
            async with asyncio.timeout(DIES_S_MAX):
                while server.process.poll() is None:
                    children |= self._children(server)
                    await asyncio.sleep(0.05)
            assert server.process.returncode == -9, f"{failpoint}: exit code {server.process.returncode}"
        finally:
            await asyncio.to_thread(server.close)
        await self._all_gone(children)
        self.report.failpoints.append(failpoint)

    async def grow(self, client: Client, commits: int) -> int:
        """By how many bytes the store grows when a client counts itself so many times."""
        before = self._store_bytes()
        for _ in range(commits):
            await client.mutation("load:add", client="grow", number=next(self._names))
        return self._store_bytes() - before

    def _children(self, server: ServerProcess) -> set[int]:
        children = set(server.children())
        self._seen |= children
        return children

    async def _all_gone(self, pids: set[int]) -> None:
        until_ns = monotonic_ns() + round(GONE_S_MAX * 1e9)
        while left := [pid for pid in pids if alive(pid)]:
            assert monotonic_ns() < until_ns, f"the workers {left} have outlived their server by {GONE_S_MAX} s"
            await asyncio.sleep(0.01)

    # --- The end ---------------------------------------------------------------------------------------------------

    async def wait_jobs_end(self) -> None:
        """Needs a running server. Fails if a job is pending, or in progress, for ever."""
        left: object = None
        try:
            async with asyncio.timeout(ENDS_S_MAX), EagerClient(self.address) as client:
                async for left in client.subscribe("load:unfinished"):
                    if left == 0:
                        return
        except TimeoutError:
            raise AssertionError(f"{left} jobs have not ended after {ENDS_S_MAX} s") from None

    async def verify(self) -> Report:
        """Compares the data folder with the promises. No server may run."""
        database = Database(self._data / "store", SystemClock(), Limits())
        try:
            assert database.check() == []
            with database.snapshot() as snapshot:
                transaction = Transaction(snapshot, limits=Limits(), now_ns=0, seed=b"", writable=False)
                with transaction.uncounted():
                    tables = {
                        name: transaction.query(name).collect() for name in ("totals", "entries", "tickets", SCHEDULED)
                    }
                records = sum(len(value) for _, value in transaction.scan_raw(*SESSION_RECORDS_RANGE))
        finally:
            await database.close()
        self._verify_entries(tables)
        self._verify_jobs(tables)
        report = self.report
        report.processes = len(self._seen)
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
        traces = Counter(self._traces.read_text().splitlines())
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
        return (self._data / "store" / "data.mdb").stat().st_blocks * 512


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
