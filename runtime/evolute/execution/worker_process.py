"""One worker process, as the server sees it: started by exec, given requests, watched, and ended.

A transaction worker runs its requests one at a time in the order they were sent, so the first that is unanswered is the
one that runs, and the clock that may kill the worker is that request's. An action worker runs all of its requests at
once; it is killed when one of them outlives its limit or when its event loop no longer answers a ping.

A death is not an error of the process: the pool is told, and takes back what was not answered.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from evolute.clock import monotonic_ns
from evolute.config import worker_environment
from evolute.errors import DefinitionError, LimitReached
from evolute.execution.async_channel import AsyncChannel, open_channel
from evolute.execution.channel import Frame
from evolute.execution.request import Call, FunctionOutcome, FunctionRequest, RequestKind
from evolute.limits import Limits

Lane: TypeAlias = Literal["transaction", "action"]
# An action's call back to the server: (its call, operation, payload) -> (ok, payload).
Callbacks: TypeAlias = Callable[[Call, str, Any], Awaitable[tuple[bool, Any]]]


class Sources(Protocol):
    """What a worker loads: one reading of the functions folder (`registry.loader.Deployment`)."""

    @property
    def hash(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def sources(self) -> Mapping[str, bytes]: ...


@dataclass(eq=False, slots=True)
class Pending:
    """A request that has not been answered. `deaths` counts the workers that died while they ran it."""

    kind: RequestKind
    calls: tuple[Call, ...]
    future: asyncio.Future[FunctionOutcome]
    callbacks: Callbacks | None = None
    nested: bool = False
    deaths: int = 0
    sent_ns: int = 0


class WorkerProcess:
    """Owns a process and the channel to it. `on_outcome` and `on_gone` are called on the event loop, synchronously."""

    def __init__(
        self,
        lane: Lane,
        limits: Limits,
        *,
        lifeline_fd: int,
        on_outcome: Callable[[WorkerProcess], None],
        on_gone: Callable[[WorkerProcess], None],
    ) -> None:
        self.lane = lane
        self.pending: dict[int, Pending] = {}
        self.ready = False
        self.retired = False
        self.gone = False
        self.killed_because: str | None = None
        self._limits = limits
        self._lifeline_fd = lifeline_fd
        self._on_outcome = on_outcome
        self._on_gone = on_gone
        self._channel: AsyncChannel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: asyncio.Future[Any] | None = None
        self._head_since_ns = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self._unanswered_pings = 0
        self._callback_tasks: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def slots_used(self) -> int:
        """Nested actions run in their caller's slot, so that slots cannot deadlock."""
        return sum(not pending.nested for pending in self.pending.values())

    async def start(self, deployment: Sources, data_path: str) -> Any:
        """Starts the process, loads the deployment, returns the worker's report.

        Raises DefinitionError with every fault of the folder, also if the process ended or was too slow.
        """
        loop = asyncio.get_running_loop()
        self._loaded = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "evolute.execution.worker"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(self._lifeline_fd)],
                pass_fds=(theirs.fileno(), self._lifeline_fd),
                stdin=subprocess.DEVNULL,
                env=worker_environment(),
            )
        self._channel = await open_channel(
            ours,
            on_frame=self._on_frame,
            on_closed=self._on_closed,
            frame_bytes_max=self._limits.frame_bytes_max,
        )
        self._channel.send(
            (
                "load",
                {
                    "deployment": deployment.hash,
                    "package": deployment.package,
                    "root": deployment.root,
                    "sources": dict(deployment.sources),
                    "limits": dataclasses.asdict(self._limits),
                    "data": data_path,
                    "lane": self.lane,
                },
            )
        )
        try:
            async with asyncio.timeout(self._limits.worker_start_ms_max / 1000):
                report = await self._loaded
        except TimeoutError:
            self.kill("it did not load the functions within worker_start_ms_max")
            raise DefinitionError(
                f"A worker did not load the functions within {self._limits.worker_start_ms_max} ms; "
                "the setting is worker_start_ms_max. Does a module do long work when it is imported?"
            ) from None
        except asyncio.CancelledError:
            self.kill("it is no longer wanted")
            raise
        self.ready = True
        return report

    def submit(self, request_id: int, deployment: str, pending: Pending, now_ns: int, seed: bytes) -> None:
        """Sends the request. Its future is resolved here, or given back to the pool if the worker dies."""
        assert self._channel is not None
        assert not self.gone
        request = FunctionRequest(request_id, pending.kind, deployment, pending.calls, now_ns, seed)
        pending.sent_ns = monotonic_ns()
        try:
            self._channel.send(("request", request.to_wire()))
        except LimitReached as error:
            pending.future.set_exception(error)
            return
        if not self.pending:
            self._head_since_ns = pending.sent_ns
        self.pending[request_id] = pending
        self._watch()

    def cancel(self, pending: Pending) -> None:
        """Asks an action to end at its next await."""
        for request_id, candidate in self.pending.items():
            if candidate is pending and self._channel is not None:
                self._channel.send(("cancel", request_id))

    def retire(self) -> None:
        """Takes no more requests; the process ends when it has answered those it holds."""
        self.retired = True
        if not self.pending and self._channel is not None:
            self._channel.send(("exit",))

    def kill(self, because: str) -> None:
        """Ends the process at once. `on_gone` follows when its channel is closed."""
        if self.killed_because is None:
            self.killed_because = because
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)

    async def wait_gone(self) -> None:
        """Returns when the process has been reaped."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    # --- What the worker says --------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        match frame[0]:
            case "outcome":
                self._on_outcome_frame(FunctionOutcome.from_wire(frame[1]))
            case "callback":
                _, request_id, callback_id, operation, payload = frame
                self._on_callback(request_id, callback_id, operation, payload)
            case "pong":
                self._unanswered_pings = 0
            case "loaded":
                self._settle_loaded(frame[1], None)
            case "load_failed":
                self._settle_loaded(None, DefinitionError("\n\n".join(frame[1])))
            case name:
                self.kill(f"it sent an unknown frame {name!r}")

    def _settle_loaded(self, report: Any, error: Exception | None) -> None:
        if self._loaded is None or self._loaded.done():
            return
        if error is None:
            self._loaded.set_result(report)
        else:
            self._loaded.set_exception(error)

    def _on_outcome_frame(self, outcome: FunctionOutcome) -> None:
        pending = self.pending.pop(outcome.id, None)
        self._head_since_ns = monotonic_ns()
        if outcome.exiting:
            self.retired = True
        if pending is not None and not pending.future.done():
            pending.future.set_result(outcome)
        self._on_outcome(self)
        if self.retired and not self.pending and not outcome.exiting and self._channel is not None:
            self._channel.send(("exit",))

    def _on_callback(self, request_id: int, callback_id: int, operation: str, payload: Any) -> None:
        pending = self.pending.get(request_id)
        if pending is None or pending.callbacks is None:
            return  # The action has been answered; what it started and did not await may be dropped.
        task = asyncio.get_running_loop().create_task(
            self._answer(callback_id, pending.callbacks(pending.calls[0], operation, payload))
        )
        self._callback_tasks.add(task)
        task.add_done_callback(self._callback_tasks.discard)

    async def _answer(self, callback_id: int, answer: Awaitable[tuple[bool, Any]]) -> None:
        ok, payload = await answer
        if self._channel is not None:
            self._channel.send(("reply", callback_id, ok, payload))

    def _on_closed(self, fault: Exception | None) -> None:
        self.gone = True
        self.ready = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.kill(str(fault) if fault is not None else "it closed its channel")
        self._settle_loaded(None, DefinitionError("A worker process ended while it loaded the functions"))
        self._on_gone(self)

    # --- Limits ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = asyncio.get_running_loop().call_later(self._watch_interval_s(), self._on_watchdog)

    def _watch_interval_s(self) -> float:
        block_ms = self._limits.action_block_ms_max if self.lane == "action" else self._limits.query_user_ms_max
        return max(block_ms / 4, 20) / 1000

    def _on_watchdog(self) -> None:
        """The second stage of a time limit: it also ends C code and code that swallows the first."""
        self._watchdog = None
        if not self.pending or self.gone:
            return
        now_ns = monotonic_ns()
        if self.lane == "transaction":
            head = next(iter(self.pending.values()))
            if now_ns - self._head_since_ns > self._allowed_ns(head):
                self.kill("time limit")
        else:
            if any(now_ns - pending.sent_ns > self._allowed_ns(pending) for pending in self.pending.values()):
                self.kill("time limit")
            self._ping()
        self._watch()

    def _allowed_ns(self, pending: Pending) -> int:
        limits = self._limits
        user_ms = {
            "queries": limits.query_user_ms_max * len(pending.calls),
            "mutation": limits.mutation_user_ms_max,
            "action": limits.action_ms_max,
        }[pending.kind]
        return (user_ms + limits.system_ms_max + limits.kill_grace_ms) * 1_000_000

    def _ping(self) -> None:
        """A loop that answers none of six pings, sent every quarter of its limit, is not going to turn again."""
        self._unanswered_pings += 1
        if self._unanswered_pings > 6:
            self.kill("its event loop was blocked")
        elif self._channel is not None:
            self._channel.send(("ping",))
