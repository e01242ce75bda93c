"""Many callers at one backend with real worker processes and a real store, while things go wrong.

    callers ──► executor ──► workers ──► committer ──► LMDB, synced
                 │             ✗                        ✗
    watchers ◄───╯           SIGKILL                  the file may not grow for a while, so that the kernel refuses
    over websockets                                   what LMDB writes; nothing of ours is replaced

A workload says what callers do and what must hold, of what they are told and of what the watchers are shown. What goes
wrong, and which limits the backend has, is drawn from the seed; how all of it interleaves is up to the machine. Faults
come after so many answers and not at times, so a slow machine sees as many.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from evolute.backend import Backend
from evolute.config import Config
from evolute.database.transaction import Transaction
from evolute.errors import DefinitionError, StorageFailed, StorageFull
from evolute.execution.request import Call, Outcome
from evolute.limits import MIB, Limits
from evolute.server.app import build_server, create_app
from evolute.server.auth import read_or_create_admin_key
from tests.end_to_end.backend_under_test import stop
from tests.unit.function_store import call
from tests.workloads.watchers import Question, View, Watcher, watching

FUNCTIONS = Path(__file__).parent / "functions_under_load"
# The store's first pages, which every commit writes, and hardly more: what it adds to the file is refused.
REFUSING_BYTES = 16 * 1024
LEAVES_S_MAX = 0.02
DEATHS = ("FunctionCrashed", "FunctionTimedOut")


class DidNotHappen(Exception):
    """The call had certainly no effect: the disk refused it, or two workers were killed while they ran it."""


class Unknown(Exception):
    """The caller went away before it was told how the call ended."""


@dataclass
class Report:
    """A run in numbers. `refused` transactions failed for the disk, `withdrawn` had seen some of these and ran again.

    `gone` callers did not wait for their answers; `resent` calls are those that were made again, or twice at once.
    """

    calls: int = 0
    commits: int = 0
    conflicts: int = 0
    serial_runs: int = 0
    kills: int = 0
    deaths_of_calls: int = 0
    failed_batches: int = 0
    refused: int = 0
    withdrawn: int = 0
    gone: int = 0
    resent: int = 0
    deployments: int = 0
    transitions: int = 0
    edges: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in dataclasses.asdict(self).items())


@dataclass(frozen=True)
class Faults:
    """How often something goes wrong, for each answer."""

    kill: float = 0.0
    refuse: float = 0.0
    leave: float = 0.0
    deploy: float = 0.0

    @classmethod
    def drawn(cls, random: Random) -> Faults:
        """At least one, often several; a deployment starts two workers, and so comes rarely."""
        kinds = random.sample(("kill", "refuse", "leave", "deploy"), random.randint(1, 4))
        shares = {"kill": 0.006, "refuse": 0.008, "leave": 0.02, "deploy": 0.001}
        return cls(**{kind: shares[kind] for kind in kinds})


def limits_drawn(random: Random) -> Limits:
    """So small here and there that what is rare comes often: no view, full batches, serial runs, a short memory."""
    return Limits(
        map_bytes_max=256 * MIB,
        query_user_ms_max=1000,
        mutation_user_ms_max=3000,
        attempts_before_serial=random.choice((1, 3, 8, 8, 8)),
        commit_batch_length_max=random.choice((1, 4, 512)),
        pending_view_bytes_max=random.choice((1, 2000, *3 * (256 * 1024,))),
        log_keys_max=random.choice((300, *3 * (2_000_000,))),
        log_run_keys_max=random.choice((32, 8192)),
        requests_per_worker_max=random.choice((1, 4, 16)),
    )


class Workload(Protocol):
    """`step` is one thing that a caller does. `check` asserts what must hold when all have ended, and `check_view` what
    must hold in every view of the `questions`, and from one view to the next."""

    async def set_up(self, load: Load) -> None: ...

    async def step(self, caller: Caller) -> None: ...

    async def check(self, load: Load) -> None: ...

    def questions(self) -> list[Question]: ...

    def check_view(self, before: View, after: View) -> None: ...


class Load:
    """A backend, its callers and its troubles. Use it as a context; then `run`, once."""

    def __init__(self, folder: Path, seed: int, faults: Faults, limits: Limits) -> None:
        self.random = Random(seed)
        self.faults = faults
        self.report = Report()
        self.moments = itertools.count(1)  # of the beginnings and ends of calls, in order
        self._functions = shutil.copytree(FUNCTIONS, folder / "functions")
        self._refused_until = 0
        config = Config(self._functions, folder / "data", workers=2, action_workers=1, limits=limits)
        self.backend = Backend(config)

    async def run(self, workloads: list[Workload], *, callers: int, steps: int, watchers: int) -> None:
        """Every caller takes turns with the workloads. Nothing goes wrong before the first call and after the last."""
        for workload in workloads:
            await workload.set_up(self)
        questions = [question for workload in workloads for question in workload.questions()]

        def check_view(before: View, after: View) -> None:
            for workload in workloads:
                workload.check_view(before, after)

        async with self._served() as port:
            looking = [Watcher(port, Random(self.random.random()), questions, check_view) for _ in range(watchers)]
            async with watching(looking):
                async with asyncio.TaskGroup() as tasks:
                    for number in range(callers):
                        tasks.create_task(self._steps(Caller(self, number), workloads, steps))
                _allow_growth()
                truth = {one: await self.query(one.path, **json.loads(one.arguments)) for one in questions}
                for watcher in looking:
                    await watcher.becomes(truth)
                    self.report.transitions += watcher.transitions
        for workload in workloads:
            await workload.check(self)
        self._note()

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[int]:
        """The port at which the backend is served."""
        app = create_app(self.backend, read_or_create_admin_key(self.backend.data_folder.admin_key_path))
        server = build_server(app, self.backend.config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield int(listener.getsockname()[1])
            finally:
                server.should_exit = True
                await serving

    async def _steps(self, caller: Caller, workloads: list[Workload], steps: int) -> None:
        for _ in range(steps):
            workload = caller.random.choice(workloads)
            with contextlib.suppress(DidNotHappen, Unknown):
                await workload.step(caller)
            self.report.calls += 1
            await self._go_wrong(caller.random)

    async def mutate(self, path: str, **arguments: object) -> Any:
        """A call that nothing goes wrong with, before the load or after it."""
        return opened(await self.backend.executor.mutate(call(path, "mutation", **arguments)))

    async def query(self, path: str, **arguments: object) -> Any:
        return opened(await self.backend.executor.query(call(path, "query", **arguments)))

    # --- What goes wrong ---------------------------------------------------------------------------------------------

    async def _go_wrong(self, random: Random) -> None:
        if self._refused_until and self.report.calls >= self._refused_until:
            self._refused_until = 0
            _allow_growth()
        if random.random() < self.faults.kill:
            self._kill_a_worker(random)
        if random.random() < self.faults.refuse and not self._refused_until:
            self._refused_until = self.report.calls + random.randint(1, 20)
            resource.setrlimit(resource.RLIMIT_FSIZE, (REFUSING_BYTES, _hard_limit()))
        if random.random() < self.faults.deploy:
            await self._deploy()

    def _kill_a_worker(self, random: Random) -> None:
        pids = self.backend.pool.statistics().pids
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(pids), signal.SIGKILL)
                self.report.kills += 1

    async def _deploy(self) -> None:
        """The same functions, in a file with another text: another deployment, with workers of its own."""
        (self._functions / "version.py").write_text(f"VERSION = {self.report.calls}\n")
        try:
            await self.backend.deployer.deploy(self._functions)
        except (StorageFull, StorageFailed):
            return
        except DefinitionError:
            assert self.faults.kill, "only a worker that was killed does not load the functions"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # else a newer deployment has taken the place of this one
        else:
            self.report.deployments += 1

    # --- Its life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Load:
        fault = await self.backend.start()
        assert fault is None, fault
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _allow_growth()
        await stop(self.backend, failed=error is not None)

    def _note(self) -> None:
        report, committer = self.report, self.backend.database.committer.statistics()
        report.commits, report.failed_batches = committer.commits, committer.failed_batches
        report.withdrawn = committer.withdrawn
        executor = self.backend.executor.statistics()
        report.conflicts, report.serial_runs = executor.conflicts, executor.serial_runs
        assert (executor.running, executor.in_line, committer.queue_length, committer.held) == (0, 0, 0, 0)


class Caller:
    """One client, with a session: a mutation that is sent again is the same mutation."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.random = Random(load.random.random())
        self._session = f"caller {number}"
        self._requests = itertools.count(1)

    async def mutate(self, path: str, **arguments: object) -> Outcome:
        """Raises DidNotHappen, Unknown, and AssertionError with what the function has found wrong."""
        request = call(path, "mutation", **arguments)._replace(session=(self._session, next(self._requests)))
        report, random = self.load.report, self.random
        if random.random() < self.load.faults.leave:
            await self._leave(request)
            report.gone += 1
            if random.random() < 0.3:
                raise Unknown
            report.resent += 1
            return await self._mutate(request)
        if random.random() < 0.02:
            report.resent += 1
            return await self._mutate_twice(request)
        return await self._mutate(request)

    async def query(self, path: str, **arguments: object) -> Outcome:
        return self._checked(await self.load.backend.executor.query(call(path, "query", **arguments)))

    async def query_together(self, *calls: Call) -> list[Outcome]:
        """Several queries, each run by itself, at one time."""
        try:
            outcomes = await self.load.backend.executor.query_batch(calls)
        except (StorageFull, StorageFailed) as error:
            raise AssertionError("a query has nothing to do with the disk's refusals") from error
        return [self._checked(outcomes[one]) for one in calls]

    async def run_system(self, function: Any) -> Any:
        """A transaction of the server's own, which sees no pending commits and waits for them."""

        def run(transaction: Transaction) -> Any:
            return function(transaction)

        try:
            return (await self.load.backend.executor.run_system(run)).value
        except (StorageFull, StorageFailed):
            self.load.report.refused += 1
            raise DidNotHappen from None

    async def _mutate(self, request: Call) -> Outcome:
        try:
            return self._checked(await self.load.backend.executor.mutate(request))
        except (StorageFull, StorageFailed):
            self.load.report.refused += 1
            raise DidNotHappen from None

    async def _leave(self, request: Call) -> None:
        """Goes away after a while; the mutation may go on, be validated, be written or be over by then."""
        task = asyncio.create_task(self.load.backend.executor.mutate(request))
        await asyncio.wait((task,), timeout=self.random.uniform(0, LEAVES_S_MAX))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _mutate_twice(self, request: Call) -> Outcome:
        """One mutation that arrives on two connections. It is answered alike, if it is answered on both."""
        ends = await asyncio.gather(self._mutate(request), self._mutate(request), return_exceptions=True)
        outcomes = [end for end in ends if isinstance(end, Outcome)]
        for end in ends:
            if not isinstance(end, Outcome | DidNotHappen):
                raise end
        if not outcomes:
            raise DidNotHappen
        assert len({(outcome.value, outcome.ts) for outcome in outcomes}) == 1, ends
        return outcomes[0]

    def _checked(self, outcome: Outcome) -> Outcome:
        if outcome.error is not None and outcome.error.code in DEATHS and self.load.faults.kill:
            self.load.report.deaths_of_calls += 1
            raise DidNotHappen
        opened(outcome)
        return outcome


def opened(outcome: Outcome) -> Any:
    assert outcome.error is None, outcome.error
    assert outcome.value is not None
    return json.loads(outcome.value)


def _hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_FSIZE)[1]


def _allow_growth() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_hard_limit(), _hard_limit()))


@contextlib.contextmanager
def in_process_files_may_grow() -> Iterator[None]:
    """Whatever happens in the block, this process may write files when it is over."""
    try:
        yield
    finally:
        _allow_growth()
