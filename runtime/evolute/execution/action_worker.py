"""The action lane of a worker: an event loop on which many actions run side by side."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

from evolute.clock import SystemClock
from evolute.database.snapshot import Snapshot
from evolute.execution.action_runner import ActionRunner, interruptible, task_of_action
from evolute.execution.async_channel import AsyncChannel, open_channel
from evolute.execution.channel import Frame
from evolute.execution.loop_watchdog import LoopWatchdog
from evolute.execution.outcome_frame import send_outcome, unanswerable
from evolute.execution.process_guard import ProcessGuard
from evolute.execution.request import FunctionRequest
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.storage.engine import Engine


def serve_actions(sock: socket.socket, registry: Registry, engine: Engine, limits: Limits) -> None:
    """Returns when the server says "exit" or closes the channel."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(task_of_action)
    worker = ActionWorker(loop, registry, engine, limits)
    serving = loop.create_task(worker.serve(sock))
    while not serving.done():
        try:
            loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt):
            continue  # raised by a task that an action started; asyncio lets these two through the loop


class ActionWorker:
    """Takes requests from the channel, runs them, carries callbacks and their replies."""

    def __init__(self, loop: asyncio.AbstractEventLoop, registry: Registry, engine: Engine, limits: Limits) -> None:
        self._loop = loop
        self._limits = limits
        self._package = registry.package
        self._runner = ActionRunner(registry, limits, SystemClock(), lambda: Snapshot(engine.reader()), ProcessGuard())
        self._watchdog = LoopWatchdog(loop, limits, lambda frame: interruptible(frame, registry.package))
        self._callback_ids = itertools.count(1)
        self._callbacks: dict[int, asyncio.Future[tuple[bool, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._channel: AsyncChannel | None = None

    async def serve(self, sock: socket.socket) -> None:
        self._channel = await open_channel(
            sock,
            on_frame=self._on_frame,
            on_closed=lambda fault: self._end(),
            frame_bytes_max=self._limits.frame_bytes_max,
        )
        await self._ended

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _on_frame(self, frame: Frame) -> None:
        match frame[0]:
            case "request":
                task = self._loop.create_task(self._run(FunctionRequest.from_wire(frame[1])))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "reply":
                _, callback_id, ok, payload = frame
                future = self._callbacks.pop(callback_id, None)
                if future is not None and not future.done():
                    future.set_result((ok, payload))
            case "cancel":
                # In the next turn: a request that came just before it is a task that has not run yet.
                self._loop.call_soon(self._runner.cancel, frame[1])
            case "ping":
                self._send(("pong",))
            case "exit":
                self._end()
            case name:
                raise AssertionError(f"unknown frame {name!r}")

    async def _run(self, request: FunctionRequest) -> None:
        self._watchdog.action_started()
        try:
            outcome = await self._runner.run_action(
                request, lambda operation, payload: self._ask(request.id, operation, payload)
            )
        except BaseException as error:
            outcome = unanswerable(request, error, self._package, self._limits)
        finally:
            self._watchdog.action_ended()
        send_outcome(self._send, outcome, self._limits)

    async def _ask(self, request_id: int, operation: str, payload: Any) -> tuple[bool, Any]:
        callback_id = next(self._callback_ids)
        future: asyncio.Future[tuple[bool, Any]] = self._loop.create_future()
        self._callbacks[callback_id] = future
        try:
            self._send(("callback", request_id, callback_id, operation, payload))
            return await future
        finally:
            self._callbacks.pop(callback_id, None)

    def _send(self, frame: Frame) -> None:
        assert self._channel is not None
        self._channel.send(frame)
