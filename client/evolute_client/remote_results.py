"""What the server has shown on this connection: one result for each query, all of them from one moment.

Each Transition starts exactly where the one before it ended. If one does not, something was lost, and only a new
connection, which starts from nothing, makes the view sound again.
"""

from __future__ import annotations

from typing import TypeAlias

from evolute.protocol.messages import (
    INITIAL_VERSION,
    Failure,
    QueryFailed,
    QueryRemoved,
    QueryUpdated,
    StateVersion,
    Success,
    Transition,
)

Result: TypeAlias = Success | Failure


class ProtocolBroken(Exception):
    """The server said what it may not say here; the connection is of no more use."""


class RemoteResults:
    def __init__(self, awaited: frozenset[int] = frozenset()) -> None:
        """`awaited` are the queries that were asked for when the connection began."""
        self.version = INITIAL_VERSION
        self._results: dict[int, Result] = {}
        self._awaited = set(awaited)

    @property
    def complete(self) -> bool:
        """Everything that was asked for when the connection began has been answered."""
        return not self._awaited

    def get(self, query_id: int) -> Result | None:
        return self._results.get(query_id)

    def forget(self, query_id: int) -> None:
        """Nobody waits for this query any more."""
        self._awaited.discard(query_id)

    def apply(self, transition: Transition) -> dict[int, Result]:
        """The results that it brings, by query. Raises ProtocolBroken and changes nothing if it does not fit."""
        self._check(transition.start, transition.end)
        updated: dict[int, Result] = {}
        for modification in transition.modifications:
            match modification:
                case QueryUpdated(query_id, value):
                    updated[query_id] = Success(value)
                case QueryFailed(query_id, error_message, error_data):
                    updated[query_id] = Failure(error_message, error_data)
                case QueryRemoved(query_id):
                    updated.pop(query_id, None)
                    self._results.pop(query_id, None)
                    self._awaited.discard(query_id)
                case bytes():
                    raise AssertionError("modifications are decoded on this side")
        self._results |= updated
        self._awaited -= updated.keys()
        self.version = transition.end
        return updated

    def _check(self, start: StateVersion, end: StateVersion) -> None:
        if start != self.version:
            raise ProtocolBroken(f"StartVersionMismatch: a Transition starts at {start}, the view is at {self.version}")
        if any(after < before for before, after in zip(start, end, strict=True)):
            raise ProtocolBroken(f"EndVersionMismatch: a Transition goes back from {start} to {end}")
