"""Iteration over news, and its end: with the block, by `close`, with the client, or when nobody holds it any more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

from evolute_client.listeners import Listener, Listeners

T_co = TypeVar("T_co", covariant=True)


class Stream(ABC, Generic[T_co]):
    """Use on the client's event loop. It may be let go of anywhere."""

    def __init__(self, listeners: Listeners, listener: Listener) -> None:
        self._listeners = listeners
        self._listener = listener

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> T_co: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The server stops computing what was listened to here, unless somebody else listens. Safe to call twice."""
        self._listener.end(None)
        self._listeners.remove_all(self._listener)

    def __del__(self) -> None:
        if hasattr(self, "_listener"):  # else its making has failed
            self._listeners.remove_soon(self._listener)
