"""A websocket server on a real socket that does what a test tells it to, message by message."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from websockets.asyncio.server import ServerConnection, serve

from evolute.limits import Limits
from evolute.protocol import codec
from evolute.protocol.messages import (
    INITIAL_VERSION,
    Authenticate,
    ClientMessage,
    Connect,
    Modification,
    ModifyQuerySet,
    ServerMessage,
    StateVersion,
    Transition,
    UserToken,
)

M = TypeVar("M", bound=ClientMessage)
PATIENCE_S = 20


async def at_once(seconds: float) -> None:
    """For clients that need not wait to connect again."""
    await asyncio.sleep(0)


class ManualSleep:
    """Stands still until a test lets so many seconds pass."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.begun: asyncio.Queue[float] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_s + seconds, future))
        self.begun.put_nowait(seconds)
        await future

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
        for due_s, future in self._sleepers:
            if due_s <= self._now_s and not future.done():
                future.set_result(None)


class Peer:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.version = INITIAL_VERSION
        self.over = asyncio.Event()

    async def expect(self, kind: type[M]) -> M:
        message = codec.decode_client(await self.socket.recv(), Limits())
        assert isinstance(message, kind), message
        return message

    async def greet_user(self) -> str:
        """Of a client with a token: Connect, the token, and its queries."""
        await self.expect(Connect)
        token = await self.token(0)
        await self.expect(ModifyQuerySet)
        return token

    async def token(self, base_version: int) -> str:
        message = await self.expect(Authenticate)
        assert message.base_version == base_version
        assert isinstance(message.token, UserToken)
        return message.token.value

    async def greet(self) -> tuple[Connect, ModifyQuerySet]:
        return await self.expect(Connect), await self.expect(ModifyQuerySet)

    async def say(self, message: ServerMessage) -> None:
        await self.socket.send(codec.encode_server(message).decode())

    async def show(self, query_set: int, ts: int, *modifications: Modification, identity: int = 0) -> None:
        end = StateVersion(query_set, identity, ts)
        await self.say(Transition(self.version, end, modifications))
        self.version = end

    async def break_off(self, reason: str = "InternalServerError") -> None:
        await self.socket.close(1011, reason)
        self.over.set()


class ScriptedServer:
    """Connections are taken from `peers` in the order in which they come."""

    def __init__(self) -> None:
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.address = ""
        self.paths: list[str] = []

    async def take(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.paths.append(socket.request.path)
        peer = Peer(socket)
        self.peers.put_nowait(peer)
        closed = asyncio.ensure_future(socket.wait_closed())
        await asyncio.wait([closed, asyncio.ensure_future(peer.over.wait())], return_when=asyncio.FIRST_COMPLETED)
        peer.over.set()
        await closed


@contextlib.asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    async with serve(scripted.take, "127.0.0.1", 0, ping_interval=None) as server:
        scripted.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield scripted


def run(test: Callable[[ScriptedServer], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), scripted_server() as server:
            await test(server)

    asyncio.run(main())


@contextlib.contextmanager
def on_a_thread(script: Callable[[ScriptedServer], Coroutine[Any, Any, None]]) -> Iterator[str]:
    """The scripted server on a loop of its own; an assertion of the script fails the test."""
    addresses: list[str] = []
    ready = threading.Event()
    faults: list[BaseException] = []

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), scripted_server() as server:
            addresses.append(server.address)
            ready.set()
            await script(server)

    def body() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    assert ready.wait(PATIENCE_S)
    yield addresses[0]
    thread.join()
    assert not faults, faults
