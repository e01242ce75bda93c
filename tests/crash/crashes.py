"""What every crash campaign does: clients live through the deaths of one server after the other on one data folder.

    clients ──► load ──► server ──► data folder
       ▲                  ✗ SIGKILL, at a random moment or at a failpoint
       └── reconnect ──► server ──► …             none of its processes outlives it by more than `GONE_S_MAX`

`Crashes` owns the servers, the clients and the chance; what the load is, and what is promised, a campaign says.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from evolute.clock import SystemClock, monotonic_ns
from evolute.config import FAILPOINT_VARIABLE
from evolute.database.database import Database
from evolute.database.transaction import Transaction
from evolute.limits import Limits
from evolute.system.check import faults
from evolute_client.async_client import Client
from tests.end_to_end.server_process import ServerProcess, alive

CLIENTS = 4
CALLS_AT_ONCE = 2
GONE_S_MAX = 1.0
ANSWERS_S_MAX = 1.0
TRACE_S_MAX = 1.5
DIES_S_MAX = 30.0
ENDS_S_MAX = 60.0
UNTIL_KILLED_S_MAX = 0.2


class EagerClient(Client):
    """Looks for the server again and again, so that the load is there as soon as the server is."""

    def __init__(self, address: str) -> None:
        super().__init__(address, sleep=soon)


async def soon(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.02))


class Crashes:
    """One data folder in `folder`, its servers, and the clients that live through all of their crashes.

    `spins` is the path of a query that never returns. `stops`: some servers are asked to stop before they are killed,
    and `robs`: some lose a worker before.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        functions: Path,
        *,
        spins: str | None = None,
        stops: bool = False,
        robs: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.data = folder / "data"
        self.traces = folder / "traces"
        self.names = itertools.count()
        self.seen: set[int] = set()  # the processes of the servers
        self.robbed: set[int] = set()  # the servers that have lost a worker
        self.clients: list[Client] = []
        self.loading = True
        self._functions = functions
        self._spins = spins
        self._stops = stops
        self._robs = robs
        self._environment = dict(environment or {})
        self._port = _free_port()
        self._answered = 0
        self._awaited: tuple[int, asyncio.Event] = (0, asyncio.Event())

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def server(self, failpoint: str | None = None) -> ServerProcess:
        environment = self._environment | ({} if failpoint is None else {FAILPOINT_VARIABLE: failpoint})
        return ServerProcess(self._functions, self.data, command="serve", port=self._port, environment=environment)

    # --- Load ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def clients_at_work(self, call: Callable[[Client, str], Awaitable[None]]) -> AsyncIterator[asyncio.TaskGroup]:
        """Clients that `call` while the block runs. At its end a server must run, and every open call is answered."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                self.clients.append(await stack.enter_async_context(EagerClient(self.address)))
            async with asyncio.TaskGroup() as tasks:
                for number, client in enumerate(self.clients):
                    for _ in range(CALLS_AT_ONCE):
                        tasks.create_task(self._work(call, client, f"client {number}"))
                yield tasks
                self.loading = False

    async def _work(self, call: Callable[[Client, str], Awaitable[None]], client: Client, name: str) -> None:
        while self.loading:
            await call(client, name)
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
        return self.traces.stat().st_size if self.traces.exists() else 0

    # --- Crashes ---------------------------------------------------------------------------------------------------

    async def crash_at_a_random_moment(self) -> None:
        """Most often while the server serves, sometimes while it starts or stops, or a function runs for ever."""
        server = self.server()
        spinning: asyncio.Task[Any] | None = None
        try:
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.uniform(0.1, 1.0))
            else:
                await asyncio.to_thread(server.start)
                if self._spins is not None and self.chance.random() < 0.3:
                    spinning = asyncio.create_task(self.clients[1].query(self._spins))
                if self.chance.random() < 0.3:
                    await self._trace()
                else:
                    await self._answers(self.chance.randint(0, 60))
                await asyncio.sleep(self.chance.uniform(0.0, 0.02))
            children = self._children(server)
            if self._robs and children and self.chance.random() < 0.3:
                self.robbed.add(server.process.pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.chance.choice(sorted(children)), signal.SIGKILL)
                await self._answers(self.chance.randint(0, 30))
                children |= self._children(server)
            if self._stops and self.chance.random() < 0.2:
                server.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(self.chance.uniform(0.0, UNTIL_KILLED_S_MAX))
        finally:
            await asyncio.to_thread(server.close)
            if spinning is not None:
                spinning.cancel()
                await asyncio.gather(spinning, return_exceptions=True)
        await self._all_gone(children)

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
        except TimeoutError:
            raise AssertionError(f"{failpoint} was not reached in {DIES_S_MAX} s:\n{server.output[-5000:]}") from None
        finally:
            await asyncio.to_thread(server.close)
        await self._all_gone(children)

    def _children(self, server: ServerProcess) -> set[int]:
        children = set(server.children())
        self.seen |= children
        return children

    async def _all_gone(self, pids: set[int]) -> None:
        until_ns = monotonic_ns() + round(GONE_S_MAX * 1e9)
        while left := [pid for pid in pids if alive(pid)]:
            assert monotonic_ns() < until_ns, f"the workers {left} have outlived their server by {GONE_S_MAX} s"
            await asyncio.sleep(0.01)

    # --- The end ---------------------------------------------------------------------------------------------------

    async def wait_jobs_end(self, unfinished: str) -> None:
        """Until the query of that path says 0, on a running server: no job is pending or in progress for ever."""
        left: object = None
        try:
            async with asyncio.timeout(ENDS_S_MAX), EagerClient(self.address) as client:
                async for left in client.subscribe(unfinished):
                    if left == 0:
                        return
        except TimeoutError:
            raise AssertionError(f"{left} jobs have not ended after {ENDS_S_MAX} s") from None

    @contextlib.asynccontextmanager
    async def stored(self) -> AsyncIterator[Transaction]:
        """What the data folder holds, in one snapshot, when it has been found sound. No server may run."""
        database = Database(self.data / "store", SystemClock(), Limits())
        try:
            assert database.check(faults) == []
            with database.snapshot() as snapshot:
                transaction = Transaction(snapshot, limits=Limits(), now_ns=0, seed=b"", writable=False)
                with transaction.uncounted():
                    yield transaction
        finally:
            await database.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
