"""What this client wants to see: its live queries, and what the server has not yet been told about them.

Two subscriptions of one function with equal arguments are one query. Ids are never used again. Changes collect until
`take_change` turns them into one ModifyQuerySet, so a query that is added and removed in between is never mentioned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from evolute.errors import FunctionNotFound
from evolute.protocol.messages import AddQuery, ModifyQuerySet, RemoveQuery
from evolute.values.function_path import canonical_path

QueryKey: TypeAlias = tuple[str, bytes]
"""Path and arguments, both in their one spelling."""


def query_key(path: str, arguments: bytes) -> QueryKey:
    """A path that names no function is its own spelling: it is the server who says so."""
    try:
        return canonical_path(path), arguments
    except FunctionNotFound:
        return path, arguments


@dataclass
class _LiveQuery:
    path: str
    arguments: bytes
    subscribers: int = 0
    journal: str | None = None


class LocalQuerySet:
    def __init__(self) -> None:
        self._next_id = 0
        self._live: dict[int, _LiveQuery] = {}
        self._id_of: dict[QueryKey, int] = {}
        self._changes: dict[int, AddQuery | RemoveQuery] = {}
        self._restarted = True
        self.version = 0
        """The last version that the server was told of on this connection."""

    def __contains__(self, query_id: int) -> bool:
        return query_id in self._live

    def path(self, query_id: int) -> str:
        return self._live[query_id].path

    def key(self, query_id: int) -> QueryKey:
        live = self._live[query_id]
        return query_key(live.path, live.arguments)

    def find(self, key: QueryKey) -> int | None:
        """The id of the query, if there is a subscriber."""
        return self._id_of.get(key)

    def add(self, path: str, arguments: bytes) -> int:
        """The id of the query; each `add` needs its `remove`."""
        key = query_key(path, arguments)
        query_id = self._id_of.get(key)
        if query_id is None:
            query_id, self._next_id = self._next_id, self._next_id + 1
            self._id_of[key] = query_id
            self._live[query_id] = _LiveQuery(path, arguments)
            self._changes[query_id] = self._added(query_id)
        self._live[query_id].subscribers += 1
        return query_id

    def remove(self, query_id: int) -> None:
        """One subscriber less; the query goes with its last."""
        live = self._live[query_id]
        live.subscribers -= 1
        if live.subscribers:
            return
        del self._live[query_id], self._id_of[query_key(live.path, live.arguments)]
        if isinstance(self._changes.get(query_id), AddQuery):
            del self._changes[query_id]
        else:
            self._changes[query_id] = RemoveQuery(query_id)

    def set_journal(self, query_id: int, journal: str | None) -> None:
        """Kept to be handed back when the query is added again after a reconnect."""
        if query_id in self._live:
            self._live[query_id].journal = journal

    def restart(self) -> frozenset[int]:
        """A new connection: the server knows nothing. Gives the queries that it will be asked for first."""
        self._changes = {query_id: self._added(query_id) for query_id in self._live}
        self._restarted = True
        self.version = 0
        return frozenset(self._live)

    def take_change(self) -> ModifyQuerySet | None:
        """What to tell the server. The first message of a connection is sent even if it asks for nothing."""
        if not self._changes and not self._restarted:
            return None
        change = ModifyQuerySet(self.version, self.version + 1, tuple(self._changes.values()))
        self._changes = {}
        self._restarted = False
        self.version += 1
        return change

    def _added(self, query_id: int) -> AddQuery:
        live = self._live[query_id]
        return AddQuery(query_id, live.path, live.arguments, live.journal)
