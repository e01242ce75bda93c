"""A peer that is a server: a process of its own, on a free port, with the interpreter that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks.measures import ROOT
from tests.benchmarks.sockets import connected, free_port

START_S_MAX = 20.0


class PeerServer:
    """Runs `python -m tests.benchmarks.peers.<name> PORT ...` while the block runs."""

    def __init__(self, name: str, *arguments: object, python: Path = Path(sys.executable)) -> None:
        self.port = free_port()
        module = f"tests.benchmarks.peers.{name}"
        command = [str(python), "-m", module, str(self.port), *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)})

    def children(self) -> list[int]:
        return []

    def __enter__(self) -> Self:
        deadline_s = time.monotonic() + START_S_MAX
        while True:
            try:
                connected(self.port).close()
                return self
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    self._end()
                    raise RuntimeError(f"{self.process.args!r} does not listen") from None
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
