"""The asyncio client: calls go into a state machine, and what comes of them to those who wait.

    caller ──► StateMachine ◄──► Connection ◄──► socket
    caller ◄── feeds, futures ◄──Update── StateMachine
    token fetcher ◄──► TokenKeeper ◄──► StateMachine

All of it runs on one event loop; an Update is handed to all who wait for it in one turn. When the connection goes, a
new one is made and the server told again what is wanted; callers just wait longer.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from evolute.errors import LimitReached
from evolute.limits import Limits
from evolute.protocol.messages import Failure, Success
from evolute.values import wire_codec
from evolute_client.authentication import AuthChange, AuthState, admin_token
from evolute_client.connection import Connection, Sleep
from evolute_client.errors import ClientClosed, ConnectionLost
from evolute_client.function_reference import (
    ActionReference,
    AnyFunction,
    AsyncActionReference,
    MutationReference,
    QueryReference,
    named_arguments,
    path_of,
)
from evolute_client.listeners import Listeners
from evolute_client.local_store import OptimisticUpdate
from evolute_client.opened import LOGGER, log, opened
from evolute_client.paginated import PaginatedQuery
from evolute_client.requests import Lost
from evolute_client.state_machine import StateMachine, Update
from evolute_client.subscription import Subscription
from evolute_client.token_keeper import TokenFetcher, TokenKeeper
from evolute_client.transport import sync_url
from evolute_client.watch import Watch

P = ParamSpec("P")
R = TypeVar("R")

MESSAGE_OVERHEAD_BYTES = 64 * 1024


class Client:
    """A connection to a server, for one event loop: `async with Client("http://127.0.0.1:3210") as client`.

    Calls take the function, by its path or itself (function_reference), and its named arguments. They raise ConvexError
    (the application's own error, with `data`), FunctionError (any other failure), InvalidValue for an argument that is
    not a value, and ClientClosed.
    While there is no connection they wait; `wait_connected` is for those who would rather know.
    Cancelling a call stops the waiting, not the function.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | TokenFetcher | None = None,
        admin_key: str | None = None,
        acting_as: Mapping[str, object] | None = None,
        limits: Limits | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Connects on entering the `async with` block. `token` is a user's JWT, or what fetches one (`set_auth`).

        `admin_key` is the server's, and `acting_as` the identity to take on with it. `sleep` does all the waiting.
        Raises ValueError if `address` is none, or for what does not go together.
        """
        sync_url(address)
        self._limits = limits or Limits()
        self._state = StateMachine(
            str(uuid.uuid4()), token=admin_token(token, admin_key, acting_as), limits=self._limits
        )
        self._connection = Connection(address, self._state, self._limits, sleep, self._deliver)
        self._sleep = sleep
        self._first_token = token
        self._keeper: TokenKeeper | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._auth_waiter: asyncio.Future[bool] | None = None
        self._on_auth_change: Callable[[bool], object] | None = None
        self._auth_error: str | None = None
        self._listeners = Listeners(self._state, self._connection.wake)
        self._futures: dict[int, asyncio.Future[Success | Failure | Lost]] = {}
        self._task: asyncio.Task[None] | None = None
        self._end: Exception | None = None

    async def __aenter__(self) -> Client:
        if self._task is not None:
            raise ClientClosed
        self._task = asyncio.create_task(self._stay_connected(), name="evolute client")
        if self._first_token is not None:
            given = self._first_token
            self._begin_auth((lambda force_refresh: given) if isinstance(given, str) else given, None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all subscriptions; calls that wait raise ClientClosed. Safe to call twice."""
        self._stop(ClientClosed())
        tasks = [task for task in (self._task, self._keeping) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Raises ConnectionLost, saying why, if there is no connection within `timeout_s`."""
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.connected.wait()
        except TimeoutError:
            raise ConnectionLost(self._connection.last_failure) from None
        self._check_open()

    # --- Who the caller is ---

    async def set_auth(self, fetch_token: TokenFetcher, on_change: Callable[[bool], object] | None = None) -> bool:
        """Calls are made as the user whose token `fetch_token(force_refresh)` gives. Whether the server agrees.

        It is asked now, again before a token ends, and with `force_refresh` when the server refuses one. Nothing is
        sent while the first token, or one in place of a refused one, is fetched. It may be a coroutine function; a
        plain one must not block. `on_change` is called with True once the server has confirmed a token, and with
        False when no token is left that it takes (`auth_error` says why): calls are then made as nobody.
        """
        self._check_open()
        self._begin_auth(fetch_token, on_change)
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._auth_waiter = waiter
        return await waiter

    async def clear_auth(self) -> None:
        """From now on calls are made as nobody. Those that were made before are not affected."""
        self._check_open()
        self._state.clear_auth()
        self._keep_tokens(None, None)
        self._connection.wake()

    @property
    def auth_state(self) -> AuthState:
        """`anonymous`, `pending` until the server has confirmed a token, `authenticated`, or `refused`."""
        return self._state.auth_state

    @property
    def auth_error(self) -> str | None:
        """Why the last token was given up."""
        return self._auth_error

    def _begin_auth(self, fetch_token: TokenFetcher, on_change: Callable[[bool], object] | None) -> None:
        self._state.begin_auth()
        self._keep_tokens(TokenKeeper(fetch_token, self._state, self._sleep, self._deliver), on_change)
        self._connection.wake()

    def _keep_tokens(self, keeper: TokenKeeper | None, on_change: Callable[[bool], object] | None) -> None:
        """In place of the keeper before, of whom nobody waits for an answer any more."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._auth_waiter is not None and not self._auth_waiter.done():
            self._auth_waiter.set_result(False)
        self._keeper, self._on_auth_change, self._auth_error = keeper, on_change, None
        self._keeping = None if keeper is None else asyncio.create_task(keeper.run(), name="evolute tokens")

    def _tell(self, change: AuthChange) -> None:
        self._auth_error = change.error
        if change.error is not None:
            LOGGER.error("failed to authenticate: %s", change.error)
        if self._auth_waiter is not None and not self._auth_waiter.done():
            self._auth_waiter.set_result(change.authenticated)
        if self._on_auth_change is not None:
            asyncio.get_running_loop().call_soon(self._on_auth_change, change.authenticated)

    # --- Calls ---

    @overload
    async def query(self, function: QueryReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    async def query(self, function: str, /, **arguments: object) -> Any: ...

    async def query(self, function: AnyFunction, /, *args: object, **arguments: object) -> Any:
        """The query's result now; if it is subscribed to, the one that its subscribers have seen."""
        path, encoded = self._call("query", function, args, arguments)
        async with Subscription[Any](self._listeners, path, encoded) as results:
            try:
                return await anext(results)
            except StopAsyncIteration:
                raise ClientClosed from None

    @overload
    async def mutation(self, function: MutationReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    async def mutation(
        self, function: MutationReference[..., R], /, *, optimistic_update: OptimisticUpdate, **arguments: object
    ) -> R: ...

    @overload
    async def mutation(
        self, function: str, /, *, optimistic_update: OptimisticUpdate | None = None, **arguments: object
    ) -> Any: ...

    async def mutation(
        self,
        function: AnyFunction,
        /,
        *args: object,
        optimistic_update: Any = None,
        **arguments: object,
    ) -> Any:
        """What the mutation returned, once the subscriptions of this client show its effects.

        It runs exactly once even if the connection is lost meanwhile. `optimistic_update(store)` shows subscribers at
        once what they will see (LocalStore); it is taken back in the step that shows the effects, or when it fails.
        """
        path, encoded = self._call("mutation", function, args, arguments)
        if optimistic_update is None:
            return await self._wait_answer(self._state.mutation(path, encoded))
        request_id, update = self._state.mutation_expecting(path, encoded, optimistic_update)
        self._deliver(update)
        return await self._wait_answer(request_id)

    @overload
    async def action(self, function: AsyncActionReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    async def action(self, function: ActionReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> R: ...

    @overload
    async def action(self, function: str, /, **arguments: object) -> Any: ...

    async def action(self, function: AnyFunction, /, *args: object, **arguments: object) -> Any:
        """What the action returned. Raises ConnectionLost if the connection goes while it runs: it is not run again."""
        return await self._wait_answer(self._state.action(*self._call("action", function, args, arguments)))

    @overload
    def subscribe(self, function: QueryReference[P, R], /, *args: P.args, **arguments: P.kwargs) -> Subscription[R]: ...

    @overload
    def subscribe(self, function: str, /, **arguments: object) -> Subscription[Any]: ...

    def subscribe(self, function: AnyFunction, /, *args: object, **arguments: object) -> Subscription[Any]:
        """`async for result in client.subscribe(…)`; see Subscription."""
        return Subscription(self._listeners, *self._call("query", function, args, arguments))

    def watch(self, queries: Mapping[str, tuple[AnyFunction, Mapping[str, object]]], /) -> Watch:
        """`async for view in client.watch({"name": (function, arguments), …})`; see Watch."""
        return Watch(
            self._listeners,
            {name: self._call("query", function, (), arguments) for name, (function, arguments) in queries.items()},
        )

    def paginated(
        self, function: AnyFunction, arguments: Mapping[str, object] | None = None, /, *, initial_items: int
    ) -> PaginatedQuery:
        """A list that grows by `load_more`; see PaginatedQuery. The function paginates by its `paginationOpts`."""
        self._check_open()
        path = path_of(function, "query")
        encode = functools.partial(self._encode, path)
        return PaginatedQuery(self._listeners, path, arguments or {}, encode, initial_items)

    def _call(
        self, kind: str, function: AnyFunction, positional: tuple[object, ...], named: Mapping[str, object]
    ) -> tuple[str, bytes]:
        path = path_of(function, kind)
        return path, self._encode(path, named_arguments(function, positional, named))

    def _encode(self, path: str, arguments: Mapping[str, object]) -> bytes:
        self._check_open()
        encoded = wire_codec.encode(dict(arguments))
        limit = self._limits.message_bytes_max
        if len(encoded) + MESSAGE_OVERHEAD_BYTES > limit:
            raise LimitReached(f"The arguments of {path} take {len(encoded)} bytes; message_bytes_max is {limit}.")
        return encoded

    def _check_open(self) -> None:
        if self._task is None:
            raise ClientClosed
        if self._end is not None:
            raise self._end

    async def _wait_answer(self, request_id: int) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._futures[request_id] = future
        self._connection.wake()
        return opened(await future)

    # --- News ---

    def _deliver(self, update: Update) -> None:
        for printed in update.logs:
            log(printed)
        for fault in update.faults:
            LOGGER.error("an optimistic update failed when it was run again: %s", fault, exc_info=fault)
        self._listeners.deliver(update.results)
        for completion in update.completions:
            future = self._futures.pop(completion.request_id, None)
            if future is not None and not future.done():
                future.set_result(completion.result)
        if update.auth is not None:
            self._tell(update.auth)
        if self._keeper is not None:
            self._keeper.wake()
        self._connection.wake()

    async def _stay_connected(self) -> None:
        try:
            await self._connection.run()
        except Exception as error:  # a refused key, or a bug: either ends every call, this task has no other caller
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Nothing more will come: those who wait are told."""
        self._end = self._end or error
        self._listeners.end(None if isinstance(error, ClientClosed) else error)
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
        self._futures.clear()
        if self._auth_waiter is not None and not self._auth_waiter.done():
            self._auth_waiter.set_exception(error)
        self._connection.connected.set()
