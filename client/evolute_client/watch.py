"""Several queries seen together: whenever one of them changes, the results of all, from one moment of the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute_client.feed import Feed
from evolute_client.listeners import Listeners
from evolute_client.local_store import Result
from evolute_client.opened import opened
from evolute_client.stream import Stream


class _Views(Feed[dict[str, Result]]):
    def __init__(self, listeners: Listeners, queries: Mapping[str, tuple[str, bytes]]) -> None:
        super().__init__()
        self._listeners = listeners
        self._query_ids = {name: listeners.add(path, arguments, self) for name, (path, arguments) in queries.items()}
        self._offer({name: listeners.result(query_id) for name, query_id in self._query_ids.items()})

    def news(self, results: Mapping[int, Result | None]) -> None:
        self._offer({name: self._listeners.shown(query_id) for name, query_id in self._query_ids.items()})

    def _offer(self, view: Mapping[str, Result | None]) -> None:
        complete = {name: result for name, result in view.items() if result is not None}
        self.offer(complete if len(complete) == len(view) else None)


class Watch(Stream[dict[str, Any]]):
    """Iterate over it for views: the result of every query by its name, all of them of one moment.

    The first comes when all queries have a result, the next whenever one of them has changed. If one fails, that is
    raised in the loop, with a note that names it; iterating again waits for the next view.
    """

    def __init__(self, listeners: Listeners, queries: Mapping[str, tuple[str, bytes]]) -> None:
        if not queries:
            raise ValueError("watch at least one query")
        self._views = _Views(listeners, queries)
        super().__init__(listeners, self._views)

    async def __anext__(self) -> dict[str, Any]:
        view = await self._views.wait_next()
        return {name: _opened(name, result) for name, result in view.items()}


def _opened(name: str, result: Result) -> Any:
    try:
        return opened(result)
    except Exception as error:
        error.add_note(f"of {name!r} in a watch")
        raise
