"""Iteration that blocks, for programs without asyncio."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from evolute_client.errors import ClientClosed
from evolute_client.page_list import PageStatus
from evolute_client.paginated import PaginatedQuery
from evolute_client.stream import Stream

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Wait(Protocol):
    """Runs a coroutine on the client's thread. Raises what it raises, and ClientClosed."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class SyncStream(Generic[T_co]):
    """What a Stream of the asyncio client gives. `close` may be called from another thread and ends the loop."""

    def __init__(self, wait: Wait, stream: Stream[T_co]) -> None:
        self._wait = wait
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        try:
            return self._wait(self._next())
        except (StopAsyncIteration, ClientClosed):
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._wait(self._close())
        except ClientClosed:
            return

    async def _next(self) -> T_co:
        return await anext(self._stream)

    async def _close(self) -> None:
        self._stream.close()


class SyncPaginatedQuery(SyncStream[list[Any]]):
    """A PaginatedQuery whose iteration blocks.

    The list changes on another thread. So `results` and `status` are those of the moment that iteration gave last; who
    does not iterate sees them as they are now.
    """

    def __init__(self, wait: Wait, pages: PaginatedQuery) -> None:
        super().__init__(wait, pages)
        self._pages = pages
        self._given: tuple[list[Any], PageStatus] | None = None

    @property
    def results(self) -> list[Any]:
        return self._pages.results if self._given is None else self._given[0]

    @property
    def status(self) -> PageStatus:
        return self._pages.status if self._given is None else self._given[1]

    def load_more(self, items: int) -> bool:
        return self._wait(self._load_more(items))

    async def _next(self) -> list[Any]:
        results = await anext(self._pages)
        self._given = results, self._pages.status
        return results

    async def _load_more(self, items: int) -> bool:
        return self._pages.load_more(items)
