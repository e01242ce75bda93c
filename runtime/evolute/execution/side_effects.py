"""Queries and mutations may run more than once, so while one runs this process refuses what cannot be undone.

An audit hook sees sockets, files opened for writing and processes before they happen; threads have no audit event in
Python 3.11, so `Thread.start` is patched. Reading files, importing modules, printing and logging are free. Native code
is not seen: this guards against mistakes, it is not a sandbox.
"""

from __future__ import annotations

import os
import sys
import threading

from evolute.errors import SideEffectRefused

_NETWORK = "open a socket"
_FILES = "change files"
_PROCESS = "start a process"
_THREAD = "start a thread"

_REFUSED: dict[str, str] = {
    "socket.__new__": _NETWORK,
    "socket.connect": _NETWORK,
    "socket.bind": _NETWORK,
    "socket.sendto": _NETWORK,
    "socket.getaddrinfo": _NETWORK,
    "socket.gethostbyname": _NETWORK,
    "subprocess.Popen": _PROCESS,
    "os.system": _PROCESS,
    "os.exec": _PROCESS,
    "os.fork": _PROCESS,
    "os.forkpty": _PROCESS,
    "os.posix_spawn": _PROCESS,
    "os.spawn": _PROCESS,
    "os.remove": _FILES,
    "os.rename": _FILES,
    "os.rmdir": _FILES,
    "os.mkdir": _FILES,
    "os.link": _FILES,
    "os.symlink": _FILES,
    "os.truncate": _FILES,
    "_thread.start_new_thread": _THREAD,
    "_thread.start_joinable_thread": _THREAD,
}
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OPEN = "open a file for writing"

_guarded_threads: set[int] = set()  # those that run a query or mutation now: a worker's one, several in tests
_installed = False


def install() -> None:
    """Adds the hook, which stays for the life of the process. Doing it twice changes nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    sys.addaudithook(_audit)
    start = threading.Thread.start

    def guarded_start(thread: threading.Thread) -> None:
        if threading.get_ident() in _guarded_threads:
            raise _refusal(_THREAD)
        start(thread)

    threading.Thread.start = guarded_start  # type: ignore[method-assign, assignment]


class Refused:
    """While inside, this thread gets SideEffectRefused for every side effect. Other threads are left alone."""

    __slots__ = ("_guarded",)

    def __enter__(self) -> None:
        thread = threading.get_ident()
        self._guarded = None if thread in _guarded_threads else thread  # by whoever is around this one
        _guarded_threads.add(thread)

    def __exit__(self, *_: object) -> None:
        if self._guarded is not None:
            _guarded_threads.discard(self._guarded)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _guarded_threads:
        return
    if event == "open":
        action = _OPEN if _opens_for_writing(arguments) else None
    else:
        action = _REFUSED.get(event)
    if action is not None and threading.get_ident() in _guarded_threads:
        raise _refusal(action)


def _opens_for_writing(arguments: tuple[object, ...]) -> bool:
    path, mode, flags = arguments
    if path in (os.devnull, os.devnull.encode()):
        return False
    if isinstance(mode, str):
        return not set(mode).isdisjoint("wax+")
    return isinstance(flags, int) and bool(flags & _WRITING_FLAGS)


def _refusal(action: str) -> SideEffectRefused:
    return SideEffectRefused(
        f"Can't {action} in queries and mutations. Use an action: queries and mutations may run more than once, "
        "and a mutation can schedule an action with ctx.scheduler.run_after."
    )
