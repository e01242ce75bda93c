"""The pages of a paginated query that a client holds, side by side, and what becomes of each.

    page 0 │ cursor None ──► continueCursor │ page 1 │ cursor ──► continueCursor │ …       load_more adds the next

Every page is a query of its own that stays subscribed; its journal keeps its end where it was, so the pages lie side by
side without gap or overlap in every Transition. A page that has grown too long is split: the query of each half is
asked for, and when both have a result, they take the place of the page in one step. A page that the server could not
read whole (SplitRequired) is not shown, nor what comes after it, until its halves are. A cursor that is not good any
more begins the list anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from evolute.protocol.messages import Failure, Success
from evolute_client.local_store import Result

PageStatus: TypeAlias = Literal["loading_first_page", "can_load_more", "loading_more", "exhausted"]

SPLITS = ("SplitRecommended", "SplitRequired")
INVALID_CURSOR = "InvalidCursor"


@dataclass(frozen=True, slots=True)
class PagesShown:
    """The list at one moment. `failure` is a page's that has failed, with the pages before it."""

    pages: tuple[Success, ...]
    status: PageStatus
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class _Ends:
    """What is needed of a page's result to hold the list together."""

    rows: int
    is_done: bool
    continue_cursor: str
    split_cursor: str | None
    page_status: str | None


@dataclass
class _Page:
    query_id: int
    options: dict[str, object]
    halves: tuple[_Page, _Page] | None = None
    seen: tuple[Result, _Ends] | None = None

    @property
    def has_no_cursor(self) -> bool:
        return self.options["cursor"] is None and "endCursor" not in self.options


class NotAPage(Exception):
    """The function's result is not that of a paginated query."""


class PageList:
    def __init__(
        self,
        subscribe: Callable[[dict[str, object]], int],
        unsubscribe: Callable[[int], None],
        result: Callable[[int], Result | None],
        initial_items: int,
    ) -> None:
        """`subscribe` takes pagination options and gives the query's id, of which `result` has the newest result."""
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._result = result
        self._initial_items = initial_items
        self._pages = [self._ask(None, initial_items)]

    def look(self) -> PagesShown:
        """The list now. Asks for halves, puts them in place, and begins anew where that is due. Raises NotAPage."""
        self._tend()
        shown: list[Success] = []
        is_done = False
        for page in self._pages:
            result = self._result(page.query_id)
            failure = result if isinstance(result, Failure) else None
            ends = self._ends(page, result) if isinstance(result, Success) else None
            if ends is None or ends.page_status == "SplitRequired":
                return PagesShown(tuple(shown), "loading_more" if shown else "loading_first_page", failure)
            assert isinstance(result, Success)
            shown.append(result)
            is_done = ends.is_done
        return PagesShown(tuple(shown), "exhausted" if is_done else "can_load_more")

    def _tend(self) -> None:
        """Every page is what it should be, or on its way there."""
        place = 0
        while place < len(self._pages):
            page = self._pages[place]
            if page.halves is not None and all(self._result(half.query_id) is not None for half in page.halves):
                self._pages[place : place + 1] = page.halves
                self._unsubscribe(page.query_id)
                continue
            result = self._result(page.query_id)
            if isinstance(result, Failure) and is_invalid_cursor(result) and not page.has_no_cursor:
                self._begin_anew()
                place = 0
                continue
            if isinstance(result, Success) and page.halves is None and self._is_to_be_split(self._ends(page, result)):
                self._split(page, self._ends(page, result))
                continue
            place += 1

    def load_more(self, items: int) -> bool:
        """Asks for the next page; False if there is none, or one is being loaded."""
        if self.look().status != "can_load_more":
            return False
        last = self._pages[-1]
        assert last.seen is not None
        self._pages.append(self._ask(last.seen[1].continue_cursor, items))
        return True

    def _ask(self, cursor: str | None, items: object, end_cursor: str | None = None) -> _Page:
        options: dict[str, object] = {"numItems": items, "cursor": cursor}
        if end_cursor is not None:
            options["endCursor"] = end_cursor
        return _Page(self._subscribe(options), options)

    def _split(self, page: _Page, ends: _Ends) -> None:
        items, cursor = page.options["numItems"], page.options["cursor"]
        assert cursor is None or isinstance(cursor, str)
        first = self._ask(cursor, items, ends.split_cursor)
        page.halves = first, self._ask(ends.split_cursor, items, ends.continue_cursor)

    def _is_to_be_split(self, ends: _Ends) -> bool:
        return ends.split_cursor is not None and (ends.page_status in SPLITS or ends.rows > 2 * self._initial_items)

    def _begin_anew(self) -> None:
        """The old pages are let go of first: one that is asked for again has to forget its journal."""
        for page in self._pages:
            for one in (page, *(page.halves or ())):
                self._unsubscribe(one.query_id)
        self._pages = [self._ask(None, self._initial_items)]

    def _ends(self, page: _Page, result: Success) -> _Ends:
        if page.seen is None or page.seen[0] is not result:
            page.seen = result, ends_of(orjson.loads(result.value))
        return page.seen[1]


def ends_of(value: Any) -> _Ends:
    """Raises NotAPage for what is no result of a paginated query."""
    match value:
        case {"page": list(rows), "isDone": bool(is_done), "continueCursor": str(continue_cursor)}:
            return _Ends(len(rows), is_done, continue_cursor, value.get("splitCursor"), value.get("pageStatus"))
    raise NotAPage(
        "a paginated query returns page, isDone and continueCursor (what .paginate(paginationOpts) gives), "
        f"but this one returned {str(value)[:200]}"
    )


def is_invalid_cursor(failure: Failure) -> bool:
    if failure.data is not None:
        data = orjson.loads(failure.data)
        return isinstance(data, dict) and data.get("paginationError") == INVALID_CURSOR
    return INVALID_CURSOR in failure.message
