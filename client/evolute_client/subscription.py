"""One subscriber's view of a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, cast

from evolute_client.feed import Feed
from evolute_client.listeners import Listeners
from evolute_client.local_store import Result
from evolute_client.opened import opened
from evolute_client.stream import Stream

T_co = TypeVar("T_co", covariant=True)


class _Results(Feed[Result]):
    """The results of one query."""

    def __init__(self, listeners: Listeners, path: str, arguments: bytes) -> None:
        super().__init__()
        self._query_id = listeners.add(path, arguments, self)
        self.offer(listeners.result(self._query_id))

    def news(self, results: Mapping[int, Result | None]) -> None:
        self.offer(results[self._query_id])


class Subscription(Stream[T_co]):
    """Iterate over it for the query's results: the present one, then each that differs from the one before.

    A query that fails raises in the loop (ConvexError or FunctionError); the subscription stays live, so iterating
    again waits for the query to recover.
    """

    def __init__(self, listeners: Listeners, path: str, arguments: bytes) -> None:
        self._results = _Results(listeners, path, arguments)
        super().__init__(listeners, self._results)

    async def __anext__(self) -> T_co:
        return cast(T_co, opened(await self._results.wait_next()))
