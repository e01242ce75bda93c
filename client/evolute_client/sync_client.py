"""The client for programs without asyncio: the asyncio client on a thread of its own, behind blocking calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from evolute.limits import Limits
from evolute_client.async_client import Client
from evolute_client.authentication import AuthState
from evolute_client.connection import Sleep
from evolute_client.errors import ClientClosed
from evolute_client.function_reference import (
    ActionReference,
    AnyFunction,
    AsyncActionReference,
    MutationReference,
    QueryReference,
)
from evolute_client.local_store import OptimisticUpdate
from evolute_client.sync_stream import SyncPaginatedQuery, SyncStream
from evolute_client.token_keeper import TokenFetcher

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class SyncClient:
    """`with SyncClient("http://127.0.0.1:3210") as client`. Any number of threads may use it.

    Calls take what `Client`'s take and raise what they raise.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | Callable[[bool], str | None] | None = None,
        admin_key: str | None = None,
        acting_as: Mapping[str, object] | None = None,
        limits: Limits | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Connects on entering the `with` block. As for `Client`; what fetches tokens is called on a thread."""
        fetched = token if token is None or isinstance(token, str) else on_a_thread(token)
        self._client = Client(
            address, token=fetched, admin_key=admin_key, acting_as=acting_as, limits=limits, sleep=sleep
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> SyncClient:
        if self._thread is not None:
            raise ClientClosed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="evolute client", daemon=True)
        self._thread.start()
        self._wait(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all subscriptions; calls that wait on other threads raise ClientClosed. Safe to call twice."""
        if self._loop is None or self._thread is None or self._loop.is_closed():
            return
        self._wait(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def wait_connected(self, timeout_s: float | None = None) -> None:
        """Raises ConnectionLost, saying why, if there is no connection within `timeout_s`."""
        self._wait(self._client.wait_connected(timeout_s))

    def set_auth(
        self, fetch_token: Callable[[bool], str | None], on_change: Callable[[bool], object] | None = None
    ) -> bool:
        """See `Client`. Both are called on threads of the client: `fetch_token` may block, but not make calls."""
        return self._wait(self._client.set_auth(on_a_thread(fetch_token), on_change))

    def clear_auth(self) -> None:
        """From now on calls are made as nobody."""
        self._wait(self._client.clear_auth())

    @property
    def auth_state(self) -> AuthState:
        return self._client.auth_state

    @property
    def auth_error(self) -> str | None:
        return self._client.auth_error

    @overload
    def query(self, function: QueryReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    def query(self, function: str, /, **arguments: object) -> Any: ...

    def query(self, function: Any, /, *args: Any, **arguments: Any) -> Any:
        return self._wait(self._client.query(function, *args, **arguments))

    @overload
    def mutation(self, function: MutationReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    def mutation(
        self, function: MutationReference[..., R], /, *, optimistic_update: OptimisticUpdate, **arguments: object
    ) -> R: ...

    @overload
    def mutation(
        self, function: str, /, *, optimistic_update: OptimisticUpdate | None = None, **arguments: object
    ) -> Any: ...

    def mutation(self, function: Any, /, *args: Any, **arguments: Any) -> Any:
        """See `Client`. An optimistic update is run on a thread of the client."""
        return self._wait(self._client.mutation(function, *args, **arguments))

    @overload
    def action(self, function: AsyncActionReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    def action(self, function: ActionReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    def action(self, function: str, /, **arguments: object) -> Any: ...

    def action(self, function: Any, /, *args: Any, **arguments: Any) -> Any:
        return self._wait(self._client.action(function, *args, **arguments))

    @overload
    def subscribe(self, function: QueryReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> SyncStream[R]: ...

    @overload
    def subscribe(self, function: str, /, **arguments: object) -> SyncStream[Any]: ...

    def subscribe(self, function: Any, /, *args: Any, **arguments: Any) -> SyncStream[Any]:
        """`for result in client.subscribe(…)`; blocks between results."""
        return SyncStream(self._wait, self._wait(self._made(self._client.subscribe, function, *args, **arguments)))

    def watch(self, queries: Mapping[str, tuple[AnyFunction, Mapping[str, object]]], /) -> SyncStream[dict[str, Any]]:
        """`for view in client.watch({"name": (function, arguments), …})`; see `Watch`."""
        return SyncStream(self._wait, self._wait(self._made(self._client.watch, queries)))

    def paginated(
        self, function: AnyFunction, arguments: Mapping[str, object] | None = None, /, *, initial_items: int
    ) -> SyncPaginatedQuery:
        """A list that grows by `load_more`; see `PaginatedQuery`."""
        made = self._made(self._client.paginated, function, arguments, initial_items=initial_items)
        return SyncPaginatedQuery(self._wait, self._wait(made))

    async def _made(self, make: Callable[..., T], /, *args: Any, **arguments: Any) -> T:
        """On the client's thread."""
        return make(*args, **arguments)

    async def _finish(self) -> None:
        """Leaves no call of another thread without an answer."""
        await self._client.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        if calls:
            await asyncio.wait(calls)

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or self._loop.is_closed():
            coroutine.close()
            raise ClientClosed
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # Ctrl-C: nobody waits any more


def on_a_thread(fetch_token: Callable[[bool], str | None]) -> TokenFetcher:
    async def fetch(force_refresh: bool) -> str | None:
        return await asyncio.to_thread(fetch_token, force_refresh)

    return fetch
