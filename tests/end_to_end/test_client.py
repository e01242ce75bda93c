"""Our client against a real server, through connections that are cut: lists, views and expected changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from evolute_client import Client, LocalStore
from tests.end_to_end.cutting_proxy import cutting_proxy
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_pagination import write_functions

PATIENCE_S = 60
STEPS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("client")
    with ServerProcess(write_functions(folder), folder / "data") as server:
        yield server


def run(test: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test

    asyncio.run(main())


async def soon(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.01))


async def write(client: Client, group: str, chance: random.Random) -> None:
    numbers = chance.sample(range(100), chance.randint(1, 12))
    await client.mutation(chance.choice(["items:insert", "items:delete"]), group=group, numbers=numbers)


def test_a_paginated_list_is_the_beginning_of_the_table_at_every_moment(server: ServerProcess, seed: int) -> None:
    """While it and others write, pages are loaded and split, and the connection is cut."""
    chance, group = random.Random(seed), f"list {seed}"
    arguments = {"group": group, "order": chance.choice(["asc", "desc"])}

    async def look(views: AsyncIterator[dict[str, Any]], history: Any, looks: list[str]) -> None:
        async for view in views:
            if history.status == "loading_first_page":
                continue
            assert history.results == view["all"][: len(history.results)]
            if history.status == "exhausted":
                assert history.results == view["all"]
            looks.append(history.status)

    async def test() -> None:
        looks: list[str] = []
        async with (
            Client(server.url) as other,
            cutting_proxy(server.port) as proxy,
            Client(proxy.url, sleep=soon) as client,
            client.paginated("items:page", arguments, initial_items=chance.randint(1, 4)) as history,
            client.watch({"all": ("items:everything", arguments)}) as views,
        ):
            looking = asyncio.create_task(look(views, history, looks))
            for _ in range(STEPS):
                match chance.choice(["load", "load", "mine", "theirs", "both", "cut"]):
                    case "load":
                        history.load_more(chance.randint(1, 4))
                    case "mine":
                        await write(client, group, chance)
                    case "theirs":
                        await write(other, group, chance)
                    case "both":
                        await asyncio.gather(write(client, group, chance), write(other, group, chance))
                    case "cut" if chance.random() < 0.5:
                        proxy.cut()
            while history.status != "exhausted":
                history.load_more(7)
                await anext(history)
            numbers = await client.query("items:everything", **arguments)
            assert history.results == numbers
            assert len(looks) > 5
            looking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await looking

    run(test())


def test_what_is_expected_is_shown_until_it_has_happened_whatever_is_cut(server: ServerProcess, seed: int) -> None:
    chance, group = random.Random(seed), f"expected {seed}"
    expected: set[int] = set()

    async def add(client: Client, number: int) -> None:
        def show(store: LocalStore) -> None:
            shown = store.get_query("items:everything", {"group": group})
            if shown is not None:
                store.set_query("items:everything", {"group": group}, [*shown, number])

        expected.add(number)
        await client.mutation("items:insert", optimistic_update=show, group=group, numbers=[number])

    async def look(numbers: Any) -> None:
        async for shown in numbers:
            assert len(set(shown)) == len(shown), "shown twice"
            assert set(shown) == expected, "taken back before it was shown"

    async def test() -> None:
        async with (
            cutting_proxy(server.port) as proxy,
            Client(proxy.url, sleep=soon) as client,
            client.subscribe("items:everything", group=group) as numbers,
        ):
            await anext(numbers)
            looking = asyncio.create_task(look(numbers))
            adding = []
            for number in range(STEPS):
                adding.append(asyncio.create_task(add(client, number)))
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
                    proxy.cut()
                if chance.random() < 0.3:
                    await adding[-1]
            await asyncio.gather(*adding)
            assert not looking.done() or looking.result() is None
            looking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await looking
            assert await client.query("items:everything", group=group) == sorted(expected)

    run(test())
