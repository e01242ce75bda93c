"""What one reader has not seen yet: the newest of what was offered to him.

    client ──offer──► Feed (holds one item) ──wait_next──► reader

A reader who is slow skips what has been overtaken and never falls behind. What is the same as the one before, as after
a reconnect, is not given again.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._newest: T | None = None
        self._unseen = False
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        return self._ended

    def offer(self, item: T | None) -> None:
        """None takes back what was offered before, if the reader has not seen it."""
        if item == self._newest:
            return
        self._newest, self._unseen = item, item is not None
        self._news.set()

    def end(self, error: Exception | None = None) -> None:
        """No more items: the reader's loop ends, or raises `error`."""
        self._ended, self._error = True, self._error or error
        self._news.set()

    async def wait_next(self) -> T:
        """Raises StopAsyncIteration after `end`."""
        while not self._unseen:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self._unseen = False
        assert self._newest is not None
        return self._newest
