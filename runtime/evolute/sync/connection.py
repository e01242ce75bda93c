"""Drives one Session over one socket: performs its effects, tells it how they ended, and keeps nothing to itself.

    socket ──► Session.receive ──► effects ──► outgoing ──► socket
                   ▲                 │
                   └── one task per mutation, action, computation, and token whose keys must be fetched

A message is received in the turn of the event loop in which it arrives, and all that has arrived before a Transition
begins, because beginning takes a turn of its own. Behind a token nothing is received until it is known whose it is, and
behind too many calls nothing until some have ended (`intake`).
What is to be sent leaves in the next turn, without a task, and what many connections have to send leaves at one go:
clients on the same machine are not woken one by one. Only where a client does not take it fast enough, a writer waits.
The session is told when the socket has taken a Transition, so a reader that is slow gets one Transition at a time; one
that takes nothing at all is cut off at `session_outgoing_bytes_max`.

When the socket goes, every result is released and what was being computed is cancelled. Mutations and actions that have
started run to their end, for nobody can take back half of what they do; `run` returns after them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Concatenate, ParamSpec

from evolute.clock import NS_PER_MS, monotonic_ns
from evolute.errors import DiskFault, Retry, Unauthorized
from evolute.execution.query_cache import Found, Wanted
from evolute.execution.request import Call, CallError, Outcome
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
from evolute.sync.host import Host
from evolute.sync.identity import Identity
from evolute.sync.phase import CLOSED, IDLE
from evolute.sync.session import Session
from evolute.sync.socket import Socket, SocketGone

P = ParamSpec("P")
logger = logging.getLogger("evolute.sync")

_OPENING_TURNS = 4
"""Turns of the event loop that the first Transition waits, in which messages that are readable are read."""


class Connection:
    """Lives for one socket, on the event loop."""

    def __init__(self, host: Host, socket: Socket) -> None:
        self._host = host
        self._limits = host.limits
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._session = Session(limits=host.limits, disclosure=host.disclosure, on_dirty=self._schedule_begin)
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._transition: bytes | None = None  # the one of `_outgoing`; there is at most one
        self._closing: Close | None = None
        self._is_over = asyncio.Event()
        self._last_sent_ns = monotonic_ns()
        self._begins_soon = self._flushes_soon = False
        self._scheduled_ns = self._begun_ns = 0  # the next Transition; the one under way
        self._opening_turns_left = _OPENING_TURNS
        self._timers: set[asyncio.TimerHandle] = set()
        self._computation: asyncio.Task[None] | None = None
        self._verification: asyncio.Task[None] | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._call_numbers = itertools.count()
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
            for task in self._calls.values():
                task.cancel()
            raise
        finally:
            self._session.close()
            await self._stop()
            await asyncio.gather(*self._calls.values(), return_exceptions=True)
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
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._outgoing.clear()  # or a `_flush` that was to come in the next turn would go on with it
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

    def _send(self, message: bytes, is_transition: bool) -> None:
        if self._outgoing and self._outgoing_bytes + len(message) > self._limits.session_outgoing_bytes_max:
            self._perform(self._session.fail(Close.TRY_AGAIN, "TooManyOutgoingBytes"))
            self._outgoing.clear()
            if self._writer is not None:
                self._writer.cancel()
            return
        self._outgoing.append(message)
        self._outgoing_bytes += len(message)
        if is_transition:
            self._transition = message
        if not self._flushes_soon and self._writer is None:
            self._flushes_soon = True
            self._host.next_turn.add(self._flush)

    def _flush(self) -> None:
        """Sends what waits, as far as the socket takes it at once; the rest is the writer's."""
        self._flushes_soon = False
        try:
            while self._outgoing and self._writer is None:
                if sent := self._socket.send_now(self._outgoing):
                    self._note_sent(sent)
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
                await self._socket.send(self._outgoing[0])
                self._note_sent(1)
        except SocketGone:
            self._is_over.set()
        except Exception:
            self._fail_unexpectedly("writing to a client")
        finally:
            self._writer = None

    def _note_sent(self, count: int) -> None:
        self._last_sent_ns = monotonic_ns()
        sent = self._outgoing[:count]
        del self._outgoing[:count]
        for message in sent:
            self._outgoing_bytes -= len(message)
            if message is self._transition:
                self._transition = None
                self._host.stages.push.add(self._last_sent_ns - self._begun_ns)
                if effects := self._session.transition_sent():
                    self._perform(effects)

    def _beat(self) -> None:
        """Says Ping when nothing else has been said for a while, also while calls and queries run."""
        silent_ms = (monotonic_ns() - self._last_sent_ns) // NS_PER_MS
        left_ms = self._limits.heartbeat_ms - silent_ms
        if left_ms <= 0:
            if not self._outgoing:
                self._send(encode_server(Ping()), False)
            left_ms = self._limits.heartbeat_ms
        self._set_timer(left_ms, self._beat)

    # --- Effects ----------------------------------------------------------------------------------------------------

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect.message, effect.is_transition)
                case Compute():
                    self._begin_computing(effect)
                case StartMutation():
                    self._start(self._mutate, effect.call)
                case StartAction(request_id, call):
                    self._start(self._act, request_id, call)
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
        if not self._begins_soon:
            self._begins_soon = True
            self._scheduled_ns = monotonic_ns()
            self._host.next_turn.add(self._begin)

    def _begin(self) -> None:
        self._begins_soon = False
        if self._opening_turns_left > 0:
            self._opening_turns_left -= 1
            self._schedule_begin()
            return
        now_ns, published_ts = self._host.clock.now_ns(), self._host.published_ts()
        if effects := self._session.begin(now_ns=now_ns, published_ts=published_ts):
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

    def _start(
        self, run: Callable[Concatenate[int, P], Coroutine[None, None, None]], /, *what: P.args, **named: P.kwargs
    ) -> None:
        """A call under a number of its own, by which it takes itself away when it has ended."""
        number = next(self._call_numbers)
        self._calls[number] = self._loop.create_task(run(number, *what, **named))

    async def _mutate(self, number: int, call: Call) -> None:
        try:
            try:
                outcome = await self._host.executor.mutate(call, on_commit=self._session.mutation_committed)
            except DiskFault as error:
                outcome = _not_done(error)
            if self._session.phase is IDLE:
                self._begun_ns = monotonic_ns()
            now_ns, published_ts = self._host.clock.now_ns(), self._host.published_ts()
            self._perform(self._session.mutation_done(outcome, now_ns=now_ns, published_ts=published_ts))
            self._hold()
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly(f"running the mutation {call.path}")
        finally:
            del self._calls[number]

    async def _act(self, number: int, request_id: int, call: Call) -> None:
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
            del self._calls[number]

    def _hold(self) -> None:
        """Says how much this client has asked for that is not done."""
        self._share.hold(self._session.mutations.bytes + self._actions_bytes)

    def _begin_computing(self, wanted: Compute) -> None:
        if not self._host.executor.query_cache.begin(wanted, self._computed):
            self._computation = self._loop.create_task(self._compute(wanted))

    async def _compute(self, wanted: Wanted) -> None:
        try:
            ts, results = await self._host.executor.queries_at(
                list(wanted.stale), list(wanted.held), at_least_ts=wanted.at_least_ts
            )
            self._perform(self._session.results_ready(ts, results, now_ns=self._host.clock.now_ns()))
        except Retry as error:
            self._perform(self._session.fail(Close.TRY_AGAIN, error.code))
        except Exception:
            self._fail_unexpectedly("running a client's queries")

    def _computed(self, wanted: Wanted, found: Found) -> None:
        """The one run that was waited for is over. A thousand sessions may have waited for it, without a task each."""
        if self._session.phase is CLOSED:
            return
        if found is None:
            self._computation = self._loop.create_task(self._compute(wanted))
            return
        try:
            if isinstance(found, BaseException):
                raise found
            ts, results = found
            self._perform(self._session.results_ready(ts, results, now_ns=self._host.clock.now_ns()))
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
