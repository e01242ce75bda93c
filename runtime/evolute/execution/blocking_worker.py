"""The blocking lane of a worker: a plain loop that runs one action at a time, which has the process to itself.

load ──► "request" ──► the action ──► "outcome" ──► "request" ──► …
                         │  ▲
              "callback" ▼  │ "reply"      ctx.run_…: waits until the server has answered
"""

from __future__ import annotations

import itertools
from typing import Any

from evolute.clock import SystemClock
from evolute.database.snapshot import Snapshot
from evolute.execution.action_timer import ActionTimer
from evolute.execution.blocking_runner import BlockingRunner
from evolute.execution.channel import BlockingChannel
from evolute.execution.outcome_frame import send_outcome, unanswerable
from evolute.execution.process_guard import ProcessGuard
from evolute.execution.request import FunctionOutcome, FunctionRequest
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.storage.engine import Engine


def serve_blocking_actions(channel: BlockingChannel, registry: Registry, engine: Engine, limits: Limits) -> None:
    """Returns when the server says "exit", or when an action has left the process in doubt."""
    worker = BlockingWorker(channel, registry, engine, limits)
    while True:
        for frame in channel.recv():
            match frame[0]:
                case "request":
                    outcome = worker.run(FunctionRequest.from_wire(frame[1]))
                    if outcome.exiting:
                        return
                case "exit":
                    return
                case name:
                    raise AssertionError(f"unknown frame {name!r}")


class BlockingWorker:
    """Runs the requests of one process, and carries the callbacks of the action that runs."""

    def __init__(self, channel: BlockingChannel, registry: Registry, engine: Engine, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits
        self._package = registry.package
        self._timer = ActionTimer(limits, registry.package)
        self._runner = BlockingRunner(
            registry, limits, SystemClock(), lambda: Snapshot(engine.reader()), self._timer, ProcessGuard()
        )
        self._callback_ids = itertools.count(1)

    def run(self, request: FunctionRequest) -> FunctionOutcome:
        """Runs the action and sends its outcome."""
        try:
            outcome = self._runner.run_action(
                request, lambda operation, payload: self._ask(request.id, operation, payload)
            )
        except BaseException as error:
            outcome = unanswerable(request, error, self._package, self._limits)
        send_outcome(self._channel.send, outcome, self._limits)
        return outcome

    def _ask(self, request_id: int, operation: str, payload: Any) -> tuple[bool, Any]:
        """Raises TimeLimit; then the reply may still come, but the process ends with its action."""
        self._timer.left_s()
        callback_id = next(self._callback_ids)
        self._channel.send(("callback", request_id, callback_id, operation, payload))
        while not self._channel.wait_readable(self._timer.left_s()):
            pass  # the timer says so
        ((name, number, ok, answer),) = self._channel.recv()
        assert (name, number) == ("reply", callback_id), f"who waits for an answer is sent nothing else, but {name!r}"
        return ok, answer
