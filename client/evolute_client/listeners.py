"""Who listens to which queries. A step changes many results at once; each listener is told once, after all of them.

So a listener of several queries, asking for all of their results, gets those of one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

from evolute_client.local_store import Result
from evolute_client.state_machine import StateMachine


class Listener(Protocol):
    def news(self, results: Mapping[int, Result | None]) -> None:
        """Some of its queries have changed: these, among others."""

    def end(self, error: Exception | None) -> None:
        """Nothing more will come, because of `error` if there is one."""


class Listeners:
    def __init__(self, state: StateMachine, wake: Callable[[], None]) -> None:
        """`wake` is called when there is something to send."""
        self._state = state
        self._wake = wake
        self._of_query: dict[int, list[Listener]] = {}
        self._queries_of: dict[Listener, list[int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, path: str, arguments: bytes, listener: Listener) -> int:
        """The query's id. A listener may add one query several times, and needs as many `remove`."""
        self._loop = self._loop or asyncio.get_running_loop()
        query_id = self._state.subscribe(path, arguments)
        self._of_query.setdefault(query_id, []).append(listener)
        self._queries_of.setdefault(listener, []).append(query_id)
        self._wake()
        return query_id

    def remove(self, query_id: int, listener: Listener) -> None:
        self._queries_of[listener].remove(query_id)
        self._of_query[query_id].remove(listener)
        if not self._of_query[query_id]:
            del self._of_query[query_id]
        self._state.unsubscribe(query_id)
        self._wake()

    def remove_all(self, listener: Listener) -> None:
        """Safe to call twice."""
        for query_id in list(self._queries_of.get(listener, ())):
            self.remove(query_id, listener)
        self._queries_of.pop(listener, None)

    def remove_soon(self, listener: Listener) -> None:
        """From any thread: the last reference to what has a listener may go anywhere."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the client
                self._loop.call_soon_threadsafe(self.remove_all, listener)

    def result(self, query_id: int) -> Result | None:
        """What a new listener is shown at once."""
        return self._state.result(query_id)

    def shown(self, query_id: int) -> Result | None:
        """What all listeners were shown last."""
        return self._state.shown(query_id)

    def deliver(self, results: Mapping[int, Result | None]) -> None:
        told = (listener for query_id in results for listener in self._of_query.get(query_id, ()))
        for listener in dict.fromkeys(told):
            listener.news(results)

    def end(self, error: Exception | None) -> None:
        for listener in self._queries_of:
            listener.end(error)
