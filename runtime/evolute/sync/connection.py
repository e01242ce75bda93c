"""Drives one Session over one socket: performs its effects, tells it how they ended, and keeps nothing to itself.

    socket ──► Session.receive ──► effects ──► outgoing ──► socket
                   ▲                 │
                   └── one task per mutation, action, computation, and token whose keys must be fetched

A message is received in the turn of the event loop in which it arrives, and all that has arrived before a Transition
begins, because beginning takes a turn of its own. Behind a token nothing is received until it is known whose it is, and
behind too many calls nothing until some have ended (`intake`).
What is to be sent leaves at the end of the turn, without a task; only where the client does not take it fast enough, a
writer waits. The session is told when the socket has taken a Transition, so a reader that is slow gets one Transition
at a time; one that takes nothing at all is cut off at `session_outgoing_bytes_max`.

When the socket goes, every result is released and what was being computed is cancelled. Mutations and actions that have
started run to their end, for nobody can take back half of what they do; `run` returns after them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

from evolute.clock import NS_PER_MS, Clock, monotonic_ns
from evolute.errors import DiskFault, Retry, Unauthorized
from evolute.execution.executor import Executor
from evolute.execution.query_cache import Run
from evolute.execution.request import Call, CallError, Outcome
from evolute.limits import Limits
from evolute.protocol.codec import encode_server
from evolute.protocol.messages import Ping, Token
from evolute.stages import Stages
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
from evolute.sync.intake import Intake
from evolute.sync.session import Session
from evolute.sync.socket import Socket, SocketGone
from evolute.sync.transition import Disclosure

logger = logging.getLogger("evolute.sync")

_OPENING_TURNS = 4
"""Turns of the event loop that the first Transition waits, in which messages that are readable are read."""


@dataclass(frozen=True)
class Host:
    """What all connections of one server share. `published_ts` gives the latest published timestamp."""

    executor: Executor
    clock: Clock
    limits: Limits
    published_ts: Callable[[], int]
    identity_of: IdentityOf
    disclosure: Disclosure
    intake: Intake
    stages: Stages = field(default_factory=Stages)


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
        self._closing: Close | None = None
        self._is_over = asyncio.Event()
        self._last_sent_ns = monotonic_ns()
        self._begin_handle: asyncio.Handle | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._scheduled_ns = self._begun_ns = 0  # the next Transition; the one under way
        self._opening_turns_left = _OPENING_TURNS
        self._timers: set[asyncio.TimerHandle] = set()
        self._computation: asyncio.Task[None] | None = None
        self._verification: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._share = host.intake.share(lambda: self._loop.call_soon(self._read_on))
        self._actions_bytes = 0
        self._writer: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves the socket until it is closed by either side, and the calls that it started have ended."""
        self._set_timer(self._limits.heartbeat_ms, self._beat)
        self._socket.listen(self._on_message)
        try:
            await self._is_over.wait()
            if self._closing is not None:
                await self._close_socket(self._closing)
        except BaseException:
            for task in self._calls:
                task.cancel()
            raise
        finally:
            self._session.close()
            await self._stop()
            await asyncio.gather(*self._calls, return_exceptions=True)
            self._share.close()

    def finish(self) -> None:
        """Takes no more messages. `run` closes the socket and returns once what runs has been answered and shown."""
        self._perform(self._session.finish())

    def key_revoked(self, name: str) -> None:
        self._perform(self._session.key_revoked(name))

    async def _close_socket(self, close: Close) -> None:
        """What is left to send goes first, unless the client does not take it."""
        self._flush()
        if (writer := self._writer) is not None:
            await asyncio.wait((writer,), timeout=self._limits.close_ms_max / 1000)
            writer.cancel()
        try:
            async with asyncio.timeout(self._limits.close_ms_max / 1000):
                await self._socket.close(close.code, close.reason)
        except (SocketGone, TimeoutError):
            return

    async def _stop(self) -> None:
        for handle in filter(None, (self._begin_handle, self._flush_handle)):
            handle.cancel()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        stopping = list(filter(None, (self._writer, self._computation, self._verification)))
        for task in stopping:
            task.cancel()
        await asyncio.gather(*stopping, return_exceptions=True)
        self._writer = self._computation = self._verification = None  # a cancelled task leads back here by its frames

    # --- The socket -------------------------------------------------------------------------------------------------

    def _on_message(self, message: str | bytes | None) -> None:
        if message is None:
            self._is_over.set()
            return
        try:
            now_ns, published_ts = self._host.clock.now_ns(), self._host.published_ts()
            self._perform(self._session.receive(message, now_ns=now_ns, published_ts=published_ts))
        except Exception:
            self._fail_unexpectedly("reading from a client")
        self._hold()
        if self._share.stops():
            self._socket.pause()

    def _read_on(self) -> None:
        """Unless there is still a reason not to."""
        if self._verification is None and not self._share.stops():
            self._socket.resume()

    def _send(self, send: Send) -> None:
        if self._outgoing and self._outgoing_bytes + len(send.message) > self._limits.session_outgoing_bytes_max:
            self._perform(self._session.fail(Close.TRY_AGAIN, "TooManyOutgoingBytes"))
            self._outgoing.clear()
            if self._writer is not None:
                self._writer.cancel()
            return
        self._outgoing.append(send)
        self._outgoing_bytes += len(send.message)
        if self._flush_handle is None and self._writer is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Sends what waits, as far as the socket takes it at once; the rest is the writer's."""
        self._flush_handle = None
        try:
            while self._outgoing and self._writer is None:
                if self._socket.send_now(self._outgoing[0].message, more=len(self._outgoing) > 1):
                    self._note_sent()
                else:
                    self._writer = self._loop.create_task(self._write())
        except SocketGone:
            self._is_over.set()
        except Exception:
            self._fail_unexpectedly("writing to a client")

    async def _write(self) -> None:
        """Sends what waits, at the pace of the client. Ends when there is nothing left."""
        try:
            while self._outgoing:
                await self._socket.send(self._outgoing[0].message)
                self._note_sent()
        except SocketGone:
            self._is_over.set()
        except Exception:
            self._fail_unexpectedly("writing to a client")
        finally:
            self._writer = None

    def _note_sent(self) -> None:
        sent = self._outgoing.popleft()
        self._outgoing_bytes -= len(sent.message)
        self._last_sent_ns = monotonic_ns()
        if sent.is_transition:
            self._host.stages.push.add(self._last_sent_ns - self._begun_ns)
            self._perform(self._session.transition_sent())

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
                    self._is_over.set()

    def _schedule_begin(self) -> None:
        if self._begin_handle is None:
            self._scheduled_ns = monotonic_ns()
            self._begin_handle = self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begin_handle = None
        if self._opening_turns_left > 0:
            self._opening_turns_left -= 1
            self._schedule_begin()
        elif effects := self._session.begin(now_ns=self._host.clock.now_ns()):
            self._begun_ns = self._scheduled_ns
            self._perform(effects)

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
                self._socket.pause()
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
            self._read_on()

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
            self._hold()
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly(f"running the mutation {call.path}")

    async def _act(self, request_id: int, call: Call) -> None:
        self._actions_bytes += len(call.arguments)
        try:
            outcome = await self._host.executor.act(call)
            self._perform(self._session.action_done(request_id, outcome))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly(f"running the action {call.path}")
        finally:
            self._actions_bytes -= len(call.arguments)
            self._hold()

    def _hold(self) -> None:
        """Says how much this client has asked for that is not done."""
        self._share.hold(self._session.mutations.bytes + self._actions_bytes)

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
