"""A client in a process of its own: it prints what it has reached, line by line, and can be told to go on."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 60.0


class ClientProcess:
    """Runs `command`. Every wait is bounded, and whatever happens the process is gone after the `with` block."""

    def __init__(
        self, command: Sequence[str], *, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.lines: list[str] = []
        self.complaint = ""
        self._seen = threading.Condition()
        self._has_ended = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=folder,
            env=environment,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_complaint)]
        for reader in self._readers:
            reader.start()

    def wait_for(self, line: str) -> None:
        """Waits until the client has printed `line`. Raises AssertionError with all that it said if it does not."""
        with self._seen:
            self._seen.wait_for(lambda: line in self.lines or self._has_ended, timeout=PATIENCE_S)
        assert line in self.lines, f"the client has not come to {line!r}:\n{self._said()}"

    def wait_for_match(self, pattern: str, *, after: int = 0) -> int:
        """Waits for a line that matches as a whole, from line `after` on; returns the number of the line behind it."""

        def found() -> int | None:
            return next((n for n in range(after, len(self.lines)) if re.fullmatch(pattern, self.lines[n])), None)

        with self._seen:
            self._seen.wait_for(lambda: found() is not None or self._has_ended, timeout=PATIENCE_S)
            number = found()
        assert number is not None, f"the client has not come to {pattern!r}:\n{self._said()}"
        return number + 1

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def finish(self) -> list[str]:
        """Waits for its end, which must be a good one; returns the lines that it printed."""
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the client hangs:\n{self._said()}") from None
        for reader in self._readers:
            reader.join(PATIENCE_S)
        assert code == 0, f"the client ended with {code}:\n{self._said()}"
        return self.lines

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(PATIENCE_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._seen:
                self.lines.append(line.rstrip("\n"))
                self._seen.notify_all()
        with self._seen:
            self._has_ended = True
            self._seen.notify_all()

    def _read_complaint(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.complaint += line

    def _said(self) -> str:
        return "\n".join([*self.lines, self.complaint])
