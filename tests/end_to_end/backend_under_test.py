"""A backend with real worker processes in the test's own event loop, which can so look at every part of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evolute.backend import Backend
from evolute.clock import monotonic_ns
from evolute.config import Config
from evolute.execution.request import CallError, Outcome
from evolute.limits import Limits
from evolute.system.check import faults
from tests.end_to_end.server_process import alive
from tests.unit.function_store import call, write_folder

WAIT_S_MAX = 20.0
# Short enough for a test to wait for, long enough for a machine that is busy with other tests.
QUICK = Limits(
    query_user_ms_max=500,
    mutation_user_ms_max=500,
    action_ms_max=2000,
    action_block_ms_max=400,
    system_ms_max=1500,
    kill_grace_ms=100,
)


class Deaths:
    """A pipe of lives to take: whoever reads a byte from `path` is to die. Reading is no side effect."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        os.write(self._fd, b"x" * count)

    def close(self) -> None:
        os.close(self._fd)


# For functions under test: `dies(path)` ends the process if there is a life to take.
DIES = """
import os

def dies(path: str) -> None:
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if os.read(pipe, 1):
            os._exit(3)
    except BlockingIOError:
        pass
    finally:
        os.close(pipe)
"""


class BackendUnderTest:
    """Serves `sources` (file name to text) from `folder` while the block runs. Its workers end with it."""

    def __init__(
        self, folder: Path, sources: Mapping[str, str], limits: Limits = QUICK, *, workers: int = 2, actions: int = 1
    ) -> None:
        self.functions = write_folder(folder / "functions", dict(sources))
        config = Config(self.functions, folder / "data", workers=workers, action_workers=actions, limits=limits)
        self.backend = Backend(config)

    @property
    def pids(self) -> tuple[int, ...]:
        return self.backend.pool.statistics().pids

    async def query(self, path: str, **arguments: object) -> Any:
        return opened(await self.backend.executor.query(call(path, "query", **arguments)))

    async def mutate(self, path: str, **arguments: object) -> Any:
        return opened(await self.backend.executor.mutate(call(path, "mutation", **arguments)))

    async def act(self, path: str, **arguments: object) -> Any:
        return opened(await self.backend.executor.act(call(path, "action", **arguments)))

    async def error(self, path: str, kind: str, **arguments: object) -> CallError:
        """Why the call failed. Fails the test if it did not."""
        executor = self.backend.executor
        enter = {"query": executor.query, "mutation": executor.mutate, "action": executor.act}[kind]
        outcome: Outcome = await enter(call(path, None, **arguments))
        assert outcome.error is not None, outcome
        return outcome.error

    async def wait_deaths(self, count: int) -> None:
        """Until so many workers have died since the start, and others are in their places."""
        until_ns = monotonic_ns() + round(WAIT_S_MAX * 1e9)
        pool = self.backend.pool
        sizes = (self.backend.config.workers, self.backend.config.action_workers)
        while True:
            seen = pool.statistics()
            if seen.deaths >= count and (seen.transaction_workers, seen.action_workers) == sizes:
                return
            assert monotonic_ns() < until_ns, seen
            await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        fault = await self.backend.start()
        if fault is not None:
            await self.backend.stop()
            raise fault
        await self.wait_deaths(0)  # the action workers start last
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await stop(self.backend, failed=error is not None)


async def stop(backend: Backend, *, failed: bool) -> None:
    """Unless the test has `failed`, the store must be whole. No process is left."""
    pids = backend.pool.statistics().pids
    try:
        if not failed:
            assert backend.database.check(faults) == []
    finally:
        await backend.stop()
    assert not [pid for pid in pids if alive(pid)]


def opened(outcome: Outcome) -> Any:
    assert outcome.error is None, outcome.error
    assert outcome.value is not None
    return json.loads(outcome.value)
