"""What a function prints or logs while it runs becomes the log lines of its call (semantics G4).

A writer stands in front of sys.stdout and a handler on the root logger. Both ask a context variable which call is
running here, so concurrent actions and the threads of `asyncio.to_thread` find their own; outside a call they pass on
to what was there before. A line is "[LEVEL] text".
"""

from __future__ import annotations

import io
import logging
import sys
from contextvars import ContextVar, Token
from typing import TextIO

from evolute.limits import Limits

TRUNCATED = " (truncated due to length)"

_running: ContextVar[LogLines | None] = ContextVar("evolute_log_lines", default=None)


class LogLines:
    """The lines of one call. The last line that the limit allows says that there were more."""

    def __init__(self, limits: Limits) -> None:
        self._lines_max = limits.log_lines_max
        self._line_bytes_max = limits.log_line_bytes_max
        self._lines: list[str] = []
        self._printed: list[str] = []
        self._printed_length = 0

    def add(self, level: str, text: str) -> None:
        if len(self._lines) >= self._lines_max:
            return
        if len(self._lines) == self._lines_max - 1:
            self._lines.append(f"[ERROR] Log overflow (maximum {self._lines_max}). Remaining log lines omitted.")
            return
        self._lines.append(cut(printable(f"[{level}] {text}"), self._line_bytes_max, TRUNCATED))

    def write(self, text: str) -> None:
        """Takes a piece of what is printed; a line is complete at its newline or at the end of the call."""
        *complete, rest = text.split("\n")
        for line in complete:
            self._keep(line)
            self._end_line()
            if len(self._lines) >= self._lines_max:
                return
        self._keep(rest)

    def finish(self) -> tuple[str, ...]:
        """The lines, what was printed without a newline included."""
        if self._printed_length:
            self._end_line()
        return tuple(self._lines)

    def _keep(self, text: str) -> None:
        if text and self._printed_length <= self._line_bytes_max:
            self._printed.append(text[: self._line_bytes_max + 1])
            self._printed_length += len(text)

    def _end_line(self) -> None:
        self.add("LOG", "".join(self._printed))
        self._printed.clear()
        self._printed_length = 0


def printable(text: str) -> str:
    """What functions print and raise may hold lone surrogates, which no terminal, store or client takes: now `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cut(text: str, bytes_max: int, suffix: str) -> str:
    """`text`, or as much of its beginning as fits in `bytes_max` bytes of UTF-8 together with `suffix`."""
    if len(text) * 4 <= bytes_max:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= bytes_max:
        return text
    return data[: max(bytes_max - len(suffix), 0)].decode("utf-8", "ignore") + suffix


class Captured:
    """What is printed and logged inside, in this context, goes to `lines`."""

    __slots__ = ("_lines", "_token")

    def __init__(self, lines: LogLines) -> None:
        self._lines = lines

    def __enter__(self) -> None:
        if not isinstance(sys.stdout, _CallWriter):
            install()  # a test's process, whose test runner changes sys.stdout
        self._token: Token[LogLines | None] = _running.set(self._lines)

    def __exit__(self, *_: object) -> None:
        _running.reset(self._token)


class _CallWriter(io.TextIOBase):
    """Stands in for sys.stdout, which was `outside`."""

    encoding = "utf-8"

    def __init__(self, outside: TextIO) -> None:
        self._outside = outside

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        lines = _running.get()
        if lines is None:
            return self._outside.write(text)
        lines.write(text)
        return len(text)

    def flush(self) -> None:
        if _running.get() is None:
            self._outside.flush()

    def fileno(self) -> int:
        return self._outside.fileno()


class _CallHandler(logging.Handler):
    """Puts a log record among the lines of the call that runs; outside a call the record goes to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            lines = _running.get()
            if lines is None:
                print(f"[{_level(record.levelno)}] {text}", file=sys.stderr)
            else:
                lines.add(_level(record.levelno), text)
        except Exception:
            self.handleError(record)


def _level(levelno: int) -> str:
    if levelno >= logging.ERROR:
        return "ERROR"
    if levelno >= logging.WARNING:
        return "WARN"
    return "INFO" if levelno >= logging.INFO else "DEBUG"


def install() -> None:
    """Call after the functions are imported, so that a `logging.basicConfig` of theirs still counts.

    A root logger that nobody set a level on lets INFO through. Doing it twice changes nothing.
    """
    if not isinstance(sys.stdout, _CallWriter):
        sys.stdout = _CallWriter(sys.stdout)
    root = logging.getLogger()
    if not any(isinstance(handler, _CallHandler) for handler in root.handlers):
        root.addHandler(_CallHandler())
        if root.level == logging.WARNING:
            root.setLevel(logging.INFO)
