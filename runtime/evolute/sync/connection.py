"""Drives one Session over one socket: performs its effects, tells it how they ended, and keeps nothing to itself.

    socket ──► reader ──► Session.receive ──► effects ──► outgoing ──► writer ──► socket
                              ▲                 │
                              └── one task per mutation, action, computation, and token whose keys must be fetched

The reader hands over all that has arrived before a Transition begins, because beginning takes a turn of its own in the
event loop. Behind a token it reads nothing until it is known whose it is. The writer tells the session when the socket
has taken a Transition, so a reader that is slow gets one Transition at a time; one that takes nothing at all is cut off
at `session_outgoing_bytes_max`.

When the socket goes, every result is released and what was being computed is cancelled. Mutations and actions that have
started run to their end, for nobody can take back half of what they do; `run` returns after them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

from evolute.clock import NS_PER_MS, Clock, monotonic_ns
from evolute.errors import DiskFault, Retry, Unauthorized
from evolute.execution.executor import Executor
from evolute.execution.query_cache import Run
from evolute.execution.request import Call, CallError, Outcome
from evolute.limits import Limits
from evolute.protocol.codec import encode_server
from evolute.protocol.messages import Ping, Token
from evolute.sync.effects import (
    AwaitBurst,
    Close,
    Compute,
    Effect,
    RetryLater,
    Send,
    StartAction,
    StartMutation,
    Verify,
)
from evolute.sync.identity import Identity, IdentityOf
from evolute.sync.session import Session
from evolute.sync.transition import Disclosure

logger = logging.getLogger("evolute.sync")

_OPENING_TURNS = 4
"""Turns of the event loop that the first Transition waits, in which messages that are readable are read."""


class SocketGone(Exception):
    """The socket is closed; nothing can be sent."""


class Socket(Protocol):
    """A message socket. One task receives and one sends."""

    async def receive(self) -> str | bytes | None:
        """The next message, text or binary; None when the socket is closed."""
        ...

    async def send(self, message: bytes, *, more: bool = False) -> None:
        """Returns when the transport can take more. `more`: another follows in this turn, and both may leave together.

        Raises SocketGone.
        """
        ...

    async def close(self, code: int | None, reason: str) -> None:
        """Sends a close frame, without a code if there is none. Closing twice does nothing."""
        ...


@dataclass(frozen=True)
class Host:
    """What all connections of one server share. `published_ts` gives the latest published timestamp."""

    executor: Executor
    clock: Clock
    limits: Limits
    published_ts: Callable[[], int]
    identity_of: IdentityOf
    disclosure: Disclosure


class Connection:
    """Lives for one socket, on the event loop."""

    def __init__(self, host: Host, socket: Socket) -> None:
        self._host = host
        self._limits = host.limits
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._session = Session(limits=host.limits, disclosure=host.disclosure, on_dirty=self._schedule_begin)
        self._outgoing: deque[Send] = deque()
        self._outgoing_bytes = 0
        self._has_outgoing = asyncio.Event()
        self._closing: Close | None = None
        self._last_sent_ns = monotonic_ns()
        self._begin_handle: asyncio.Handle | None = None
        self._opening_turns_left = _OPENING_TURNS
        self._timers: set[asyncio.TimerHandle] = set()
        self._computation: asyncio.Task[None] | None = None
        self._verification: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._writer: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves the socket until it is closed by either side, and the calls that it started have ended."""
        reader = self._loop.create_task(self._read())
        self._writer = self._loop.create_task(self._write())
        self._set_timer(self._limits.heartbeat_ms, self._beat)
        try:
            await asyncio.wait((reader, self._writer), return_when=asyncio.FIRST_COMPLETED)
            if self._closing is not None:
                await self._close_socket(self._closing)
        except BaseException:
            for task in self._calls:
                task.cancel()
            raise
        finally:
            self._session.close()
            await self._stop(reader, self._writer)
            await asyncio.gather(*self._calls, return_exceptions=True)

    def finish(self) -> None:
        """Takes no more messages. `run` closes the socket and returns once what runs has been answered and shown."""
        self._perform(self._session.finish())

    def key_revoked(self, name: str) -> None:
        self._perform(self._session.key_revoked(name))

    async def _close_socket(self, close: Close) -> None:
        """What is left to send goes first, unless the client does not take it."""
        assert self._writer is not None
        await asyncio.wait((self._writer,), timeout=self._limits.close_ms_max / 1000)
        self._writer.cancel()
        try:
            async with asyncio.timeout(self._limits.close_ms_max / 1000):
                await self._socket.close(close.code, close.reason)
        except (SocketGone, TimeoutError):
            return

    async def _stop(self, *tasks: asyncio.Task[None]) -> None:
        if self._begin_handle is not None:
            self._begin_handle.cancel()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        stopping = [*tasks, *filter(None, (self._computation, self._verification))]
        for task in stopping:
            task.cancel()
        await asyncio.gather(*stopping, return_exceptions=True)

    # --- The socket -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while not self._session.is_closed:
                frame = await self._socket.receive()
                if frame is None:
                    return
                now_ns, published_ts = self._host.clock.now_ns(), self._host.published_ts()
                self._perform(self._session.receive(frame, now_ns=now_ns, published_ts=published_ts))
                del frame  # which may be large, and the next one may be long in coming
                if self._verification is not None:
                    await self._verification
        except Exception:
            self._fail_unexpectedly("reading from a client")

    async def _write(self) -> None:
        """Ends when the socket is gone, or once a Close is due and everything before it has been sent."""
        try:
            while self._closing is None or self._outgoing:
                await self._has_outgoing.wait()
                while self._outgoing:
                    send = self._outgoing[0]
                    await self._socket.send(send.message, more=len(self._outgoing) > 1)
                    self._outgoing.popleft()
                    self._outgoing_bytes -= len(send.message)
                    self._last_sent_ns = monotonic_ns()
                    is_transition = send.is_transition
                    del send
                    if is_transition:
                        self._perform(self._session.transition_sent())
                if self._closing is None:
                    self._has_outgoing.clear()
        except SocketGone:
            return
        except Exception:
            self._fail_unexpectedly("writing to a client")

    def _send(self, send: Send) -> None:
        if self._outgoing and self._outgoing_bytes + len(send.message) > self._limits.session_outgoing_bytes_max:
            self._perform(self._session.fail(Close.TRY_AGAIN, "TooManyOutgoingBytes"))
            if self._writer is not None:
                self._writer.cancel()
            return
        self._outgoing.append(send)
        self._outgoing_bytes += len(send.message)
        self._has_outgoing.set()

    def _beat(self) -> None:
        """Says Ping when nothing else has been said for a while, also while calls and queries run."""
        silent_ms = (monotonic_ns() - self._last_sent_ns) // NS_PER_MS
        left_ms = self._limits.heartbeat_ms - silent_ms
        if left_ms <= 0:
            if not self._outgoing:
                self._send(Send(encode_server(Ping())))
            left_ms = self._limits.heartbeat_ms
        self._set_timer(left_ms, self._beat)

    # --- Effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Compute():
                    self._begin_computing(effect)
                case StartMutation(_, call):
                    self._start(self._mutate(call))
                case StartAction(request_id, call):
                    self._start(self._act(request_id, call))
                case Verify(token):
                    self._verify(token)
                case AwaitBurst():
                    self._set_timer(self._limits.opening_burst_ms, self._end_burst)
                case RetryLater():
                    self._retry_later(effect)
                case Close():
                    self._closing = effect
                    self._has_outgoing.set()

    def _schedule_begin(self) -> None:
        if self._begin_handle is None:
            self._begin_handle = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begin_handle = None
        if self._opening_turns_left > 0:
            self._opening_turns_left -= 1
            self._schedule_begin()
        else:
            self._perform(self._session.begin(now_ns=self._host.clock.now_ns()))

    def _end_burst(self) -> None:
        self._perform(self._session.burst_over())

    def _verify(self, token: Token) -> None:
        try:
            identity = self._host.identity_of(token)
        except Unauthorized as error:
            self._perform(self._session.refused(str(error)))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        else:
            if isinstance(identity, Identity):
                self._perform(self._session.authenticated(identity))
            else:
                self._verification = self._loop.create_task(self._authenticate(identity))

    async def _authenticate(self, identity: Awaitable[Identity]) -> None:
        """Ends once the session knows. An issuer that cannot be asked is no fault of the token: the client is to try
        again, and would log its user out if it were told of an error."""
        try:
            self._perform(self._session.authenticated(await identity))
        except Unauthorized as error:
            self._perform(self._session.refused(str(error)))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly("looking at a client's token")
        finally:
            self._verification = None

    def _retry_later(self, retry: RetryLater) -> None:
        def run_again() -> None:
            self._host.executor.query_cache.discard(retry.result)
            self._perform(self._session.retry_due(retry.query_id, retry.result))

        self._set_timer(retry.delay_ms, run_again)

    def _set_timer(self, delay_ms: int, callback: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            callback()

        timer = self._loop.call_later(delay_ms / 1000, fire)
        self._timers.add(timer)

    def _start(self, call: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _mutate(self, call: Call) -> None:
        try:
            try:
                outcome = await self._host.executor.mutate(call, on_commit=self._session.mutation_committed)
            except DiskFault as error:
                outcome = _not_done(error)
            self._perform(self._session.mutation_done(outcome))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly(f"running the mutation {call.path}")

    async def _act(self, request_id: int, call: Call) -> None:
        try:
            outcome = await self._host.executor.act(call)
            self._perform(self._session.action_done(request_id, outcome))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly(f"running the action {call.path}")

    def _begin_computing(self, wanted: Compute) -> None:
        if not wanted.stale and not wanted.held:
            # Any published timestamp will do, and the answer that owes this Transition leaves with it.
            ts, now_ns = self._host.published_ts(), self._host.clock.now_ns()
            self._perform(self._session.results_ready(ts, {}, now_ns=now_ns))
            return
        run = self._host.executor.query_cache.begin(wanted.stale)
        if run is None:
            self._computation = self._loop.create_task(self._compute(wanted))
        else:
            run.add_done_callback(functools.partial(self._compute_after, wanted))

    async def _compute(self, wanted: Compute) -> None:
        try:
            ts, results = await self._host.executor.queries_at(
                list(wanted.stale), list(wanted.held), at_least_ts=wanted.at_least_ts
            )
            self._perform(self._session.results_ready(ts, results, now_ns=self._host.clock.now_ns()))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly("running a client's queries")

    def _compute_after(self, wanted: Compute, run: Run) -> None:
        """The one run that was waited for is over. A thousand sessions may have waited for it, without a task each."""
        if self._session.is_closed or run.cancelled():
            return
        try:
            run.result()
            cache = self._host.executor.query_cache
            found = cache.results_now(wanted.stale, wanted.held, at_least_ts=wanted.at_least_ts)
            if found is None:
                self._computation = self._loop.create_task(self._compute(wanted))
            else:
                self._perform(self._session.results_ready(*found, now_ns=self._host.clock.now_ns()))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly("running a client's queries")

    def _fail_unexpectedly(self, doing: str) -> None:
        """A fault of this server: it is logged here, and this client alone has to connect again."""
        logger.exception("Unexpected error while %s; its connection is closed.", doing)
        self._perform(self._session.fail(Close.INTERNAL_ERROR, "InternalServerError"))


def _not_done(error: DiskFault) -> Outcome:
    """The outcome of a mutation that definitely did not happen."""
    return Outcome(None, CallError(str(error), None, error.code), (), 0)
