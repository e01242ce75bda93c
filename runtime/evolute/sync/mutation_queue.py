"""The mutations of one session, which run one at a time in the order received.

    add ──► waiting ──► start_next ──► running ── committed ──► unanswered ── done ──► answered

Between its commit and its answer a mutation is *unanswered*: no Transition may show it.
"""

from __future__ import annotations

from collections import deque

from evolute.execution.request import Call, CallError


class MutationQueue:
    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Call | CallError]] = deque()
        self._running: int | None = None
        self._running_bytes = 0
        self._committed_ts: int | None = None
        self.bytes = 0
        """The arguments of those that wait and of the one that runs."""

    def __len__(self) -> int:
        """Those that wait."""
        return len(self._waiting)

    @property
    def runs(self) -> bool:
        return self._running is not None

    def add(self, request_id: int, call: Call | CallError) -> None:
        self._waiting.append((request_id, call))
        self.bytes += _bytes_of(call)

    def start_next(self) -> tuple[int, Call | CallError] | None:
        """The next one, unless one runs. What cannot be run is not counted as running: its answer is known."""
        if self._running is not None or not self._waiting:
            return None
        request_id, call = self._waiting.popleft()
        if isinstance(call, Call):
            self._running = request_id
            self._running_bytes = len(call.arguments)
        return request_id, call

    def committed(self, ts: int) -> None:
        assert self._running is not None
        self._committed_ts = ts

    def hides(self, ts: int) -> bool:
        """Whether a Transition at `ts` would show what has not been answered."""
        return self._committed_ts is not None and self._committed_ts <= ts

    def done(self) -> int:
        """The running one has ended; returns its request id."""
        assert self._running is not None
        request_id, self._running, self._committed_ts = self._running, None, None
        self.bytes -= self._running_bytes
        self._running_bytes = 0
        return request_id

    def clear(self) -> None:
        """Those that have not started never will."""
        self._waiting.clear()
        self.bytes = self._running_bytes


def _bytes_of(call: Call | CallError) -> int:
    return len(call.arguments) if isinstance(call, Call) else 0
