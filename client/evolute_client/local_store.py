"""What an optimistic update sees and changes: the results of this client's queries, as if the mutation had happened.

    def show_at_once(store: LocalStore) -> None:
        messages = store.get_query("messages:list", {"channel": channel})
        if messages is not None:
            store.set_query("messages:list", {"channel": channel}, [*messages, {"body": body}])

An update may run many times, each time on newer results, so it must do nothing but read and set. It is given results
that it may change: they are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from evolute.protocol.messages import Failure, Success
from evolute.values import wire_codec
from evolute_client.local_query_set import QueryKey, query_key

Result: TypeAlias = Success | Failure

NOTHING: Mapping[str, object] = {}


class QueryEntry(NamedTuple):
    """One query that has a result."""

    arguments: dict[str, Any]
    value: Any


class LocalStore:
    """Good while the update runs that it was made for. Raises InvalidValue for what is none."""

    def __init__(self, below: Callable[[QueryKey], Result | None], keys: Callable[[], Iterator[QueryKey]]) -> None:
        """`below` are the results without this update, `keys` the queries that have any."""
        self._below = below
        self._keys = keys
        self._set: dict[QueryKey, Result] = {}
        self._is_open = True

    def get_query(self, path: str, arguments: Mapping[str, object] = NOTHING, default: Any = None) -> Any:
        """The query's result; `default` if nobody is subscribed to it, or it has none yet, or it failed."""
        self._check_open()
        key = query_key(path, wire_codec.encode(dict(arguments)))
        result = self._set.get(key) or self._below(key)
        return wire_codec.decode(result.value) if isinstance(result, Success) else default

    def set_query(self, path: str, arguments: Mapping[str, object], value: object) -> None:
        """What the query's subscribers are shown while the mutation is on its way."""
        self._check_open()
        self._set[query_key(path, wire_codec.encode(dict(arguments)))] = Success(wire_codec.encode(value))

    def get_all_queries(self, path: str) -> list[QueryEntry]:
        """All queries of this function that have a result: with whatever arguments."""
        self._check_open()
        wanted, _ = query_key(path, b"")
        found: list[QueryEntry] = []
        for key in dict.fromkeys([*self._keys(), *self._set]):
            result = self._set.get(key) or self._below(key)
            if key[0] == wanted and isinstance(result, Success):
                arguments = wire_codec.decode(key[1])
                assert isinstance(arguments, dict)
                found.append(QueryEntry(arguments, wire_codec.decode(result.value)))
        return found

    def close(self) -> dict[QueryKey, Result]:
        """The results that were set."""
        self._is_open = False
        return self._set

    def _check_open(self) -> None:
        if not self._is_open:
            raise RuntimeError("The optimistic update has ended; its store is of no more use.")


OptimisticUpdate: TypeAlias = Callable[[LocalStore], object]
