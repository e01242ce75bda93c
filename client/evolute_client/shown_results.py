"""What callers are shown: the server's results, and over them what mutations on their way are expected to change.

    server's results   [a b]      [a b c]          the Transition that shows c
    update of c        [a b c*]                    is dropped in the same step
    update of d        [a b c* d*]  [a b c d*]     runs again, on the newer results

Updates run in the order of their mutations, each on what the one before it left. The server's results outlive the
connection, until the first Transition of the next one: without a connection, updates show too.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping

from evolute_client.local_query_set import QueryKey
from evolute_client.local_store import LocalStore, OptimisticUpdate, Result


class ShownResults:
    def __init__(self) -> None:
        self._server: dict[QueryKey, Result] = {}
        self._updates: dict[int, OptimisticUpdate] = {}
        self._over: dict[QueryKey, Result] = {}
        self._faults: list[Exception] = []

    def get(self, key: QueryKey) -> Result | None:
        return self._over.get(key) or self._server.get(key)

    def expected(self, key: QueryKey) -> Result | None:
        """What an update has set."""
        return self._over.get(key)

    def add(self, request_id: int, update: OptimisticUpdate) -> dict[QueryKey, Result | None]:
        """What changes. Raises whatever the update does; then nothing has changed."""
        before = dict(self._over)
        self._lay_over(update)
        self._updates[request_id] = update
        return self._changes(before)

    def drop(self, request_ids: Collection[int]) -> dict[QueryKey, Result | None]:
        """The mutations have failed, or are shown already. What changes; None is what there is no result of now."""
        return self._replay(request_ids) if self._updates.keys() & set(request_ids) else {}

    def show(
        self, results: Mapping[QueryKey, Result], request_ids: Collection[int], *, restarted: bool
    ) -> dict[QueryKey, Result | None]:
        """The server's newer results, in which these mutations show. `restarted`: it has no others."""
        if restarted:
            self._server = {}
        self._server |= results
        if not self._updates:
            return dict(results)
        changes = self._replay(request_ids)
        return {key: self.get(key) for key in results} | changes

    def forget(self, key: QueryKey) -> None:
        """Nobody is subscribed any more."""
        self._server.pop(key, None)

    def take_faults(self) -> list[Exception]:
        """What updates have raised that had worked before. They are not run again."""
        faults, self._faults = self._faults, []
        return faults

    def _replay(self, done: Collection[int]) -> dict[QueryKey, Result | None]:
        before, self._over = self._over, {}
        for request_id, update in list(self._updates.items()):
            if request_id in done:
                del self._updates[request_id]
                continue
            try:
                self._lay_over(update)
            except Exception as error:  # the application's own: told by the driver, and the mutation goes its way
                del self._updates[request_id]
                self._faults.append(error)
        return self._changes(before)

    def _lay_over(self, update: OptimisticUpdate) -> None:
        store = LocalStore(self.get, self._keys)
        try:
            returned = update(store)
        finally:
            changes = store.close()
        if inspect.isawaitable(returned):
            if inspect.iscoroutine(returned):
                returned.close()
            raise TypeError("an optimistic update is a plain function; it runs at once, and whenever results change")
        self._over |= changes

    def _keys(self) -> Iterator[QueryKey]:
        yield from dict.fromkeys([*self._server, *self._over])

    def _changes(self, before: Mapping[QueryKey, Result]) -> dict[QueryKey, Result | None]:
        either = dict.fromkeys([*before, *self._over])
        return {key: self.get(key) for key in either if before.get(key) != self._over.get(key)}
