"""Keeps one client connected: a socket, the tasks that read and write it, and the next one when it is lost.

    StateMachine ──take_outgoing──► _write ──► socket
    StateMachine ◄────receive────── _read ◄─── socket
         └──Update──► deliver

Two things run on one event loop, and an Update is delivered in the turn in which its message was read. The waiting is
done by `sleep`, so that a test can do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from evolute.errors import MalformedMessage
from evolute.limits import Limits
from evolute.protocol import codec
from evolute_client.backoff import Backoff
from evolute_client.errors import ConnectionLost
from evolute_client.opened import LOGGER
from evolute_client.remote_results import ProtocolBroken
from evolute_client.state_machine import StateMachine, Update
from evolute_client.transport import ClosedByServer, Transport

HEARTBEATS_MISSED_MAX = 2

Sleep: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits so many seconds."""


class Connection:
    def __init__(
        self, address: str, state: StateMachine, limits: Limits, sleep: Sleep, deliver: Callable[[Update], None]
    ) -> None:
        self._address = address
        self._state = state
        self._limits = limits
        self._sleep = sleep
        self._deliver = deliver
        self._backoff = Backoff()
        self._outgoing = asyncio.Event()
        self.connected = asyncio.Event()
        self.last_failure = "no attempt has ended yet"

    def wake(self) -> None:
        """The state machine may have something to send."""
        self._outgoing.set()

    async def run(self) -> None:
        """Until it is cancelled. Raises RequestRefused if the admin key is wrong."""
        while True:
            reason, closed_by_server = await self._connect_once()
            if reason != self.last_failure:
                LOGGER.info("%s; trying again", reason)
            self.last_failure = reason
            await self._sleep(self._backoff.next_s(reason if closed_by_server else None))

    async def _connect_once(self) -> tuple[str, bool]:
        """From opening a socket to losing it; why it was lost, and whether the server said so."""
        try:
            transport = await Transport.open(self._address, self._limits)
        except ConnectionLost as error:
            return str(error), False
        reason, closed_by_server = "ClientClosed", False
        self._state.connected()
        self.connected.set()
        self.wake()
        try:
            await self._read_and_write(transport)
        except (ConnectionLost, ProtocolBroken, MalformedMessage) as error:
            reason, closed_by_server = str(error), isinstance(error, ClosedByServer)
            LOGGER.warning("lost the connection to %s: %s", self._address, reason)
        finally:
            self.connected.clear()
            self._deliver(self._state.disconnected(reason))
            await transport.close()
        return reason, closed_by_server

    async def _read_and_write(self, transport: Transport) -> None:
        """Until one of the two fails, and with its error.

        Not a TaskGroup: before Python 3.13 that forgets that it was cancelled if one of its tasks has failed in the
        same moment, and a client that is closed while its server dies would look for another one for ever.
        """
        tasks = [asyncio.ensure_future(self._read(transport)), asyncio.ensure_future(self._write(transport))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _read(self, transport: Transport) -> None:
        silence_s_max = HEARTBEATS_MISSED_MAX * self._limits.heartbeat_ms / 1000
        while True:
            text = await transport.wait_message(silence_s_max)
            self._deliver(self._state.receive(codec.decode_server(text)))
            self.wake()
            if self._state.caught_up:
                self._backoff.reset()

    async def _write(self, transport: Transport) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            for message in self._state.take_outgoing():
                await transport.send(codec.encode_client(message))
