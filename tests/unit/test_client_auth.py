"""Tokens: the asyncio client against a scripted server, with a clock that stands still.

`tests/scripts/client_sessions/auth*.txt` go through what may happen between client and server; here are the fetcher,
the clock and what the application is told.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading

import pytest

from evolute.limits import Limits
from evolute.protocol.messages import Action, AuthError, Connect, Mutation, MutationResponse, Success
from evolute_client import Client, ClientClosed, ConnectionLost, SyncClient
from evolute_client.token_lifetime import lifetime_s
from tests.unit.scripted_server import ManualSleep, Peer, ScriptedServer, at_once, on_a_thread, run


def jwt(name: str, lifetime: float = 70) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"iat": 1000, "exp": 1000 + lifetime}).encode())
    return f"head.{claims.decode().rstrip('=')}.{name}"


class Fetcher:
    """Gives its tokens in turn, each when the test says so, and remembers what it was asked for."""

    def __init__(self, *tokens: str | None) -> None:
        self.tokens = list(tokens)
        self.asked: asyncio.Queue[bool] = asyncio.Queue()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, force_refresh: bool) -> str | None:
        self.asked.put_nowait(force_refresh)
        await self.may_answer.wait()
        return self.tokens.pop(0)


def test_a_token_is_confirmed_refreshed_and_replaced_in_time() -> None:
    async def test(server: ScriptedServer) -> None:
        sleep, fetcher, told = ManualSleep(), Fetcher("cached", jwt("b"), jwt("c")), list[bool]()
        async with Client(server.address, sleep=sleep) as client:
            peer = await server.peers.get()
            await peer.greet()
            setting = asyncio.create_task(client.set_auth(fetcher, told.append))
            assert await peer.token(0) == "cached"
            assert (client.auth_state, told, setting.done()) == ("pending", [], False)
            await peer.show(1, 100, identity=1)
            assert await setting
            assert (client.auth_state, told) == ("authenticated", [True])
            assert await peer.token(1) == jwt("b")
            await peer.show(1, 110, identity=2)
            assert await sleep.begun.get() == 60.0
            sleep.advance(59)
            await peer.show(1, 120, identity=2)
            sleep.advance(1)
            assert await peer.token(2) == jwt("c")
            await peer.show(1, 130, identity=3)
            assert await sleep.begun.get() == 60.0
            assert told == [True], "a token that is replaced in time is nobody's news"
            assert [fetcher.asked.get_nowait() for _ in range(3)] == [False, True, True]

    run(test)


def test_nothing_is_sent_while_a_token_is_fetched() -> None:
    """What was sent meanwhile would come before the new token, or after the old one."""

    async def test(server: ScriptedServer) -> None:
        fetcher = Fetcher("old", "old", "new")
        fetcher.may_answer.clear()
        async with Client(server.address, token=fetcher, sleep=at_once) as client:
            acting = asyncio.create_task(client.action("m:act"))
            peer = await server.peers.get()
            await client.wait_connected()
            await fetcher.asked.get()
            fetcher.may_answer.set()
            assert await peer.greet_user() == "old"
            await peer.expect(Action)
            await peer.show(1, 100, identity=1)
            await fetcher.asked.get()

            fetcher.may_answer.clear()
            await peer.say(AuthError("Convex token identity expired", 1, False))
            with pytest.raises(ConnectionLost, match="in flight"):
                await acting
            sending = asyncio.create_task(client.mutation("m:send"))
            peer = await server.peers.get()
            await client.wait_connected()
            await fetcher.asked.get()
            fetcher.may_answer.set()
            assert await peer.greet_user() == "new"
            await peer.expect(Mutation)
            await peer.say(MutationResponse(1, Success(b"1"), 110))
            await peer.show(1, 110, identity=1)
            assert await sending == 1

    run(test)


def test_the_application_is_told_when_no_token_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: ScriptedServer) -> None:
        fetcher, told = Fetcher("t0", "t1", "t2", "t3", "t4"), list[bool]()
        async with Client(server.address, sleep=at_once) as client:
            peer = await server.peers.get()
            await peer.greet()
            setting = asyncio.create_task(client.set_auth(fetcher, told.append))
            assert await peer.token(0) == "t0"
            await peer.say(AuthError("no such provider", 0, True))
            for name in ("t1", "t2", "t3"):
                peer = await server.peers.get()
                assert await peer.greet_user() == name
                await peer.say(AuthError("no such provider", 0, True))
            assert await setting is False
            assert (client.auth_state, client.auth_error, told) == ("refused", "no such provider", [False])
            peer = await server.peers.get()
            await peer.greet()
            asking = asyncio.create_task(client.mutation("m:f"))
            await peer.expect(Mutation)
            await peer.say(MutationResponse(0, Success(b"1"), 100))
            await peer.show(1, 100)
            assert await asking == 1, "as nobody"

    run(test)
    assert "failed to authenticate: no such provider" in caplog.text


def test_fresh_tokens_max() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, sleep=at_once, limits=Limits(fresh_tokens_max=1)) as client:
            setting = asyncio.create_task(client.set_auth(Fetcher("t0", "t1")))
            for name in ("t0", "t1"):
                peer = await server.peers.get()
                assert await peer.greet_user() == name
                await peer.say(AuthError("no", 0, True))
            assert await setting is False

    run(test)


def test_a_token_as_text_needs_no_fetcher() -> None:
    async def test(server: ScriptedServer) -> None:
        async with Client(server.address, token="text", sleep=at_once) as client:
            peer = await server.peers.get()
            assert await peer.greet_user() == "text"
            await peer.show(1, 100, identity=1)
            await peer.say(AuthError("Convex token identity expired", 1, False))
            await (await server.peers.get()).greet()
            assert client.auth_error == "the token fetcher gave the token that was refused"

    run(test)


@pytest.mark.parametrize("given", [OSError("no network"), 7])
def test_a_fetcher_that_fails(given: object, caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: ScriptedServer) -> None:
        def fetch(force_refresh: bool) -> str | None:
            if isinstance(given, Exception):
                raise given
            return given  # type: ignore[return-value]

        async with Client(server.address) as client:
            assert await client.set_auth(fetch) is False
            assert client.auth_error in (
                "OSError: no network",
                "TypeError: a token fetcher gives a str or None, but this one gave a int",
            )
            await (await server.peers.get()).greet()

    run(test)
    assert "the token fetcher failed" in caplog.text


def test_another_fetcher_and_none_at_all() -> None:
    async def test(server: ScriptedServer) -> None:
        slow = Fetcher("slow")
        slow.may_answer.clear()
        async with Client(server.address) as client:
            first = asyncio.create_task(client.set_auth(slow))
            await slow.asked.get()
            second = asyncio.create_task(client.set_auth(lambda force: "quick"))
            peer = await server.peers.get()
            assert await peer.greet_user() == "quick", "what the first fetcher may still give goes nowhere"
            assert await first is False
            await peer.show(1, 100, identity=1)
            assert await second
            await client.clear_auth()
            assert client.auth_state == "anonymous"
            calling = asyncio.create_task(client.set_auth(slow))
            await slow.asked.get()
        with pytest.raises(ClientClosed):
            await calling

    run(test)


def test_what_does_not_go_together() -> None:
    with pytest.raises(ValueError, match="not both"):
        Client("http://127.0.0.1:1", token="t", admin_key="k")
    with pytest.raises(ValueError, match="needs the admin_key"):
        Client("http://127.0.0.1:1", acting_as={"subject": "ann"})


def test_the_blocking_client_fetches_on_a_thread() -> None:
    threads: list[str] = []

    def fetch(force_refresh: bool) -> str | None:
        threads.append(threading.current_thread().name)
        return None if len(threads) > 2 else "token"

    async def script(server: ScriptedServer) -> None:
        peer = await server.peers.get()
        await confirm(peer)
        again = await peer.socket.recv()
        assert '"tokenType":"None"' in str(again)
        await peer.socket.wait_closed()

    async def confirm(peer: Peer) -> None:
        await peer.expect(Connect)
        assert await peer.token(0) == "token"
        await peer.socket.recv()
        await peer.show(1, 100, identity=1)

    with on_a_thread(script) as address, SyncClient(address, token=fetch) as client:
        client.wait_connected(5)
        assert client.set_auth(lambda force: None) is False
        assert client.auth_error == "the token fetcher gave no token"
        client.clear_auth()
        assert client.auth_state == "anonymous"
    assert "evolute client" not in threads


@pytest.mark.parametrize(
    ("token", "seconds"),
    [
        (jwt("x", 3600), 3600),
        (jwt("x", 2), None),
        (jwt("x", float("inf")), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.!.c", None),
        ("a.W10.c", None),
        ("a.e30.c", None),
    ],
)
def test_lifetimes(token: str, seconds: float | None) -> None:
    assert lifetime_s(token) == seconds


def test_how_long_is_waited_at_most_and_at_least() -> None:
    async def test(server: ScriptedServer) -> None:
        limits = Limits(token_refresh_leeway_ms=30_000, token_refresh_ms_max=50_000)
        for lifetime, wait_s in ((70, 40.0), (40, 20.0), (3600, 50.0)):
            sleep = ManualSleep()
            async with Client(server.address, token=jwt("x", lifetime), sleep=sleep, limits=limits):
                peer = await server.peers.get()
                await peer.greet_user()
                await peer.show(1, 100, identity=1)
                assert await sleep.begun.get() == wait_s

    run(test)
