"""The server's record of what ran: the latest finished calls, and listeners that are told of each as it ends.

The server prints from it in development, and a dashboard may show it. It is bounded in entries and in bytes; the oldest
go first.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from evolute.clock import NS_PER_MS
from evolute.execution.call_durations import CallDurations
from evolute.limits import Limits

logger = logging.getLogger("evolute.calls")

ENTRY_BYTES = 200  # what an entry weighs beside its texts


class CallLogEntry(NamedTuple):
    """One call that ended. `error` is the developer's text, None on success; `job` is the scheduled job that it ran,
    `session` the (session id, request id) of a client's mutation."""

    path: str
    kind: str
    started_ns: int
    duration_ms: float
    log_lines: tuple[str, ...]
    error: str | None
    job: str | None
    session: tuple[str, int] | None = None

    @property
    def ended_ms(self) -> float:
        return self.started_ns / NS_PER_MS + self.duration_ms


class CallLog:
    """For the event loop's thread only. `durations` are of all calls, whether or not their entries are still kept."""

    def __init__(self, limits: Limits) -> None:
        self.durations = CallDurations()
        self._entries_max = limits.function_log_entries_max
        self._bytes_max = limits.function_log_bytes_max
        self._entries: deque[tuple[CallLogEntry, int]] = deque()  # with what it weighs
        self._bytes = 0
        self._listeners: dict[object, Callable[[CallLogEntry], None]] = {}

    def add(self, entry: CallLogEntry) -> None:
        """Keeps the entry and tells every listener, synchronously."""
        self.durations.add(entry.kind, entry.duration_ms, failed=entry.error is not None)
        entries, weight = self._entries, _weight(entry)
        entries.append((entry, weight))
        self._bytes += weight
        while len(entries) > self._entries_max or self._bytes > self._bytes_max:
            self._bytes -= entries.popleft()[1]
        for listener in list(self._listeners.values()):
            try:
                listener(entry)
            except Exception:  # The call has happened, whatever becomes of telling: a terminal may be gone.
                logger.exception("a listener of the call log failed")

    def entries(self) -> tuple[CallLogEntry, ...]:
        """Those still kept, oldest first."""
        return tuple(entry for entry, _ in self._entries)

    def listen(self, listener: Callable[[CallLogEntry], None]) -> Callable[[], None]:
        """Calls `listener`, which must be quick, for every entry until the returned function is called."""
        key = object()
        self._listeners[key] = listener

        def stop() -> None:
            self._listeners.pop(key, None)

        return stop


def _weight(entry: CallLogEntry) -> int:
    return ENTRY_BYTES + sum(map(len, entry.log_lines)) + len(entry.error or "")
