"""The pages that a client holds, against a model of a server that cuts a list as it likes.

Single situations first; then chance inserts, deletes, splits, loads more and loses cursors. `--seed` repeats a run.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest

from evolute.protocol.messages import Failure, Success
from evolute_client.local_store import Result
from evolute_client.page_list import NotAPage, PageList, PagesShown, ends_of

CONVERSATIONS = 40


@dataclass
class ModelTable:
    """A sorted list of numbers; a cursor is the number that it stands behind, `inf` the end of the list.

    It answers when it is told to, all queries of one moment. `recommends` and `requires` are for pages of more rows;
    `generation` makes older cursors invalid.
    """

    rows: list[int] = field(default_factory=list)
    recommends: int = 1000
    requires: int = 1000
    generation: int = 0
    asked: dict[int, dict[str, object]] = field(default_factory=dict)
    ends: dict[int, str] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    next_id: int = 0

    def subscribe(self, options: dict[str, object]) -> int:
        self.next_id += 1
        self.asked[self.next_id] = options
        return self.next_id

    def unsubscribe(self, query_id: int) -> None:
        del self.asked[query_id]
        self.results.pop(query_id, None)
        self.ends.pop(query_id, None)

    def answer(self) -> None:
        """What a Transition does."""
        for query_id, options in self.asked.items():
            result = self._page(query_id, options)
            if result != self.results.get(query_id):
                self.results[query_id] = result

    def _page(self, query_id: int, options: dict[str, object]) -> Result:
        cursor, end = options["cursor"], options.get("endCursor") or self.ends.get(query_id)
        for given in (cursor, end):
            if given is not None and not str(given).endswith(f"@{self.generation}"):
                self.ends.pop(query_id, None)
                return Failure("Server Error", b'{"isConvexSystemError":true,"paginationError":"InvalidCursor"}')
        start = number(cursor, float("-inf"))
        behind = [row for row in self.rows if row > start]
        wanted = options["numItems"]
        assert isinstance(wanted, int)
        if end is None:
            is_last = len(behind) < wanted
            end = f"{'inf' if is_last else behind[wanted - 1]}@{self.generation}"
            self.ends[query_id] = str(end)
        page = [row for row in behind if row <= number(end, 0)]
        split = f"{page[len(page) // 2 - 1]}@{self.generation}" if len(page) > 1 else None
        status = None
        if len(page) > self.requires and split is not None:
            status, page = "SplitRequired", page[: self.requires]
        elif len(page) > self.recommends:
            status = "SplitRecommended"
        value = {"page": page, "isDone": number(end, 0) == float("inf"), "continueCursor": end}
        return Success(json.dumps(value | {"splitCursor": split, "pageStatus": status}).encode())


def number(cursor: object, default: float) -> float:
    return default if cursor is None else float(str(cursor).partition("@")[0])


def listed(table: ModelTable, items: int) -> PageList:
    return PageList(table.subscribe, table.unsubscribe, table.results.get, items)


def rows_of(shown: PagesShown) -> list[int]:
    return [row for page in shown.pages for row in json.loads(page.value)["page"]]


def test_page_by_page() -> None:
    table = ModelTable(list(range(5)))
    pages = listed(table, 2)
    assert pages.look() == PagesShown((), "loading_first_page")
    assert not pages.load_more(2)
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1], "can_load_more")
    assert pages.load_more(3)
    assert not pages.load_more(3), "one at a time"
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1], "loading_more")
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1, 2, 3, 4], "can_load_more")
    assert pages.load_more(1)
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1, 2, 3, 4], "exhausted")
    assert not pages.load_more(1)
    table.rows.append(7)
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1, 2, 3, 4, 7], "exhausted")


def test_a_page_of_more_than_twice_the_first_is_split_and_nothing_is_missing_meanwhile() -> None:
    table = ModelTable([0, 10])
    pages = listed(table, 2)
    table.answer()
    pages.look()
    table.rows = [0, 1, 2, 3, 10]
    table.answer()
    assert rows_of(pages.look()) == [0, 1, 2, 3, 10]
    assert [(asked["cursor"], asked.get("endCursor")) for asked in table.asked.values()] == [
        (None, None),
        (None, "1@0"),
        ("1@0", "10@0"),
    ]
    whole, first, _ = table.asked
    del table.asked[first]
    kept = table.asked
    table.asked = {whole: kept[whole]}
    table.rows.append(11)
    table.answer()
    assert rows_of(pages.look()) == [0, 1, 2, 3, 10], "the halves have no result yet"


def test_both_halves_take_the_place_of_the_page_in_one_step() -> None:
    table = ModelTable([0, 10], recommends=3)
    pages = listed(table, 2)
    table.answer()
    pages.look()
    table.rows = [0, 1, 2, 10]
    table.answer()
    assert rows_of(pages.look()) == [0, 1, 2, 10]
    assert len(table.asked) == 3
    table.rows = [0, 1, 10]
    table.answer()
    assert rows_of(pages.look()) == [0, 1, 10]
    assert len(table.asked) == 2, "the page is let go of"
    assert pages.look().status == "can_load_more"


def test_a_page_that_could_not_be_read_whole_is_hidden_until_it_is() -> None:
    table = ModelTable(list(range(8)), requires=3)
    pages = listed(table, 6)
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([], "loading_first_page")
    assert not pages.load_more(2)
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1, 2, 3, 4, 5], "can_load_more")
    assert pages.load_more(5)
    table.requires = 1
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([], "loading_first_page")
    for _ in range(3):
        table.answer()
        pages.look()
    assert rows_of(pages.look()) == list(range(8))


def test_a_cursor_that_is_not_good_any_more_begins_the_list_anew() -> None:
    table = ModelTable(list(range(9)))
    pages = listed(table, 2)
    table.answer()
    pages.load_more(3)
    table.answer()
    assert rows_of(pages.look()) == [0, 1, 2, 3, 4]
    table.generation = 1
    table.ends.clear()
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([], "loading_first_page")
    assert list(table.asked.values()) == [{"numItems": 2, "cursor": None}]
    table.answer()
    assert (rows_of(pages.look()), pages.look().status) == ([0, 1], "can_load_more")


def test_a_failure_is_told_with_what_is_before_it() -> None:
    table = ModelTable(list(range(9)))
    pages = listed(table, 2)
    table.answer()
    pages.load_more(3)
    table.answer()
    last = max(table.asked)
    table.results[last] = Failure("Server Error")
    assert pages.look().failure == Failure("Server Error")
    assert rows_of(pages.look()) == [0, 1]
    table.results[last] = Failure("boom", b'{"code":1}')
    assert pages.look().failure == Failure("boom", b'{"code":1}')
    table.results[min(table.asked)] = Failure("InvalidCursor: the first page has none")
    assert pages.look().failure is not None, "to begin anew would change nothing"


@pytest.mark.parametrize("value", [None, [], {"page": []}, {"page": [], "isDone": True, "continueCursor": None}])
def test_what_is_no_page(value: object) -> None:
    with pytest.raises(NotAPage, match="paginationOpts"):
        ends_of(value)


def test_the_list_is_always_the_beginning_of_the_table(seed: int) -> None:
    for conversation in range(CONVERSATIONS):
        chance = random.Random(1000 * seed + conversation)
        table = ModelTable(sorted(chance.sample(range(200), 20)), chance.choice([4, 1000]), chance.choice([3, 1000]))
        pages, answered = listed(table, chance.randint(1, 4)), list(table.rows)
        for _ in range(chance.randrange(10, 150)):
            match chance.choice(["insert", "delete", "answer", "answer", "look", "more", "stale"]):
                case "insert":
                    table.rows = sorted({*table.rows, *chance.sample(range(200), 4)})
                case "delete":
                    gone = set(chance.sample(range(200), 30))
                    table.rows = [row for row in table.rows if row not in gone]
                case "answer":
                    table.answer()
                    answered = list(table.rows)
                    pages.look()
                case "more":
                    pages.load_more(chance.randint(1, 5))
                case "stale" if chance.random() < 0.1:
                    table.generation += 1
                    table.ends.clear()
                case _:
                    pages.look()
            shown = pages.look()
            assert rows_of(shown) == answered[: len(rows_of(shown))], conversation
            assert shown.status != "exhausted" or rows_of(shown) == answered
            assert shown.failure is None
        for _ in range(10):
            table.answer()
            pages.look()
        while pages.load_more(5):
            for _ in range(10):
                table.answer()
                pages.look()
        assert (rows_of(pages.look()), pages.look().status) == (table.rows, "exhausted")
