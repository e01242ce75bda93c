"""Our client and a user's tokens, end to end: a real server that asks a real issuer for its keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from evolute_client import Client, HttpClient, RequestRefused, SyncClient
from tests.end_to_end.auth_under_test import sources
from tests.oidc_issuer import LIFETIME_S, OidcIssuer, running_issuer
from tests.server_thread import ServerThread
from tests.unit.scripted_server import ManualSleep

PATIENCE_S = 30


@pytest.fixture(scope="module")
def issuer() -> Iterator[OidcIssuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def server(issuer: OidcIssuer) -> Iterator[ServerThread]:
    with ServerThread(sources(issuer)) as server:
        yield server


def run(test: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test

    asyncio.run(main())


async def soon(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.01))


def url(server: ServerThread) -> str:
    return f"http://{server.address}"


def minting(issuer: OidcIssuer, name: str, asked: list[bool], **claims: Any) -> Callable[[bool], str]:
    """A fetcher whose tokens all differ."""

    def fetch(force_refresh: bool) -> str:
        asked.append(force_refresh)
        return issuer.token(claims, sub=name, jti=str(len(asked)))

    return fetch


def test_logging_in_refreshing_and_logging_out(server: ServerThread, issuer: OidcIssuer) -> None:
    async def test() -> None:
        sleep, asked, told = ManualSleep(), list[bool](), list[bool]()
        async with Client(url(server), sleep=sleep) as client, client.subscribe("notes:who") as who:
            assert await anext(who) is None
            assert await client.set_auth(minting(issuer, "ann", asked), told.append)
            assert (await anext(who))["subject"] == "ann"
            assert await sleep.begun.get() == LIFETIME_S - 10
            assert (client.auth_state, asked) == ("authenticated", [False, True])
            sleep.advance(LIFETIME_S)
            assert await sleep.begun.get() == LIFETIME_S - 10
            assert asked == [False, True, True]
            assert await client.mutation("notes:write", text="x") == "ann"
            writing = asyncio.create_task(client.mutation("notes:write", text="asked for before"))
            await asyncio.sleep(0)
            await client.clear_auth()
            assert await writing == "ann", "who was logged in when it was asked for (trap 21)"
            assert await anext(who) is None
            assert await client.mutation("notes:write", text="y") == "nobody"
            assert (told, client.auth_state) == ([True], "anonymous")

    run(test())


def test_a_token_that_ended_meanwhile_is_replaced_and_nothing_is_lost(issuer: OidcIssuer) -> None:
    async def test(server: ServerThread) -> None:
        ages = iter([0, 0, LIFETIME_S])

        def fetch(force_refresh: bool) -> str:
            issued = int(time.time()) + next(ages)
            return issuer.token(sub="bob", iat=issued, exp=issued + 2 * LIFETIME_S, jti=str(issued))

        async with Client(url(server), token=fetch, sleep=soon) as client, client.subscribe("notes:mine") as mine:
            assert await anext(mine) == []
            server.clock.shift_s = 2 * LIFETIME_S + 60
            assert await client.mutation("notes:write", text="late") == "bob"
            assert await anext(mine) == ["late"], "and nobody's notes in between"
            assert client.auth_state == "authenticated"

    with ServerThread(sources(issuer)) as server:
        run(test(server))


def test_tokens_that_no_provider_takes(server: ServerThread, issuer: OidcIssuer) -> None:
    async def test() -> None:
        asked, told = list[bool](), list[bool]()
        async with Client(url(server), sleep=soon) as client:
            assert not await client.set_auth(minting(issuer, "eve", asked, aud="somebody-else"), told.append)
            assert (client.auth_state, asked) == ("refused", [False, True, True, True])
            assert client.auth_error
            assert await client.query("notes:who") is None
            assert told == [False]

    run(test())


def test_the_other_clients(server: ServerThread, issuer: OidcIssuer) -> None:
    token = issuer.token(sub="zoe")
    assert HttpClient(url(server), token=token).mutation("notes:write", text="z") == "zoe"
    with pytest.raises(RequestRefused) as refused:
        HttpClient(url(server), token=token + "x").query("notes:who")
    assert refused.value.status == 401
    ann = {"subject": "ann", "issuer": "https://test"}
    assert HttpClient(url(server), admin_key=server.admin_key, acting_as=ann).run("notes:secret") == "ann"
    with SyncClient(url(server), admin_key=server.admin_key, acting_as=ann) as client:
        assert client.query("notes:secret") == "ann"
        assert client.query("notes:who")["tokenIdentifier"] == "https://test|ann"
    with SyncClient(url(server)) as client:
        assert client.set_auth(lambda force_refresh: token)
        assert client.mutation("notes:write", text="zz") == "zoe"
        client.clear_auth()
        assert client.query("notes:who") is None
