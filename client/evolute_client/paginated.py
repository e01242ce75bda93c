"""A list that grows page by page and stays up to date from its beginning to where it was loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evolute.values import wire_codec
from evolute_client.feed import Feed
from evolute_client.listeners import Listeners
from evolute_client.local_store import Result
from evolute_client.opened import opened
from evolute_client.page_list import NotAPage, PageList, PagesShown, PageStatus
from evolute_client.stream import Stream

OPTIONS = "paginationOpts"
"""The name of the argument that says which page."""

Encode = Callable[[Mapping[str, object]], bytes]


class _Pages(Feed[PagesShown]):
    def __init__(
        self, listeners: Listeners, path: str, arguments: Mapping[str, object], encode: Encode, initial_items: int
    ) -> None:
        super().__init__()
        self._listeners = listeners
        self._path = path
        self._arguments = arguments
        self._encode = encode
        self.now = PagesShown((), "loading_first_page")
        self._list = PageList(self._ask, self._let_go, listeners.shown, initial_items)
        self._look()

    def news(self, results: Mapping[int, Result | None]) -> None:
        self._look()

    def load_more(self, items: int) -> bool:
        if self.has_ended:
            return False
        asked = self._list.load_more(items)
        self._look()
        return asked

    def _look(self) -> None:
        try:
            now = self._list.look()
        except NotAPage as error:
            self.end(error)
            return
        if now.failure is None:
            before, self.now = self.now, now
            if is_only_cut_differently(before, now):
                return
        self.offer(now if now.pages or now.failure or now.status != "loading_first_page" else None)

    def _ask(self, options: dict[str, object]) -> int:
        return self._listeners.add(self._path, self._encode({**self._arguments, OPTIONS: options}), self)

    def _let_go(self, query_id: int) -> None:
        self._listeners.remove(query_id, self)


class PaginatedQuery(Stream[list[Any]]):
    """`results` are the items of all pages that are loaded, as they are now, and `status` whether there are more.

    Iterate over it for the results at each change of either, from the first page on. Other writers may insert and
    delete wherever they like: nothing is missing from the list, and nothing is in it twice. A query that fails raises
    in the loop (ConvexError or FunctionError), and `results` stays as it was; iterating again waits for it to recover.
    """

    def __init__(
        self, listeners: Listeners, path: str, arguments: Mapping[str, object], encode: Encode, initial_items: int
    ) -> None:
        if OPTIONS in arguments:
            raise ValueError(f"{OPTIONS} is not yours to give: initial_items and load_more say how many")
        self._pages = _Pages(listeners, path, arguments, encode, checked(initial_items))
        super().__init__(listeners, self._pages)

    @property
    def results(self) -> list[Any]:
        return items_of(self._pages.now)

    @property
    def status(self) -> PageStatus:
        """`loading_first_page`, `can_load_more`, `loading_more` or `exhausted`."""
        return self._pages.now.status

    def load_more(self, items: int) -> bool:
        """Asks for one page more, of so many items at first. False, and nothing is done, if there is none to load."""
        return self._pages.load_more(checked(items))

    async def __anext__(self) -> list[Any]:
        shown = await self._pages.wait_next()
        if shown.failure is not None:
            opened(shown.failure)
        return items_of(shown)


def items_of(shown: PagesShown) -> list[Any]:
    items: list[Any] = []
    for page in shown.pages:
        value = wire_codec.decode(page.value)
        assert isinstance(value, dict)
        rows = value["page"]
        assert isinstance(rows, list)
        items += rows
    return items


def is_only_cut_differently(before: PagesShown, now: PagesShown) -> bool:
    """A page was split: that is nobody's news."""
    return len(before.pages) != len(now.pages) and before.status == now.status and items_of(before) == items_of(now)


def checked(items: int) -> int:
    if items < 1:
        raise ValueError(f"a page has at least one item, got {items!r}")
    return items
