"""The real engine for tests of applications: LMDB in a temporary folder, a clock that stands still, no processes.

    from evolute.testing import LocalBackend

    def test_a_message_vanishes():
        with LocalBackend("functions") as backend:
            channel = backend.mutation("channels:create", name="general")
            backend.mutation("messages:send", channel=channel, body="hi", vanish_after_ms=5000)
            backend.advance(seconds=5)
            assert backend.query("messages:list_recent", channel=channel) == []

Functions run in this process, through the same executor, committer and scheduler as in the server, so transactions
conflict and are retried, scheduled jobs run, and `ConvexError` reaches the test. What is missing is what processes
give: time limits are not enforced and a crash of a function is a crash of the test. A blocking action runs on a thread
of its own, any number at once; nothing can end a thread, so one that is cancelled ends at its next use of `ctx`.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from evolute.clock import NS_PER_S, ManualClock, random_bytes
from evolute.database.database import Database
from evolute.database.pending_view import PendingView
from evolute.database.transaction import Transaction
from evolute.errors import BadRequest, ConvexError, EvoluteError
from evolute.execution.action_runner import ActionRunner
from evolute.execution.arguments import encode_arguments
from evolute.execution.blocking_runner import BlockingRunner
from evolute.execution.call_log import CallLog
from evolute.execution.executor import Executor
from evolute.execution.pending_request import Callbacks
from evolute.execution.request import Call, FunctionOutcome, FunctionRequest, Kind, Outcome, RequestKind
from evolute.execution.runner import Runner
from evolute.execution.snapshot_names import SnapshotNames
from evolute.limits import Limits
from evolute.registry.crons import Crons
from evolute.registry.definition import Function
from evolute.registry.given_functions import registry_of
from evolute.registry.job_options import Pool
from evolute.registry.loader import Deployment, load, read_folder
from evolute.registry.registry import Registry, RegistryReport
from evolute.scheduler.crons import CronLoop
from evolute.scheduler.scheduler import Scheduler
from evolute.system import crons as cron_table
from evolute.system import deployments, tables
from evolute.system.check import faults
from evolute.values import wire_codec
from evolute.values.cron_schedule import load_libraries
from evolute.values.schema import Schema

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# After a mutation the clock goes on by this much, so that documents are ordered by the mutations that made them.
TICK_NS = 10_000
TEST_ISSUER = "https://evolute.test"


class FunctionFailed(EvoluteError):
    """A function raised. The message is what a client would be told; `log_lines` is what it printed."""

    def __init__(self, message: str, log_lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.log_lines = log_lines


class LocalRunners:
    """Runs functions in this process: queries, mutations and blocking actions on threads, others on the event loop."""

    def __init__(self, registry: Registry, database: Database, clock: ManualClock, limits: Limits) -> None:
        self.report = RegistryReport.from_wire(registry.report())
        self._registry = registry
        self._database = database
        self._clock = clock
        self._limits = limits
        self._of_thread = threading.local()
        self._action_runner = ActionRunner(registry, limits, clock, database.snapshot)
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="evolute-function")
        self._ids = itertools.count(1)

    def run(
        self, kind: RequestKind, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> Awaitable[FunctionOutcome]:
        view = self._database.committer.pending_view() if fresh else None
        return asyncio.get_running_loop().create_task(self._run(kind, calls, view))

    async def _run(self, kind: RequestKind, calls: tuple[Call, ...], view: PendingView | None) -> FunctionOutcome:
        request = self._request(kind, calls)

        def on_thread() -> FunctionOutcome:
            with self._database.snapshot(pending=view) as snapshot:
                return self._runner().run(request, snapshot)._replace(seen=snapshot.seen)

        outcome = await asyncio.get_running_loop().run_in_executor(self._threads, on_thread)
        if kind == "mutation":
            self._clock.set_ns(self._clock.now_ns() + TICK_NS)
        return outcome

    async def run_action(self, call: Call, callbacks: Callbacks, *, nested: bool = False) -> FunctionOutcome:
        request = self._request("action", (call,))
        if self.report.is_blocking(call.path):
            runner = BlockingRunner(self._registry, self._limits, self._clock, self._database.snapshot)
            return await ThreadOfAction(runner, request, callbacks).run()

        async def answer(operation: str, payload: Any) -> tuple[bool, Any]:
            return await callbacks(call, operation, payload)

        running = asyncio.get_running_loop().create_task(self._action_runner.run_action(request, answer))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._action_runner.cancel(request.id)
            await asyncio.wait({running})
            raise

    def action_room(self, path: str) -> AbstractAsyncContextManager[int | None]:
        return nullcontext()  # there is room for any number

    def _runner(self) -> Runner:
        """Each thread has its own, as each worker process has: a runner does one thing at a time."""
        if not hasattr(self._of_thread, "runner"):
            self._of_thread.runner = Runner(self._registry, self._limits)
        runner: Runner = self._of_thread.runner
        return runner

    def close(self) -> None:
        self._threads.shutdown()

    def _request(self, kind: RequestKind, calls: tuple[Call, ...]) -> FunctionRequest:
        deployment = self._registry.deployment
        return FunctionRequest(next(self._ids), kind, deployment, calls, self._clock.now_ns(), random_bytes(32))


class ThreadOfAction:
    """One blocking action on a thread, what it asks for answered on the event loop."""

    def __init__(self, runner: BlockingRunner, request: FunctionRequest, callbacks: Callbacks) -> None:
        self._runner = runner
        self._request = request
        self._callbacks = callbacks
        self._loop = asyncio.get_running_loop()
        self._answering: asyncio.Task[Any] | None = None
        self._cancelled = False

    async def run(self) -> FunctionOutcome:
        """Also if it is cancelled, it has ended when this returns."""
        ended: asyncio.Future[FunctionOutcome] = self._loop.create_future()

        def on_thread() -> None:
            outcome = self._runner.run_action(self._request, self._ask)
            self._loop.call_soon_threadsafe(ended.set_result, outcome)

        threading.Thread(target=on_thread, name="evolute-blocking-action", daemon=True).start()
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._cancelled = True
            if self._answering is not None:
                self._answering.cancel()
            await asyncio.wait({ended})
            raise

    def _ask(self, operation: str, payload: Any) -> tuple[bool, Any]:
        """On the thread. Raises CancelledError, which is no `Exception`, in an action that is to end."""

        async def answer() -> tuple[bool, Any]:
            if self._cancelled:
                raise asyncio.CancelledError
            self._answering = asyncio.current_task()
            try:
                return await self._callbacks(self._request.calls[0], operation, payload)
            finally:
                self._answering = None

        try:
            return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()
        except CancelledError:
            raise asyncio.CancelledError from None


class LocalBackend:
    """A backend for one test. Give it a functions folder, or function objects, a schema and crons.

    The calls below block; inside an event loop, run the test's body on a thread. The store is checked at the end.
    """

    def __init__(
        self,
        *functions: str | Path | Function[..., Any],
        schema: Schema | None = None,
        crons: Crons | None = None,
        limits: Limits | None = None,
        pools: Mapping[str, Pool] | None = None,
        check: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self.clock = ManualClock()
        self._check = check
        self._identity: bytes | None = None
        load_libraries()
        self._registry = _registry(functions, schema, crons, self.limits)
        self._registry.pools = {**self._registry.pools, **(pools or {})}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="evolute-testing", daemon=True)
        self._thread.start()
        self._folder = tempfile.mkdtemp(prefix="evolute-testing-")
        try:
            self._wait(self._open())
        except BaseException:
            self._stop_loop()
            raise

    # --- Calls -----------------------------------------------------------------------------------------------------

    @overload
    def query(self, function: Function[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def query(self, function: str, /, **kwargs: object) -> Any: ...
    def query(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """The query's answer now. Raises ConvexError, or FunctionFailed with what a client would be told."""
        return self._call("query", function, args, kwargs)

    @overload
    def mutation(self, function: Function[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def mutation(self, function: str, /, **kwargs: object) -> Any: ...
    def mutation(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the mutation and commits it. Raises as `query` does; then nothing was written."""
        return self._call("mutation", function, args, kwargs)

    @overload
    def action(self, function: Function[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def action(self, function: str, /, **kwargs: object) -> Any: ...
    def action(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the action to its end. Raises as `query` does."""
        return self._call("action", function, args, kwargs)

    @contextmanager
    def acting_as(self, subject: str, **claims: object) -> Iterator[None]:
        """Calls in the block are made by this user: what `ctx.auth.get_user_identity()` gives has these claims.

        The `issuer` is made up unless it is given, and `tokenIdentifier` is put together from both.
        """
        issuer = claims.get("issuer", TEST_ISSUER)
        identity = {"issuer": issuer, "subject": subject, "tokenIdentifier": f"{issuer}|{subject}", **claims}
        before, self._identity = self._identity, wire_codec.encode(identity)
        try:
            yield
        finally:
            self._identity = before

    def advance(self, *, seconds: float = 0, milliseconds: float = 0) -> None:
        """Moves the clock forward and runs what falls due on the way, each job at its own time, in order."""
        self._wait(self._advance(round((seconds + milliseconds / 1000) * NS_PER_S)))

    def run_due(self) -> None:
        """Runs what is due now, without moving the clock."""
        self.advance()

    @property
    def log(self) -> CallLog:
        """Every run so far, with what it printed."""
        return self._call_log

    def close(self) -> None:
        """Ends the backend, checks the store, removes the folder. Raises AssertionError naming what is broken."""
        try:
            broken = self._wait(self._shut())
        finally:
            self._stop_loop()
        assert not broken, "the store is broken:\n" + "\n".join(broken)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- Inside ----------------------------------------------------------------------------------------------------

    def _call(
        self, kind: Kind, function: Function[..., Any] | str, args: tuple[object, ...], named: dict[str, object]
    ) -> object:
        """A function that is named by itself gives what its return hint says, one named by its path plain values."""
        try:
            definition = self._registry.resolve(function)
            arguments = encode_arguments(definition, args, named, self._names, self.limits)
        except BadRequest as error:
            raise FunctionFailed(str(error), ()) from None
        call = Call(definition.path, arguments, kind=kind, public_only=False, identity=self._identity)
        enter = {"query": self.executor.query, "mutation": self.executor.mutate, "action": self.executor.act}[kind]
        outcome: Outcome = self._wait(enter(call))
        if outcome.error is None:
            assert outcome.value is not None
            value = wire_codec.decode_canonical(outcome.value)
            return value if isinstance(function, str) else definition.returns.parse(value, self._names)
        if outcome.error.data is not None:
            raise ConvexError(wire_codec.decode_canonical(outcome.error.data))
        raise FunctionFailed(outcome.error.message, outcome.log_lines)

    async def _open(self) -> None:
        self.database = Database(Path(self._folder) / "store", self.clock, self.limits, sync=False)
        self._names = SnapshotNames(self.database.snapshot, self.limits)
        self._call_log = CallLog(self.limits)
        self._runners = LocalRunners(self._registry, self.database, self.clock, self.limits)
        self.executor = Executor(self.database, self._runners, self.clock, self.limits, self._call_log)
        await self.executor.run_system(tables.bootstrap)
        deployment = Deployment(self._registry.deployment, self._registry.package, "", {})
        schema = self._registry.schema.to_wire()

        def activate(transaction: Transaction) -> None:
            deployments.activate(transaction, deployment, schema)
            cron_table.apply(transaction, self._runners.report.crons)

        await self.executor.run_system(activate)
        self.scheduler = Scheduler(self.executor, self.database.subscriptions, self.clock, self.limits)
        self.crons = CronLoop(self.executor, self.database.subscriptions, self.clock, self.limits)
        loop = asyncio.get_running_loop()
        self._scheduling = loop.create_task(self.scheduler.run())
        self._cron_loop = loop.create_task(self.crons.run())

    async def _advance(self, duration_ns: int) -> None:
        target_ns = self.clock.now_ns() + duration_ns
        await self._wait_idle()
        while (next_ns := min(self.scheduler.sleeps_until_ns, self.crons.sleeps_until_ns)) <= target_ns:
            self.clock.set_ns(max(next_ns, self.clock.now_ns()))
            await self._wait_idle()
        self.clock.set_ns(max(target_ns, self.clock.now_ns()))
        await self._wait_idle()

    async def _wait_idle(self) -> None:
        """Jobs make crons and crons make jobs: both loops are idle when no commit came while they were waited for."""
        while True:
            before_ts = self.database.log.published_ts
            await self.scheduler.wait_idle()
            await self.crons.wait_idle()
            if self.database.log.published_ts == before_ts:
                return

    async def _shut(self) -> list[str]:
        for loop in (self._scheduling, self._cron_loop):
            loop.cancel()
        await asyncio.gather(self._scheduling, self._cron_loop, return_exceptions=True)
        await self.scheduler.close()
        await self.crons.close()
        await self.executor.drain(self.limits.shutdown_ms_max)
        await self.executor.query_cache.close()
        self._runners.close()
        broken = self.database.check(faults) if self._check else []
        await self.database.close()
        return broken

    def _wait(self, awaitable: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
        async def run() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _registry(
    functions: tuple[str | Path | Function[..., Any], ...], schema: Schema | None, crons: Crons | None, limits: Limits
) -> Registry:
    objects = [function for function in functions if isinstance(function, Function)]
    folders = [Path(function) for function in functions if not isinstance(function, Function)]
    if folders and (len(functions) > 1 or schema is not None or crons is not None):
        raise ValueError("give LocalBackend one functions folder, or function objects, a schema and crons")
    if folders:
        return load(read_folder(folders[0], limits), limits, keep_imported=True)
    return registry_of(objects, schema, crons)
