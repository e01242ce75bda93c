"""Pages over the wire: subscriptions that keep their ends, through lost connections, restarts and new code."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evolute_client import Client, HttpClient, SyncClient
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.raw_session import Message, RawSession, post
from tests.end_to_end.server_process import ServerProcess
from tests.unit.function_store import write_folder

MODULE = """
from evolute import PaginationOptions, PaginationResult, Range

@mutation
def insert(ctx: MutationCtx, group: str, numbers: list[int]) -> None:
    for n in numbers:
        ctx.db.insert("items", {"group": group, "n": n})

@mutation
def delete(ctx: MutationCtx, group: str, numbers: list[int]) -> None:
    for item in ctx.db.query("items").with_index("by_n", group=group).collect():
        if item["n"] in numbers:
            ctx.db.delete(item["_id"])

@query
def page(ctx: QueryCtx, group: str, paginationOpts: PaginationOptions, order: str = "asc") -> PaginationResult[int]:
    found = ctx.db.query("items").with_index("by_n", group=group).order(order)
    return found.paginate(paginationOpts).map(lambda item: item["n"])

@query
def everything(ctx: QueryCtx, group: str, order: str = "asc") -> list[int]:
    return [item["n"] for item in ctx.db.query("items").with_index("by_n", group=group).order(order).collect()]

@query
def refuses_the_odd(ctx: QueryCtx, group: str, paginationOpts: PaginationOptions) -> PaginationResult[int]:
    found = page(ctx, group, paginationOpts)
    if any(n % 2 for n in found.page):
        raise ConvexError("odd")
    return found
"""
SCHEMA = """
from evolute import define_schema, define_table
schema = define_schema(items=define_table().index("by_n", ["group", "n"]))
"""
INVALID_CURSOR = {"isConvexSystemError": True, "paginationError": "InvalidCursor"}


def write_functions(folder: Path) -> Path:
    return write_folder(folder / "functions", {"items.py": MODULE, "schema.py": SCHEMA})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("pages")
    with ServerProcess(write_functions(folder), folder / "data") as server:
        yield server


def options(num_items: int = 2, cursor: str | None = None, **further: Any) -> dict[str, Any]:
    return {"numItems": num_items, "cursor": cursor, **further}


def insert(url: str, group: str, *numbers: int) -> None:
    HttpClient(url).mutation("items:insert", group=group, numbers=list(numbers))


def shows(session: RawSession, query: int, numbers: list[int]) -> Message:
    """Waits until the page holds these; its modification."""
    session.until(lambda: session.results.get(query, {}).get("value", {}).get("page") == numbers)
    return session.results[query]


# --- Subscriptions ----------------------------------------------------------------------------------------------------


def test_a_subscribed_page_keeps_its_end(server: ServerProcess) -> None:
    insert(server.url, "keeps", 0, 2, 4, 6)
    with RawSession(server.url) as session:
        first = session.add("items:page", group="keeps", paginationOpts=options())
        end = shows(session, first, [0, 2])
        second = session.add("items:page", group="keeps", paginationOpts=options(cursor=end["value"]["continueCursor"]))
        everything = session.add("items:everything", group="keeps")
        shows(session, second, [4, 6])
        session.mutate("items:insert", group="keeps", numbers=[1, 3, 5])
        assert shows(session, first, [0, 1, 2])["journal"] == end["journal"]
        assert session.results[first]["value"]["continueCursor"] == end["value"]["continueCursor"]
        shows(session, second, [3, 4, 5, 6])
        session.mutate("items:delete", group="keeps", numbers=[2, 4])
        shows(session, first, [0, 1])
        shows(session, second, [3, 5, 6])
        session.value(everything, [0, 1, 3, 5, 6])
        assert isinstance(end["journal"], str)
        assert session.results[everything]["journal"] is None


@pytest.mark.parametrize("kept", [True, False])
def test_who_comes_back_with_the_journal_has_the_same_page(server: ServerProcess, kept: bool) -> None:
    group = f"comes back {kept}"
    insert(server.url, group, 0, 2, 4)
    with RawSession(server.url) as session:
        journal = shows(session, session.add("items:page", group=group, paginationOpts=options()), [0, 2])["journal"]
    insert(server.url, group, 1)
    with RawSession(server.url) as session:
        added = session.added("items:page", group=group, paginationOpts=options())
        session.modify({**added, "journal": journal} if kept else added)
        found = shows(session, added["queryId"], [0, 1, 2] if kept else [0, 1])
        assert (found["journal"] == journal) == kept
        insert(server.url, group, -1)
        shows(session, added["queryId"], [-1, 0, 1, 2] if kept else [-1, 0, 1])


@pytest.mark.parametrize("journal", ["", "x", "ä" * 100, "A" * 100_000])
def test_a_journal_that_was_made_up_does_nothing(server: ServerProcess, journal: str) -> None:
    group = f"made up {len(journal)}"
    insert(server.url, group, 0, 2, 4)
    with RawSession(server.url) as session:
        page = session.added("items:page", group=group, paginationOpts=options())
        other = session.added("items:everything", group=group)
        session.modify({**page, "journal": journal}, {**other, "journal": journal})
        found = shows(session, page["queryId"], [0, 2])
        session.value(other["queryId"], [0, 2, 4])
        assert found["journal"] != journal
        insert(server.url, group, 1)
        assert shows(session, page["queryId"], [0, 1, 2])["journal"] == found["journal"]


def test_a_page_that_fails_for_a_while_is_the_same_page_afterwards(server: ServerProcess) -> None:
    insert(server.url, "fails", 0, 2, 4)
    with RawSession(server.url) as session:
        query = session.add("items:refuses_the_odd", group="fails", paginationOpts=options())
        journal = shows(session, query, [0, 2])["journal"]
        insert(server.url, "fails", 1)
        session.until(lambda: session.results[query]["type"] == "QueryFailed")
        assert session.results[query]["journal"] == journal
        session.mutate("items:delete", group="fails", numbers=[1])
        insert(server.url, "fails", -2)
        shows(session, query, [-2, 0, 2])


def test_a_cursor_of_another_query_is_told_as_the_hooks_know_it(server: ServerProcess) -> None:
    insert(server.url, "others", 0, 2, 4)
    with RawSession(server.url) as session:
        first = session.add("items:page", group="others", paginationOpts=options())
        cursor = shows(session, first, [0, 2])["value"]["continueCursor"]
        other = session.add("items:page", group="others", order="desc", paginationOpts=options(cursor=cursor))
        failed = session.result(other)
        assert failed["errorData"] == INVALID_CURSOR
        assert "InvalidCursor: Tried to run a query starting from a cursor" in failed["errorMessage"]
    body = {"path": "items:page", "args": {"group": "another", "paginationOpts": options(cursor=cursor)}}
    _, answer = post(server.url, "/api/query", body)
    assert (answer["status"], answer["errorData"]) == ("error", INVALID_CURSOR)


class GrowingList:
    """What a client does that shows one, beside all rows of the table; it looks at both after every Transition."""

    def __init__(self, url: str, group: str, chance: random.Random) -> None:
        self._url = url
        self._chance = chance
        self._arguments = {"group": group, "order": chance.choice(["asc", "desc"])}
        self._session = RawSession(url)
        self._everything = self._session.add("items:everything", **self._arguments)
        self._pages: list[tuple[dict[str, Any], int]] = []
        self.looks = 0

    def load_more(self) -> None:
        if self._pages and self._value(self._pages[-1][1])["isDone"]:
            return
        cursor = self._value(self._pages[-1][1])["continueCursor"] if self._pages else None
        asked = options(self._chance.randint(1, 4), cursor)
        self._pages.append((asked, self._loaded(asked)))

    def split(self) -> None:
        place = self._chance.randrange(len(self._pages))
        asked, query = self._pages[place]
        page = self._value(query)
        if page["splitCursor"] is None:
            return
        first = {**asked, "endCursor": page["splitCursor"]}
        second = {**asked, "cursor": page["splitCursor"], "endCursor": page["continueCursor"]}
        self._pages[place : place + 1] = [(first, self._loaded(first)), (second, self._loaded(second))]
        self._session.remove(query)

    def reconnect(self) -> None:
        """Everything is asked for again, with the journals."""
        journals = [self._session.results[query]["journal"] for _, query in self._pages]
        self._session.close()
        self._session = RawSession(self._url)
        asked = [{**self._arguments, "paginationOpts": asked} for asked, _ in self._pages]
        pages = [self._session.added("items:page", **arguments) for arguments in asked]
        pages = [{**page, "journal": journal} for page, journal in zip(pages, journals, strict=True)]
        everything = self._session.added("items:everything", **self._arguments)
        self._everything = everything["queryId"]
        self._pages = [(asked, page["queryId"]) for (asked, _), page in zip(self._pages, pages, strict=True)]
        self._session.modify(*pages, everything)
        self.look_until(lambda: everything["queryId"] in self._session.results)

    def write(self, path: str, numbers: list[int]) -> None:
        request = self._session.request("Mutation", path, group=self._arguments["group"], numbers=numbers)
        self.look_until(lambda: request in self._session.answers and self._session.heard[-1]["type"] == "Transition")

    def look_until(self, done: Callable[[], object]) -> None:
        while not done():
            self._session.next()
            self._look()

    def close(self) -> None:
        self._session.close()

    def _loaded(self, asked: dict[str, Any]) -> int:
        query = self._session.add("items:page", paginationOpts=asked, **self._arguments)
        self.look_until(lambda: query in self._session.results)
        return query

    def _value(self, query: int) -> Any:
        return self._session.result(query)["value"]

    def _look(self) -> None:
        """A view is of one moment, so together the pages are the beginning of the table."""
        results = self._session.results
        if self._everything not in results or any(query not in results for _, query in self._pages):
            return
        pages = [results[query]["value"] for _, query in self._pages]
        shown = [n for page in pages for n in page["page"]]
        whole = results[self._everything]["value"]
        assert shown == whole[: len(shown)]
        if pages and pages[-1]["isDone"]:
            assert shown == whole
        self.looks += 1


def test_pages_of_one_session_hold_the_table_together(server: ServerProcess, seed: int) -> None:
    """Without gap or overlap in any Transition, while it and others write, split, load more and reconnect."""
    chance, group = random.Random(seed), f"together {seed}"
    insert(server.url, group, *chance.sample(range(100), 10))
    growing = GrowingList(server.url, group, chance)
    others = HttpClient(server.url)
    try:
        growing.load_more()
        for _ in range(60):
            numbers = chance.sample(range(100), chance.randint(1, 12))
            step: Callable[[], None] = chance.choice(
                [
                    growing.load_more,
                    growing.split,
                    growing.reconnect,
                    lambda: growing.write("items:insert", numbers),  # noqa: B023
                    lambda: growing.write("items:delete", numbers),  # noqa: B023
                    lambda: others.mutation("items:insert", group=group, numbers=numbers),  # noqa: B023
                    lambda: others.mutation("items:delete", group=group, numbers=numbers),  # noqa: B023
                ]
            )
            step()
        growing.write("items:insert", [101])
        assert growing.looks > 30
    finally:
        growing.close()


# --- Restarts and new code --------------------------------------------------------------------------------------------


def test_cursors_and_journals_outlive_the_server(tmp_path: Path) -> None:
    functions, data = write_functions(tmp_path), tmp_path / "data"
    with ServerProcess(functions, data) as first:
        insert(first.url, "a", 0, 2, 4)
        with RawSession(first.url) as session:
            found = shows(session, session.add("items:page", group="a", paginationOpts=options()), [0, 2])
        first.kill()
    cursor = found["value"]["continueCursor"]
    with ServerProcess(functions, data) as second, RawSession(second.url) as session:
        insert(second.url, "a", 1)
        added = session.added("items:page", group="a", paginationOpts=options())
        session.modify({**added, "journal": found["journal"]})
        shows(session, added["queryId"], [0, 1, 2])
        shows(session, session.add("items:page", group="a", paginationOpts=options(cursor=cursor)), [4])
    with ServerProcess(functions, tmp_path / "other") as other, RawSession(other.url) as session:
        query = session.add("items:page", group="a", paginationOpts=options(cursor=cursor))
        assert session.result(query)["errorData"] == INVALID_CURSOR
        assert "not a cursor that this backend made" in session.results[query]["errorMessage"]


def test_our_client_has_its_page_back_after_the_server_was_away(tmp_path: Path) -> None:
    functions, data = write_functions(tmp_path), tmp_path / "data"

    async def watch(first: ServerProcess) -> None:
        async with Client(first.url) as client:
            pages = client.subscribe("items:page", group="a", paginationOpts=options())
            assert (await anext(pages))["page"] == [0, 2]
            await asyncio.to_thread(first.kill)
            second = ServerProcess(functions, data, port=first.port)
            try:
                await asyncio.to_thread(second.start)
                await client.mutation("items:insert", group="a", numbers=[1, -1])
                async for page in pages:
                    if page["page"] != [0, 2]:
                        assert page["page"] == [-1, 0, 1, 2]
                        return
            finally:
                second.close()

    with ServerProcess(functions, data) as first:
        insert(first.url, "a", 0, 2, 4)
        asyncio.run(asyncio.wait_for(watch(first), 60))


def test_when_the_query_has_become_another_one_pages_begin_anew(tmp_path: Path) -> None:
    """What is left of the old query are errors that make the hooks start again; the first page just is the new one."""
    functions = write_functions(tmp_path)
    with ServerProcess(functions, tmp_path / "data") as server, RawSession(server.url) as session:
        insert(server.url, "a", 0, 2, 4, 6)
        first = session.add("items:page", group="a", paginationOpts=options())
        journal = shows(session, first, [0, 2])["journal"]
        cursor = session.results[first]["value"]["continueCursor"]
        second = session.add("items:page", group="a", paginationOpts=options(cursor=cursor))
        shows(session, second, [4, 6])
        changed = MODULE.replace(
            'with_index("by_n", group=group).order(order)\n',
            'with_index("by_n", group=group).order(order).filter(lambda item: item["n"] > 0)\n',
        )
        assert changed != MODULE
        write_folder(functions, {"items.py": changed})
        assert shows(session, first, [2, 4])["journal"] != journal
        session.until(lambda: session.results[second]["type"] == "QueryFailed")
        assert session.results[second]["errorData"] == INVALID_CURSOR
        insert(server.url, "a", 3)
        shows(session, first, [2, 3, 4])


# --- By hand, with any client -----------------------------------------------------------------------------------------


def test_our_clients_go_through_pages_by_hand(server: ServerProcess) -> None:
    insert(server.url, "ours", *range(7))

    def walked(query: Callable[..., Any]) -> list[list[int]]:
        pages, cursor = [], None
        while True:
            found = query("items:page", group="ours", paginationOpts=options(3, cursor))
            pages.append(found["page"])
            cursor = found["continueCursor"]
            if found["isDone"]:
                return pages

    expected = [[0, 1, 2], [3, 4, 5], [6]]
    assert walked(HttpClient(server.url).query) == expected
    with SyncClient(server.url) as client:
        assert walked(client.query) == expected


def test_pypi_s_client_goes_through_pages_by_hand(server: ServerProcess) -> None:
    insert(server.url, "pypi", *range(7))
    program = """
import sys
from convex import ConvexClient, ConvexError
client = ConvexClient(sys.argv[1])
pages, cursor = [], None
while True:
    found = client.query("items:page", {"group": "pypi", "paginationOpts": {"numItems": 3, "cursor": cursor}})
    pages.append([int(n) for n in found["page"]])
    cursor = found["continueCursor"]
    if found["isDone"]:
        break
assert pages == [[0, 1, 2], [3, 4, 5], [6]], pages
watched = client.subscribe("items:page", {"group": "pypi", "paginationOpts": {"numItems": 2.0, "cursor": None}})
assert next(watched)["page"] == [0, 1]
client.mutation("items:insert", {"group": "pypi", "numbers": [-1]})
assert next(watched)["page"] == [-1, 0, 1]
try:
    client.query("items:page", {"group": "pypi", "paginationOpts": {"numItems": 2, "cursor": "made up"}})
except ConvexError as error:
    assert error.data == {"isConvexSystemError": True, "paginationError": "InvalidCursor"}
else:
    raise AssertionError("a cursor that was made up was accepted")
"""
    with ClientProcess([sys.executable, "-c", program, server.url]) as client:
        client.finish()
