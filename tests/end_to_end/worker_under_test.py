"""A real worker process, with the test in the place of the server."""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

from evolute.config import worker_environment
from evolute.execution.channel import BlockingChannel, Frame
from evolute.execution.request import FunctionOutcome, FunctionRequest
from tests.unit.function_store import FunctionStore

ANSWER_S_MAX = 20


class WorkerUnderTest:
    """Started on construction; `loaded` is its first frame."""

    def __init__(
        self, store: FunctionStore, lane: str = "transaction", sources: dict[str, bytes] | None = None
    ) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(ANSWER_S_MAX)
        lifeline, self._lifeline = os.pipe()
        command = [sys.executable, "-P", "-m", "evolute.execution.worker", str(theirs.fileno()), str(lifeline)]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(), lifeline), env=worker_environment(), stderr=subprocess.PIPE
        )
        theirs.close()
        os.close(lifeline)
        self._socket = ours
        self._channel = BlockingChannel(ours, store.limits.frame_bytes_max)
        self._frames: list[Frame] = []
        deployment = store.deployment
        self.send(
            "load",
            {
                "deployment": deployment.hash,
                "package": deployment.package,
                "root": deployment.root,
                "sources": dict(deployment.sources) if sources is None else sources,
                "limits": dataclasses.asdict(store.limits),
                "data": str(store.path),
                "lane": lane,
            },
        )
        self.loaded = self.receive()

    def send(self, *frame: Any) -> None:
        self._channel.send(frame)

    def receive(self) -> Frame:
        while not self._frames:
            self._frames = self._channel.recv()
        return self._frames.pop(0)

    def outcome(self) -> FunctionOutcome:
        name, wire = self.receive()
        assert name == "outcome"
        return FunctionOutcome.from_wire(wire)

    def run(self, request: FunctionRequest) -> FunctionOutcome:
        self.send("request", request.to_wire())
        return self.outcome()

    def answers_within(self, seconds: float) -> bool:
        """Whether anything arrives in that time."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close_lifeline(self) -> None:
        """As the end of the server does."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(ANSWER_S_MAX)

    def close(self) -> str:
        """Ends the process if it has not ended; what it wrote to stderr."""
        self.close_lifeline()
        self._socket.close()
        self.process.kill()
        _, stderr = self.process.communicate(timeout=ANSWER_S_MAX)
        return stderr.decode()
