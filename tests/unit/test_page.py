"""One page as the transaction reads it: its read set, what ends it early, and where it is to be split.

A model test checks what all of it is for: pages that a client holds stay side by side, whatever is written.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.database.cursor import END, Cursors
from evolute.database.page import Page, Span, read_page
from evolute.database.query import Query
from evolute.database.transaction import Transaction
from evolute.errors import Conflict, LimitReached
from evolute.limits import Limits
from evolute.storage.keyspace import CURSOR_KEY, index_prefix
from evolute.values.pagination import PaginationOptions
from evolute.values.schema import IndexDefinition
from tests.open_store import LIMITS, OpenStore

INDEXES = (IndexDefinition("by_n", ("n",)),)


@pytest.fixture
def items(store: OpenStore) -> OpenStore:
    store.run(lambda transaction: transaction.create_table("items", INDEXES))
    return store


def fill(store: OpenStore, *rows: int, **fields: Any) -> list[str]:
    return store.run(lambda transaction: [transaction.insert("items", {"n": n, **fields}) for n in rows])


def by_n(transaction: Transaction, order: Any = "asc") -> Query[dict[str, Any]]:
    return transaction.query("items").with_index("by_n").order(order)


def read(
    query: Query[dict[str, Any]],
    transaction: Transaction,
    after: bytes | None = None,
    until: bytes | None = None,
    **options: Any,
) -> Page:
    return read_page(transaction, query.walk(), Span(after, until), PaginationOptions(**{"num_items": 3, **options}))


def page(
    store: OpenStore,
    after: bytes | None = None,
    until: bytes | None = None,
    order: str = "asc",
    limits: Limits | None = None,
    **options: Any,
) -> Page:
    transaction = store.begin(limits=limits)
    return read(by_n(transaction, order), transaction, after, until, **options)


def numbers(page: Page) -> list[Any]:
    return [row["n"] for row in page.rows]


# --- What is read -----------------------------------------------------------------------------------------------------


def walked(transaction: Transaction) -> tuple[bytes, bytes]:
    """The one interval of `by_n` that was read, without the index's prefix."""
    definition = transaction.table("items")
    assert definition is not None
    prefix = index_prefix(definition.indexes["by_n"].id)
    found = [(start, end) for start, end in transaction.read_set.ranges if start.startswith(prefix)]
    ((start, end),) = found
    return start[len(prefix) :], end[len(prefix) :]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_read_set_of_a_page_is_what_was_walked(items: OpenStore, order: str) -> None:
    """The end of one is the beginning of the next, to the byte: no insert falls between them."""
    fill(items, *range(8))
    at: bytes | None = None
    intervals = []
    for _ in range(3):
        transaction = items.begin()
        end = read(by_n(transaction, order), transaction, at).end
        intervals.append(walked(transaction))
        transaction = items.begin()
        again = read(by_n(transaction, order), transaction, at, end, num_items=1)
        assert (again.end, walked(transaction)) == (end, intervals[-1]), "pinned, it reads the same"
        at = end
    assert at == END
    if order == "desc":
        intervals = [(start, end) for start, end in reversed(intervals)]
    assert intervals[0][0] == b""
    assert intervals[0][1] == intervals[1][0]
    assert intervals[1][1] == intervals[2][0]
    assert intervals[2][1] == b"\xff"


def test_a_pinned_page_has_read_the_gap_before_its_end(items: OpenStore) -> None:
    """The row at its end may be gone; one that comes there is in this page and breaks it."""
    ids = fill(items, 0, 1, 2, 5)
    end = page(items).end
    items.run(lambda transaction: transaction.delete(ids[2]))
    transaction = items.begin()
    assert numbers(read(by_n(transaction), transaction, None, end)) == [0, 1]
    assert walked(transaction) == (b"", end + b"\0")


def test_a_page_behind_the_end_reads_nothing(items: OpenStore) -> None:
    fill(items, 1)
    transaction = items.begin()
    assert read(by_n(transaction), transaction, END) == Page([], END, None, None)
    assert transaction.reads_left().documents == LIMITS.documents_read_max


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_write_inside_a_page_conflicts_and_one_beside_it_does_not(items: OpenStore, order: str) -> None:
    """`n` runs from 0 to 50; the page in the middle holds 20 and 30, and its ends are at 10 or 40, and 30 or 20."""
    fill(items, *range(0, 60, 10))
    first = page(items, order=order, num_items=2)
    for n, inside in ((5, False), (25, True), (45, False)):
        reading, writing = items.begin(), items.begin()
        read(by_n(reading, order), reading, first.end, num_items=2)
        reading.insert("others", {})
        writing.insert("items", {"n": n})
        items.commit(writing)
        if inside:
            with pytest.raises(Conflict):
                items.commit(reading)
        else:
            items.commit(reading)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_keys_beyond_the_store_s_limit_have_pages_like_others(items: OpenStore, order: str) -> None:
    """They begin with the same thousand characters; a page may end at any of them, whether it is still there or not."""
    texts = sorted("long " * 200 + ending for ending in ("", "a", "b", "ba", "bb", "c", "d"))
    ids = items.run(lambda transaction: [transaction.insert("items", {"n": text}) for text in texts])
    if order == "desc":
        texts.reverse()
        ids.reverse()
    ends: list[bytes] = []
    shown: list[Any] = []
    while not ends or ends[-1] != END:
        part = page(items, ends[-1] if ends else None, order=order, num_items=2)
        ends.append(part.end)
        shown += numbers(part)
    assert shown == texts
    items.run(lambda transaction: transaction.delete(ids[1]))
    items.run(lambda transaction: transaction.insert("items", {"n": texts[3] + "!"}))
    pages = [page(items, after, until, order) for after, until in zip([None, *ends], ends, strict=False)]
    whole = by_n(items.begin(), order).collect()
    assert [n for one in pages for n in numbers(one)] == [row["n"] for row in whole]
    assert numbers(pages[0]) == texts[:1]


# --- Limits and splits ------------------------------------------------------------------------------------------------


def assert_split(store: OpenStore, whole: Page, after: bytes | None, order: str = "asc") -> tuple[Page, Page]:
    """Both halves, which hold together what the whole holds or should."""
    assert whole.split is not None
    first = page(store, after, whole.split, order)
    second = page(store, whole.split, whole.end, order)
    assert (first.end, second.end) == (whole.split, whole.end)
    return first, second


def test_a_page_can_be_split_in_its_middle(items: OpenStore) -> None:
    fill(items, *range(20))
    whole = page(items, num_items=10)
    assert whole.status is None
    first, second = assert_split(items, whole, None)
    assert (numbers(first), numbers(second)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    whole = page(items, order="desc", num_items=5)
    first, second = assert_split(items, whole, None, "desc")
    assert (numbers(first), numbers(second)) == ([19, 18], [17, 16, 15])


@pytest.mark.parametrize(("rows", "split"), [(0, False), (1, False), (2, True)])
def test_a_page_of_one_row_cannot_be_split(items: OpenStore, rows: int, split: bool) -> None:
    fill(items, *range(rows))
    assert (page(items).split is not None) == split


def test_of_rows_that_a_filter_leaves_out_the_split_knows_nothing(items: OpenStore) -> None:
    """Or every one that comes and goes would be a new answer for the client."""
    fill(items, *range(10))
    transaction = items.begin()
    before = read(by_n(transaction).filter(lambda row: row["n"] < 4), transaction, num_items=9)
    fill(items, *range(10, 20))
    transaction = items.begin()
    assert read(by_n(transaction).filter(lambda row: row["n"] < 4), transaction, num_items=9) == before


def test_a_first_run_stops_at_the_rows_that_it_may_read(items: OpenStore) -> None:
    fill(items, *range(10))
    stopped = page(items, num_items=9, maximum_rows_read=4)
    assert (numbers(stopped), stopped.status) == ([0, 1, 2, 3], "SplitRequired")
    first, second = assert_split(items, stopped, None)
    assert (numbers(first), numbers(second)) == ([0, 1], [2, 3])
    assert numbers(page(items, stopped.end, num_items=9)) == [4, 5, 6, 7, 8, 9]


def test_one_row_is_read_whatever_may_be_read(items: OpenStore) -> None:
    """There is nothing to split then, and the page is complete."""
    fill(items, 1, 2)
    each: tuple[dict[str, Any], ...] = ({"maximum_rows_read": 1}, {"maximum_bytes_read": 1})
    for options in each:
        stopped = page(items, num_items=9, **options)
        assert (numbers(stopped), stopped.status, stopped.split) == ([1], None, None)
        assert numbers(page(items, stopped.end, num_items=9, **options)) == [2]


def test_a_first_run_stops_at_the_bytes_that_it_may_read(items: OpenStore) -> None:
    fill(items, *range(10), text="x" * 1000)
    stopped = page(items, num_items=9, maximum_bytes_read=2500)
    assert (numbers(stopped), stopped.status) == ([0, 1, 2], "SplitRequired")


@pytest.mark.parametrize(("rows", "status"), [(6, None), (7, "SplitRecommended")])
def test_a_split_is_recommended_above_three_quarters_of_what_may_be_read(
    items: OpenStore, rows: int, status: str | None
) -> None:
    fill(items, *range(rows), text="x" * 1000)
    before = items.begin()
    before.query("items").first()
    row_bytes = LIMITS.bytes_read_max - before.reads_left().bytes
    assert page(items, num_items=9, maximum_rows_read=8).status == status
    assert page(items, num_items=9, maximum_bytes_read=8 * (row_bytes + 20)).status == status
    assert page(items, num_items=9, limits=dataclasses.replace(LIMITS, documents_read_max=8)).status == status


def test_a_later_run_is_not_stopped_by_what_was_asked_for(items: OpenStore) -> None:
    fill(items, *range(0, 8, 2))
    end = page(items, num_items=4).end
    fill(items, *range(1, 7, 2))
    grown = page(items, None, end, num_items=4, maximum_rows_read=4)
    assert (numbers(grown), grown.status) == ([0, 1, 2, 3, 4, 5, 6], "SplitRecommended")
    assert page(items, None, end, maximum_bytes_read=10) == grown


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_that_has_grown_too_large_for_a_transaction_must_be_split(items: OpenStore, order: str) -> None:
    """It is incomplete then, but its end is what it was; halves of halves bring back all of it."""
    fill(items, *range(0, 40, 2))
    end = page(items, None, order=order, num_items=19).end
    fill(items, *range(1, 40, 2))
    small = dataclasses.replace(LIMITS, documents_read_max=8)
    waiting: list[tuple[bytes | None, bytes]] = [(None, end)]
    seen: list[int] = []
    required = 0
    while waiting:
        after, until = waiting.pop(0)
        part = page(items, after, until, order, small)
        assert part.end == until
        if part.status == "SplitRequired":
            required += 1
            assert part.split is not None
            waiting = [(after, part.split), (part.split, until), *waiting]
        else:
            seen += numbers(part)
    assert required
    assert seen == (list(range(37)) if order == "asc" else list(range(39, 1, -1)))


def test_a_page_leaves_room_in_the_transaction_for_the_document_that_ends_it(items: OpenStore) -> None:
    limits = dataclasses.replace(LIMITS, bytes_read_max=10_000, document_bytes_max=3000)
    fill(items, *range(20), text="x" * 2500)
    stopped = page(items, num_items=20, limits=limits)
    assert (numbers(stopped), stopped.status) == ([0, 1, 2], "SplitRequired")


def test_a_page_has_at_most_as_many_rows_as_can_be_returned(items: OpenStore) -> None:
    most = Limits.array_items_max
    fill(items, *range(0, most + 1, 3))
    fill(items, *range(1, most + 1, 3))
    fill(items, *range(2, most + 1, 3))
    stopped = page(items, num_items=most + 1)
    assert (len(stopped.rows), stopped.status) == (most, "SplitRequired")
    assert page(items, num_items=most * 3 // 4).status is None
    assert page(items, num_items=most * 3 // 4 + 1).status == "SplitRecommended"


def test_a_transaction_that_has_read_all_it_may_reads_no_page(items: OpenStore) -> None:
    fill(items, 1, 2)
    transaction = items.begin(limits=dataclasses.replace(LIMITS, documents_read_max=2))
    assert len(by_n(transaction).collect()) == 2
    with pytest.raises(LimitReached, match="documents_read_max"):
        read(by_n(transaction), transaction)


# --- Pages that are held while others write ---------------------------------------------------------------------------


class Held:
    """The pages of one client: read for the first time one after the other, and from then on up to their ends."""

    def __init__(self, store: OpenStore, order: str, num_items: int) -> None:
        self.store = store
        self.order = order
        self.num_items = num_items
        self.spans: list[tuple[bytes | None, bytes]] = []

    def load_more(self) -> None:
        after = self.spans[-1][1] if self.spans else None
        self.spans.append((after, page(self.store, after, None, self.order, num_items=self.num_items).end))

    def split(self, number: int) -> None:
        after, until = self.spans[number]
        middle = page(self.store, after, until, self.order).split
        if middle is not None:
            self.spans[number : number + 1] = [(after, middle), (middle, until)]

    def shown(self) -> list[tuple[Any, Any]]:
        pages = [page(self.store, after, until, self.order) for after, until in self.spans]
        return [(row["n"], row["_id"]) for one in pages for row in one.rows]


STEPS = st.one_of(
    st.tuples(st.just("insert"), st.integers(0, 12)),
    st.tuples(st.just("delete"), st.integers(0, 40)),
    st.tuples(st.just("move"), st.integers(0, 40), st.integers(0, 12)),
    st.tuples(st.just("more")),
    st.tuples(st.just("split"), st.integers(0, 10)),
)


def write(transaction: Transaction, step: tuple[Any, ...]) -> None:
    rows = transaction.query("items").collect()
    match step:
        case ("insert", n):
            transaction.insert("items", {"n": n})
        case ("delete", place) if rows:
            transaction.delete(rows[place % len(rows)]["_id"])
        case ("move", place, n) if rows:
            transaction.patch(rows[place % len(rows)]["_id"], {"n": n})
        case _:
            pass


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=40),
    order=st.sampled_from(["asc", "desc"]),
    num_items=st.integers(1, 4),
    data=st.data(),
)
def test_pages_that_are_held_stay_gapless(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[Any, ...]],
    order: str,
    num_items: int,
    data: st.DataObject,
) -> None:
    """After every write they hold together the beginning of the table, each row once and in its order."""
    store = OpenStore(tmp_path_factory.mktemp("held"))
    try:
        store.run(lambda transaction: transaction.create_table("items", INDEXES))
        store.run(lambda transaction: [transaction.insert("items", {"n": n}) for n in range(6)])
        held = Held(store, order, num_items)
        held.load_more()
        for step in steps:
            if step == ("more",):
                held.load_more()
            elif step[0] == "split":
                held.split(step[1] % len(held.spans))
            else:
                store.run(lambda transaction: write(transaction, step))  # noqa: B023
            shown = held.shown()
            whole = [(row["n"], row["_id"]) for row in by_n(store.begin(), order).collect()]
            assert shown == whole[: len(shown)]
            if held.spans[-1][1] == END:
                assert shown == whole
        assert store.check() == []
    finally:
        store.close()


def test_cursors_of_real_positions_are_short(items: OpenStore) -> None:
    fill(items, 1, 2, 3, 4)
    key = items.begin().get_raw(CURSOR_KEY)
    assert key is not None
    assert len(Cursors(key).seal(page(items).end, b"f" * 16)) < 100
