"""A real server, started as a user would start it, for tests to talk to, kill and restart."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_S_MAX = 30.0


def _users_environment() -> dict[str, str]:
    """That of this process; but a user's Python keeps what it has compiled, and so a start does not begin with that."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class ServerProcess:
    """`evolute dev` on a free port, started in `folder`. `output` grows while it runs; `url` is where it serves."""

    def __init__(
        self,
        functions: Path,
        data: Path,
        *,
        command: str = "dev",
        port: int = 0,
        workers: int = 2,
        options: Sequence[str] = (),
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.functions = functions
        self.data = data
        self.output = ""
        self.url = ""
        self._seen = threading.Condition()
        self._has_ended = False
        arguments = ["--functions", str(functions), "--data", str(data), "--port", str(port), "--workers", str(workers)]
        arguments += options
        self.process = subprocess.Popen(
            [sys.executable, "-m", "evolute", command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**_users_environment(), **(environment or {})},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self) -> Self:
        """Waits until it serves. Raises AssertionError with its output if it ends first."""
        found = self.wait_for(r"(http://[\w.\-\[\]:]+:\d+)")
        self.url = found.group(1)
        return self

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def wait_for(self, pattern: str, *, after: int = 0, seconds: float = START_S_MAX) -> re.Match[str]:
        """Waits until the output, from character `after`, matches."""
        with self._seen:
            found: re.Match[str] | None = None

            def look() -> bool:
                nonlocal found
                found = re.search(pattern, self.output[after:])
                return found is not None or self._has_ended

            self._seen.wait_for(look, timeout=seconds)
            assert found is not None, f"no {pattern!r} in the output of the server:\n{self.output[after:]}"
            return found

    def children(self) -> list[int]:
        """The processes that the server has started and that still live."""
        return children_of(self.process.pid)

    def wait_deaf(self) -> None:
        """Waits until nobody is let in any more: it has heard a signal."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=START_S_MAX).close()
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                continue  # it was let in while the door closed
        raise AssertionError("the server still listens")

    def kill(self) -> None:
        """As a power cut: SIGKILL, nothing is flushed."""
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """In good order. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self, seconds: float = 30.0) -> int:
        code = self.process.wait(timeout=seconds)
        self._reader.join(timeout=5)
        return code

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills it if it still runs."""
        if self.process.poll() is None:
            self.kill()
        self._reader.join(timeout=5)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._seen:
                self.output += line
                self._seen.notify_all()
        with self._seen:
            self._has_ended = True
            self._seen.notify_all()


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(parent: int) -> list[int]:
    """The processes that it has started and that still live."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(status[1]) == parent and status[0] != "Z":
                found.append(int(entry.name))
    return found
