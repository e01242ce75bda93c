"""A TCP proxy that behaves badly: it cuts, delays, deafens and duplicates connections, at moments that a seed decides.

    client ──► proxy ──► server       what the client says, late at times
                 └─────► server       a twin: a second connection on which the same is said, and nothing is heard
    client ◄── ✗ ◄────── server       for a while before the end nothing comes back: it was done, and nobody was told

A connection lives for as long as its fate says, then both of its ends are reset. A twin may outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

CHUNK_BYTES = 16 * 1024
HEAD_END = b"\r\n\r\n"
LIFE_S = (0.02, 0.8)
DEAF_S = (0.0, 0.1)
DELAY_S = (0.0, 0.05)
TWIN_S = (0.0, 0.3)
DELAYED_SHARE = 0.1
TWIN_SHARE = 0.4


class Fate:
    """What becomes of one connection."""

    def __init__(self, random: random.Random) -> None:
        self.random = random
        self.life_s = random.uniform(*LIFE_S)
        self.deaf_after_s = self.life_s - random.uniform(*DEAF_S)
        self.twin_after_s = random.uniform(*TWIN_S) if random.random() < TWIN_SHARE else None
        self.twin_outlives_s = random.uniform(*TWIN_S)


class ChaosProxy:
    """Runs on a thread of its own while the `with` block does. `cuts` and `twins` count what has happened."""

    def __init__(self, upstream_port: int, seed: int) -> None:
        self.port = 0
        self.cuts = 0
        self.twins = 0
        self._upstream_port = upstream_port
        self._seed = seed
        self._calm = False
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="chaos proxy")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """From now on it is a good proxy, also for the connections that there are."""
        self._calm = True

    async def _serve(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._closing.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fate = Fate(random.Random(f"{self._seed}/{self._connections}"))
        self._connections += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        connection = Connection(fate, self)
        tasks = [
            asyncio.create_task(connection.say(reader, server_writer)),
            asyncio.create_task(connection.hear(server_reader, writer)),
            asyncio.create_task(self._end(fate)),
        ]
        if fate.twin_after_s is not None and not self._calm:
            self._start(self._twin(connection, fate))
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)
        connection.over.set()
        for end in (writer, server_writer):
            end.transport.abort()

    async def _end(self, fate: Fate) -> None:
        await asyncio.sleep(fate.life_s)
        if self._calm:
            await self._closing.wait()
        self.cuts += 1

    async def _twin(self, connection: Connection, fate: Fate) -> None:
        assert fate.twin_after_s is not None
        await asyncio.sleep(fate.twin_after_s)
        if self._calm or connection.over.is_set() or HEAD_END not in connection.said:
            return
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            deaf: asyncio.Task[None] | None = None
            try:
                await _shake_hands(bytes(connection.said), reader, writer)
                self.twins += 1
                connection.twin = writer
                writer.write(connection.said.partition(HEAD_END)[2])
                deaf = asyncio.create_task(_drop(reader))
                await connection.over.wait()
                await asyncio.sleep(fate.twin_outlives_s)
            finally:
                if deaf is not None:
                    deaf.cancel()
                writer.transport.abort()

    @property
    def is_calm(self) -> bool:
        return self._calm

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()


class Connection:
    """One connection through the proxy; `said` is all that the client has said, for a twin."""

    def __init__(self, fate: Fate, proxy: ChaosProxy) -> None:
        self.said = bytearray()
        self.twin: asyncio.StreamWriter | None = None
        self.over = asyncio.Event()
        self._fate = fate
        self._proxy = proxy
        self._began = asyncio.get_running_loop().time()

    async def say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._delay()
                self.said += data
                writer.write(data)
                if self.twin is not None:
                    self.twin.write(data)
                await writer.drain()

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What is not passed on is lost, so the connection is cut even if calm has come since."""
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._delay()
                age_s = asyncio.get_running_loop().time() - self._began
                if age_s > self._fate.deaf_after_s and not self._proxy.is_calm:
                    await asyncio.sleep(self._fate.life_s - age_s)
                    return
                writer.write(data)
                await writer.drain()

    async def _delay(self) -> None:
        if not self._proxy.is_calm and self._fate.random.random() < DELAYED_SHARE:
            await asyncio.sleep(self._fate.random.uniform(*DELAY_S))


async def _shake_hands(said: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A client says nothing before the server has answered its request for a websocket, and what it did would be lost.

    Raises OSError.
    """
    writer.write(said.partition(HEAD_END)[0] + HEAD_END)
    try:
        await reader.readuntil(HEAD_END)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("no websocket") from error


async def _drop(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(CHUNK_BYTES):
            pass
