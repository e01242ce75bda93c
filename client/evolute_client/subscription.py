"""One subscriber's view of a query: the newest result that he has not seen yet.

    client ──offer──► Feed (holds one result) ──wait_next──► Subscription ──► async for

A reader who is slow skips what has been overtaken and never falls behind. A result that is the same as the one before,
as after a reconnect, is not given again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from evolute.errors import ConvexError
from evolute.protocol.messages import Failure, Success
from evolute.values import wire_codec
from evolute_client.errors import ConnectionLost, FunctionError
from evolute_client.requests import Lost
from evolute_client.state_machine import LogLines

LOGGER = logging.getLogger("evolute_client")
_LEVELS = {"DEBUG": logging.DEBUG, "WARN": logging.WARNING, "ERROR": logging.ERROR}


def opened(result: Success | Failure | Lost) -> Any:
    """The value of a Success. Raises ConvexError, FunctionError or ConnectionLost for what is none."""
    match result:
        case Success(value):
            return wire_codec.decode(value)
        case Failure(message, None):
            raise FunctionError(message)
        case Failure(message, data):
            assert data is not None
            error = ConvexError(wire_codec.decode(data))
            error.add_note(message)
            raise error
        case Lost(message):
            raise ConnectionLost(message)


def log(printed: LogLines) -> None:
    """Hands what a function printed on the server to this process's logging."""
    for line in printed.lines:
        level = line[1 : line.find("]")] if line.startswith("[") else ""
        LOGGER.log(_LEVELS.get(level, logging.INFO), "%s: %s", printed.path, line)


class Feed:
    """Where the client leaves results for one subscriber. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._newest: Success | Failure | None = None
        self._unseen = False
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def offer(self, result: Success | Failure | None) -> None:
        """None takes back what was offered before, if the reader has not seen it."""
        if result == self._newest:
            return
        self._newest, self._unseen = result, result is not None
        self._news.set()

    def end(self, error: Exception | None = None) -> None:
        """No more results: the reader's loop ends, or raises `error`."""
        self._ended, self._error = True, self._error or error
        self._news.set()

    async def wait_next(self) -> Success | Failure:
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


class Subscription:
    """Iterate over it for the query's results: the present one, then each that differs from the one before.

    A query that fails raises in the loop (ConvexError or FunctionError); the subscription stays live, so iterating
    again waits for the query to recover. It ends with `close`, with its `async with` block, with the client, or when
    nothing refers to it any more.
    """

    def __init__(self, feed: Feed, unsubscribe: Callable[[], None]) -> None:
        """`unsubscribe` may be called from any thread and more than once."""
        self._feed = feed
        self._unsubscribe = unsubscribe

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Any:
        return opened(await self._feed.wait_next())

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The server stops computing this query, unless somebody else subscribes to it."""
        self._feed.end()
        self._unsubscribe()

    def __del__(self) -> None:
        self._unsubscribe()
