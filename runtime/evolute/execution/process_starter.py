"""How worker processes come to life: by exec, on one lifeline, and the first of them before anybody needs them.

Most of a worker's start is Python's imports, and so is most of the server's. The command line starts the first workers
before it imports the server, so that both import at once: this module imports little itself.

The lifeline is a pipe that nobody writes to. Every worker watches it, and ends when the server's end of it is closed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass

from evolute.config import worker_environment


@dataclass(frozen=True)
class StartedProcess:
    """A worker that imports its modules, or has, and waits for its first frame. Who takes it owns both."""

    process: subprocess.Popen[bytes]
    channel: socket.socket

    def abandon(self) -> None:
        """Ends and reaps it."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


class ProcessStarter:
    """Owns the lifeline, and the processes that were started ahead and nobody has taken."""

    def __init__(self) -> None:
        self._lifeline_read_fd, self._lifeline_write_fd = os.pipe()
        self._ahead: list[StartedProcess] = []
        self._closed = False

    def start_ahead(self, count: int) -> None:
        """Starts `count` processes that the next calls of `take` return. Raises OSError."""
        self._ahead.extend(self._start() for _ in range(count))

    def take(self) -> StartedProcess:
        """A process that was started ahead and lives, or a new one. Raises OSError."""
        while self._ahead:
            started = self._ahead.pop()
            if started.process.poll() is None:
                return started
            started.abandon()
        return self._start()

    def close(self) -> None:
        """Ends what nobody took, and lets every other worker see that the server is gone."""
        if self._closed:
            return
        self._closed = True
        while self._ahead:
            self._ahead.pop().abandon()
        for fd in (self._lifeline_read_fd, self._lifeline_write_fd):
            os.close(fd)

    def _start(self) -> StartedProcess:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                return StartedProcess(self._exec(theirs.fileno()), ours)
        except BaseException:
            ours.close()
            raise

    def _exec(self, channel_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "evolute.execution.worker", str(channel_fd), str(self._lifeline_read_fd)],
            pass_fds=(channel_fd, self._lifeline_read_fd),
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the server; a worker that is still importing could not ignore it
            env=worker_environment(),
        )
