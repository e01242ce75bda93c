"""The asyncio client: a state machine, and the task that keeps it connected.

    caller ──► StateMachine ──take_outgoing──► _write ──► socket
    caller ◄── feeds, futures ◄──Update── StateMachine ◄── _read ◄── socket

All of it runs on one event loop; an Update is handed to all who wait for it in one turn. When the connection goes, the
task makes a new one and tells the server again what is wanted; callers just wait longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from evolute.errors import LimitReached, MalformedMessage
from evolute.limits import Limits
from evolute.protocol import codec
from evolute.protocol.messages import AdminToken, Failure, Success
from evolute.values import wire_codec
from evolute_client.backoff import Backoff
from evolute_client.errors import ClientClosed, ConnectionLost, RequestRefused
from evolute_client.remote_results import ProtocolBroken
from evolute_client.requests import Lost
from evolute_client.state_machine import StateMachine, Update
from evolute_client.subscription import LOGGER, Feed, Subscription, log, opened
from evolute_client.transport import Transport, sync_url

HEARTBEATS_MISSED_MAX = 2
MESSAGE_OVERHEAD_BYTES = 64 * 1024


class Client:
    """A connection to a server, for one event loop: `async with Client("http://127.0.0.1:3210") as client`.

    Calls take the function's path and its named arguments. They raise ConvexError (the application's own error, with
    `data`), FunctionError (any other failure), InvalidValue for an argument that is not a value, and ClientClosed.
    While there is no connection they wait; `wait_connected` is for those who would rather know.
    Cancelling a call stops the waiting, not the function.
    """

    def __init__(self, address: str, *, admin_key: str | None = None, limits: Limits | None = None) -> None:
        """Raises ValueError if `address` is none. Connects on entering the `async with` block."""
        sync_url(address)
        self._address = address
        self._limits = limits or Limits()
        token = None if admin_key is None else AdminToken(admin_key)
        self._state = StateMachine(str(uuid.uuid4()), token=token, limits=self._limits)
        self._backoff = Backoff()
        self._feeds: dict[int, set[Feed]] = {}
        self._futures: dict[int, asyncio.Future[Success | Failure | Lost]] = {}
        self._outgoing = asyncio.Event()
        self._connected = asyncio.Event()
        self._last_failure = "no attempt has ended yet"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._end: Exception | None = None

    async def __aenter__(self) -> Client:
        if self._task is not None:
            raise ClientClosed
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._stay_connected(), name=f"evolute client of {self._address}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all subscriptions; calls that wait raise ClientClosed. Safe to call twice."""
        self._stop(ClientClosed())
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def wait_connected(self, timeout_s: float | None = None) -> None:
        """Raises ConnectionLost, saying why, if there is no connection within `timeout_s`."""
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise ConnectionLost(self._last_failure) from None
        self._check_open()

    # --- Calls ---

    async def query(self, path: str, /, **arguments: object) -> Any:
        """The query's result now; if it is subscribed to, the one that its subscribers have seen."""
        async with self.subscribe(path, **arguments) as results:
            try:
                return await anext(results)
            except StopAsyncIteration:
                raise ClientClosed from None

    async def mutation(self, path: str, /, **arguments: object) -> Any:
        """What the mutation returned, once the subscriptions of this client show its effects.

        It runs exactly once even if the connection is lost meanwhile.
        """
        encoded = self._encode(path, arguments)
        return await self._wait_answer(self._state.mutation(path, encoded))

    async def action(self, path: str, /, **arguments: object) -> Any:
        """What the action returned. Raises ConnectionLost if the connection goes while it runs: it is not run again."""
        encoded = self._encode(path, arguments)
        return await self._wait_answer(self._state.action(path, encoded))

    def subscribe(self, path: str, /, **arguments: object) -> Subscription:
        """`async for result in client.subscribe(…)`; see Subscription."""
        query_id = self._state.subscribe(path, self._encode(path, arguments))
        feed = Feed()
        self._feeds.setdefault(query_id, set()).add(feed)
        result = self._state.result(query_id)
        if result is not None:
            feed.offer(result)
        self._outgoing.set()
        return Subscription(feed, functools.partial(self._unsubscribe_soon, query_id, feed))

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
        self._outgoing.set()
        return opened(await future)

    def _unsubscribe_soon(self, query_id: int, feed: Feed) -> None:
        """From any thread: the last reference to a Subscription may go anywhere."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the client
            self._loop.call_soon_threadsafe(self._unsubscribe, query_id, feed)

    def _unsubscribe(self, query_id: int, feed: Feed) -> None:
        feeds = self._feeds.get(query_id, set())
        if feed not in feeds:
            return
        feeds.remove(feed)
        if not feeds:
            del self._feeds[query_id]
        self._state.unsubscribe(query_id)
        self._outgoing.set()

    # --- The connection ---

    async def _stay_connected(self) -> None:
        try:
            while True:
                reason = await self._connect_once()
                self._log_failure(reason)
                await asyncio.sleep(self._backoff.next_s())
        except Exception as error:  # a refused key, or a bug: either ends every call, this task has no other caller
            self._stop(error)

    async def _connect_once(self) -> str:
        """From opening a socket to losing it; says why it was lost. Raises RequestRefused."""
        try:
            transport = await Transport.open(self._address, self._limits)
        except ConnectionLost as error:
            return str(error)
        reason, refused = "ClientClosed", None
        self._state.connected()
        self._connected.set()
        self._outgoing.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(transport))
                tasks.create_task(self._write(transport))
        except* (ConnectionLost, ProtocolBroken, MalformedMessage) as errors:
            reason = str(errors.exceptions[0])
            LOGGER.warning("lost the connection to %s: %s", self._address, reason)
        except* RequestRefused as errors:
            refused = errors.exceptions[0]
        finally:
            self._connected.clear()
            self._deliver(self._state.disconnected(reason))
            await transport.close()
        if refused is not None:
            raise refused
        return reason

    async def _read(self, transport: Transport) -> None:
        silence_s_max = HEARTBEATS_MISSED_MAX * self._limits.heartbeat_ms / 1000
        while True:
            text = await transport.wait_message(silence_s_max)
            self._deliver(self._state.receive(codec.decode_server(text)))
            self._outgoing.set()
            if self._state.caught_up:
                self._backoff.reset()

    async def _write(self, transport: Transport) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for message in self._state.take_outgoing():
                await transport.send(codec.encode_client(message))

    def _deliver(self, update: Update) -> None:
        for printed in update.logs:
            log(printed)
        for query_id, result in update.results.items():
            for feed in self._feeds.get(query_id, ()):
                feed.offer(result)
        for completion in update.completions:
            future = self._futures.pop(completion.request_id, None)
            if future is not None and not future.done():
                future.set_result(completion.result)

    def _log_failure(self, reason: str) -> None:
        if reason != self._last_failure:
            LOGGER.info("%s; trying again", reason)
        self._last_failure = reason

    def _stop(self, error: Exception) -> None:
        """Nothing more will come: those who wait are told."""
        self._end = self._end or error
        for feed in [feed for feeds in self._feeds.values() for feed in feeds]:
            feed.end(None if isinstance(error, ClientClosed) else error)
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
        self._futures.clear()
        self._connected.set()
