"""One worker process, as the server sees it: started by exec, given requests, watched, and ended.

A transaction worker runs its requests one at a time in the order they were sent, so the first that is unanswered is the
one that runs, and the clock that may kill the worker is that request's. An action worker runs all of its requests at
once; it is killed when one of them outlives its limit or when its event loop no longer answers a ping. A blocking
worker runs one action, and is killed, with the processes that this has started, for its limit and to cancel it.

A death is not an error of the process: the pool is told, and takes back what was not answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from evolute.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from evolute.database.chain import Chain
from evolute.database.pending_view import NOTHING_SHOWN
from evolute.errors import DefinitionError, LimitReached
from evolute.execution.async_channel import AsyncChannel, open_channel
from evolute.execution.channel import Frame
from evolute.execution.pending_request import Pending
from evolute.execution.process_starter import ProcessStarter
from evolute.execution.request import FunctionOutcome, FunctionRequest
from evolute.limits import Limits
from evolute.stages import Stages
from evolute.system.deployments import Deployment

Lane: TypeAlias = Literal["transaction", "action", "blocking", "rows"]
# When a process has ended, what it has said is read for so long, should somebody else hold its end of the channel open.
LAST_WORDS_S = 0.2


@dataclass(eq=False, slots=True)
class RoomRequest:
    """Who waits, in the queue of the async actions, for a slot to hold. `worker` is the one that keeps it free."""

    nested: ClassVar[bool] = False
    fresh: ClassVar[bool] = False
    future: asyncio.Future[None]
    worker: WorkerProcess | None = None


class WorkerProcess:
    """Owns a process and the channel to it. The callbacks are called on the event loop, synchronously.

    `on_outcome` follows every answer, with the lane; `on_late` is called again and again while a request runs long,
    `on_gone` once.
    """

    def __init__(
        self,
        lane: Lane,
        limits: Limits,
        *,
        processes: ProcessStarter,
        on_outcome: Callable[[Lane], None],
        on_late: Callable[[WorkerProcess], None],
        on_gone: Callable[[WorkerProcess], None],
        stages: Stages | None = None,
    ) -> None:
        self.lane = lane
        self.pending: dict[int, Pending] = {}
        self.rooms = 0  # slots that are held, by others than its pending actions if it is an action worker
        self.loaded = False  # it has been ready once
        self.ready = False
        self.retired = False  # it takes no more requests
        self.leaving = False  # it holds none, and its end is expected
        self.gone = False
        self.is_late = False
        """A transaction worker whose request runs long: what is sent to it now would wait behind that."""
        self.killed_because: str | None = None
        self.overdue: Pending | None = None  # the request that it was killed for
        self._limits = limits
        self._requests_max = limits.requests_per_worker_max
        self._processes, self._stages = processes, stages
        self._on_outcome = on_outcome
        self._on_late = on_late
        self._on_gone = on_gone
        self._channel: AsyncChannel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._exited = asyncio.Event()
        self._closed = asyncio.Event()
        self._report: asyncio.Future[Any] | None = None
        self._head_since_ns = 0
        watched_ms = {
            "transaction": limits.query_user_ms_max,
            "action": limits.action_block_ms_max,
            "blocking": min(limits.action_ms_max, limits.action_block_ms_max),
            "rows": limits.system_ms_max,
        }[lane]
        self._watch_interval_ns = max(watched_ms * NS_PER_MS // 4, 20 * NS_PER_MS)
        self._watchdog: asyncio.TimerHandle | None = None
        self._unanswered_pings = 0
        self.shown, self.chain = NOTHING_SHOWN.mark, Chain()
        self._callback_tasks: set[asyncio.Task[None]] = set()
        self._nested_actions: dict[asyncio.Task[None], int] = {}

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def slots_used(self) -> int:
        """Nested actions run in their caller's slot, so that slots cannot deadlock."""
        return sum(not pending.nested for pending in self.pending.values()) + self.rooms

    @property
    def has_room(self) -> bool:
        """Whether it takes one more request that needs a place of its own."""
        if self.lane == "action":
            return self.slots_used < self._limits.actions_per_worker_max
        return not self.is_late and len(self.pending) < self._requests_max

    @property
    def is_ready_for_next(self) -> bool:
        """A blocking worker that runs nothing, and may."""
        return self.ready and not self.retired and not self.pending

    @property
    def is_idle(self) -> bool:
        """A blocking worker that is nobody's."""
        return self.is_ready_for_next and not self.rooms

    async def start(self, deployment: Deployment, data_path: str) -> Any:
        """Starts the process, loads the deployment, returns the worker's report.

        Raises DefinitionError with every fault of the folder, also if the process ended or was too slow.
        """
        try:
            await self._open()
            report = await self._load(deployment, data_path)
        except TimeoutError:
            self._give_up("it did not load the functions within worker_start_ms_max")
            raise DefinitionError(
                f"A worker did not load the functions within {self._limits.worker_start_ms_max} ms; "
                "the setting is worker_start_ms_max. Does a module do long work when it is imported?"
            ) from None
        except BaseException:
            self._give_up("it could not be started, or is no longer wanted")
            raise
        if self.gone:
            raise DefinitionError("A worker process ended as soon as it had loaded the functions")
        self.loaded = self.ready = True
        if self.retired:
            self.retire()
        return report

    async def _open(self) -> None:
        """Starts the process. Raises OSError; then there may be a process, but no channel to it."""
        self._report = asyncio.get_running_loop().create_future()
        started = self._processes.take()
        self._process = started.process
        try:
            reaping = (self._process, asyncio.get_running_loop())
            threading.Thread(target=self._reap, args=reaping, name="evolute-reaper", daemon=True).start()
            self._channel = await open_channel(
                started.channel,
                on_frame=self._on_frame,
                on_closed=self._on_closed,
                frame_bytes_max=self._limits.frame_bytes_max,
            )
        except BaseException:
            started.channel.close()
            raise

    async def _load(self, deployment: Deployment, data_path: str) -> Any:
        assert self._channel is not None
        assert self._report is not None
        payload = {
            "deployment": deployment.hash,
            "package": deployment.package,
            "root": deployment.root,
            "sources": dict(deployment.sources),
            "limits": dataclasses.asdict(self._limits),
            "data": data_path,
            "lane": self.lane,
        }
        self._channel.send(("load", payload))
        async with asyncio.timeout(self._limits.worker_start_ms_max / 1000):
            return await self._report

    def _give_up(self, because: str) -> None:
        self.leaving = True
        self.kill(because)
        if self._report is not None:
            self._report.cancel()
        if self._channel is None:
            self._on_closed(None)

    def submit(self, request: FunctionRequest, pending: Pending) -> None:
        """Sends the request, with what is pending and new to who was `shown` the rest. The future of `pending` is
        resolved here, or given back to the pool if the worker dies."""
        assert self._channel is not None
        assert not self.gone
        pending.sent_ns = monotonic_ns()
        try:
            self._channel.send(("request", request.to_wire()))
        except LimitReached as error:
            pending.future.set_exception(error)
            return
        if request.pending is not None:
            self.shown = request.pending.mark_after(self.shown)
        if not self.pending:
            self._head_since_ns = pending.sent_ns
        self.pending[request.id] = pending
        if self._watchdog is None:
            self._watch()

    def cancel(self, pending: Pending) -> None:
        """Ends an action, at its next await or with its process, and those that it has called."""
        for request_id, candidate in self.pending.items():
            if candidate is pending and self._channel is not None:
                if self.lane == "blocking":
                    self.retired = self.leaving = True
                    self.kill("its action was cancelled")
                else:
                    self._channel.send(("cancel", request_id))
                for task in [task for task, caller in self._nested_actions.items() if caller == request_id]:
                    task.cancel()

    def retire(self) -> None:
        """Takes no more requests; the process ends when it has answered those it holds."""
        self.retired = True
        if self.ready and not self.pending and not self.leaving and self._channel is not None:
            self.leaving = True
            self._channel.send(("exit",))

    def kill(self, because: str) -> None:
        """Ends the process at once. `on_gone` follows when its channel is closed."""
        if self.killed_because is None:
            self.killed_because = because
        if self._process is None or self._process.poll() is not None:
            return
        if self.lane == "blocking":  # with what the action has started, which nobody else knows of
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.send_signal(signal.SIGKILL)

    async def wait_gone(self) -> None:
        """Returns when the process has been reaped and its channel is closed."""
        if self._process is not None:
            await self._exited.wait()
            await self._closed.wait()

    def _reap(self, process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        """Waits, on a thread of its own, for the end of the process."""
        process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._on_exited, loop)

    def _on_exited(self, loop: asyncio.AbstractEventLoop) -> None:
        self._exited.set()
        if self._channel is not None and not self._channel.closed:
            # A process that an action forked may hold the channel open for ever.
            loop.call_later(LAST_WORDS_S, self._channel.abort)

    # --- What the worker says --------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        match frame[0]:
            case "outcome":
                self._on_outcome_frame(FunctionOutcome.from_wire(frame[1], self.chain))
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
        if self._report is None or self._report.done():
            return
        if error is None:
            self._report.set_result(report)
        else:
            self._report.set_exception(error)

    def _on_outcome_frame(self, outcome: FunctionOutcome) -> None:
        pending = self.pending.pop(outcome.id, None)
        self._head_since_ns = now_ns = monotonic_ns()
        self.is_late = False
        if outcome.exiting:
            self.retired = True
            self.leaving = self.lane != "action"  # an action worker ends when the others have
        if pending is None or pending.future.done():  # another was faster, or its caller is gone
            outcome.abandon()
        else:
            pending.future.set_result(outcome)
            if self._stages is not None:
                self._stages.note_run(pending.kind, pending.asked_ns, now_ns, outcome.busy_ns)
        self._on_outcome(self.lane)
        if self.retired:
            self.retire()

    def _on_callback(self, request_id: int, callback_id: int, operation: str, payload: Any) -> None:
        pending = self.pending.get(request_id)
        if pending is None or pending.callbacks is None:
            return  # The action has been answered; what it started and did not await may be dropped.
        task = asyncio.get_running_loop().create_task(
            self._answer(callback_id, pending.callbacks(pending.calls[0], operation, payload))
        )
        self._callback_tasks.add(task)
        task.add_done_callback(self._callback_tasks.discard)
        if operation == "run_action":
            self._nested_actions[task] = request_id
            task.add_done_callback(self._nested_actions.pop)

    async def _answer(self, callback_id: int, answer: Awaitable[tuple[bool, Any]]) -> None:
        assert self._channel is not None
        ok, payload = await answer
        self._channel.send(("reply", callback_id, ok, payload))

    def _on_closed(self, fault: Exception | None) -> None:
        if self.gone:
            return  # it was given up while its channel was being opened, and that has closed only now
        self.gone = True
        self.ready = False
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.kill(str(fault) if fault is not None else "it closed its channel")
        self._settle_loaded(None, DefinitionError("A worker process ended while it loaded the functions"))
        self._closed.set()
        self._on_gone(self)

    # --- Limits ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        interval_s = self._watch_interval_ns / NS_PER_S
        self._watchdog = asyncio.get_running_loop().call_later(interval_s, self._on_watchdog)

    def _on_watchdog(self) -> None:
        """The second stage of a time limit: it also ends C code and code that swallows the first."""
        self._watchdog = None
        if not self.pending or self.gone:
            return
        now_ns = monotonic_ns()
        if self.lane == "transaction":
            head = next(iter(self.pending.values()))
            if now_ns - self._head_since_ns > self._allowed_ns(head):
                self.overdue = head
                self.kill("time limit")
            elif now_ns - self._head_since_ns > self._watch_interval_ns:
                self.is_late = True
                self._on_late(self)
        else:
            if any(now_ns - pending.sent_ns > self._allowed_ns(pending) for pending in self.pending.values()):
                self.kill("time limit")
            if self.lane == "action":
                self._ping()
        self._watch()

    def _allowed_ns(self, pending: Pending) -> int:
        limits = self._limits
        user_ms = {
            "queries": limits.query_user_ms_max,
            "mutation": limits.mutation_user_ms_max,
            "action": limits.action_ms_max,
        }[pending.kind]
        return ((user_ms + limits.system_ms_max) * max(len(pending.calls), 1) + limits.kill_grace_ms) * NS_PER_MS

    def _ping(self) -> None:
        """A loop that answers none of six pings, sent every quarter of its limit, is not going to turn again."""
        self._unanswered_pings += 1
        if self._unanswered_pings > 6:
            self.kill("its event loop was blocked")
        elif self._channel is not None:
            self._channel.send(("ping",))
