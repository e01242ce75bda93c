"""Queries: which rows, in which order, what is remembered of them, and every way to use them wrongly."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from evolute.database.index_range import IndexRangeBuilder, Range
from evolute.database.query import Query
from evolute.database.transaction import Transaction
from evolute.errors import IndexNotFound, InvalidQuery, LimitReached, NotUnique, StoreCorrupt
from evolute.storage.keyspace import document_key, index_prefix
from evolute.values.document_id import decode_id
from evolute.values.key_codec import encode_key
from evolute.values.schema import IndexDefinition, define_schema, define_table
from evolute.values.value import UNDEFINED, UNSET, Int64
from evolute.values.wire_codec import encode
from tests.open_store import LIMITS, OpenStore

INDEXES = (
    IndexDefinition("by_n", ("n",)),
    IndexDefinition("by_ab", ("a", "b")),
    IndexDefinition("by_from", ("from",)),
    IndexDefinition("by_x", ("place.x",)),
)


@pytest.fixture
def items(store: OpenStore) -> OpenStore:
    store.run(lambda transaction: transaction.create_table("items", INDEXES))
    return store


def fill(store: OpenStore, *rows: dict[str, Any]) -> list[str]:
    return store.run(lambda transaction: [transaction.insert("items", row) for row in rows])


def numbers(query: Query[dict[str, Any]]) -> list[Any]:
    return [row.get("n") for row in query]


def index_interval(transaction: Transaction, name: str) -> tuple[bytes, bytes]:
    definition = transaction.table("items")
    assert definition is not None
    prefix = index_prefix(definition.indexes[name].id)
    return prefix, prefix + b"\xff"


def entry(transaction: Transaction, name: str, document_id: str) -> bytes:
    row = transaction.get(document_id)
    definition = transaction.table("items")
    assert row is not None
    assert definition is not None
    return definition.indexes[name].key_of(row, decode_id(document_id)[1])


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_plain_query_walks_the_table_in_order_of_creation(items: OpenStore) -> None:
    fill(items, {"n": 3}, {"n": 1})
    fill(items, {"n": 2})
    assert numbers(items.begin().query("items")) == [3, 1, 2]
    assert numbers(items.begin().query("items").order("asc")) == [3, 1, 2]
    assert numbers(items.begin().query("items").order("desc")) == [2, 1, 3]


def test_an_index_orders_by_its_fields_then_by_creation(items: OpenStore) -> None:
    ids = fill(items, {"n": 2}, {"n": 1}, {}, {"n": 2})
    rows = items.begin().query("items").with_index("by_n").collect()
    assert [row["_id"] for row in rows] == [ids[2], ids[1], ids[0], ids[3]]
    rows = items.begin().query("items").with_index("by_n").order("desc").collect()
    assert [row["_id"] for row in rows] == [ids[3], ids[0], ids[1], ids[2]]


def test_terminals(items: OpenStore) -> None:
    ids = fill(items, {"n": 1}, {"n": 2}, {"n": 3})
    transaction = items.begin()

    def query() -> Query[dict[str, Any]]:
        return transaction.query("items")

    first = query().first()
    assert first is not None
    assert first["_id"] == ids[0]
    assert [row["n"] for row in query().take(2)] == [1, 2]
    assert [row["n"] for row in query().take(9)] == [1, 2, 3]
    assert query().take(0) == []
    assert [row["n"] for row in query().collect()] == [1, 2, 3]
    assert [row["n"] for row in itertools.islice(query(), 2)] == [1, 2]
    assert query().filter(lambda row: row["n"] > 5).first() is None
    unique = query().with_index("by_n", n=2).unique()
    assert unique is not None
    assert unique["_id"] == ids[1]
    assert query().with_index("by_n", n=5).unique() is None


def test_unique_refuses_two_and_can_be_caught(items: OpenStore) -> None:
    ids = fill(items, {"n": 1}, {"n": 1}, {"n": 1})
    transaction = items.begin()
    with pytest.raises(NotUnique) as error:
        transaction.query("items").with_index("by_n", n=1).unique()
    assert str(error.value) == (
        f"unique() query returned more than one result from table items:\n [{ids[0]}, {ids[1]}, ...]"
    )
    assert transaction.poisoned is None


def test_filters_are_all_applied_and_take_goes_on_until_enough_pass(items: OpenStore) -> None:
    fill(items, *({"n": n} for n in range(20)))
    query = items.begin().query("items").filter(lambda row: row["n"] % 2 == 0).filter(lambda row: row["n"] > 5)
    assert [row["n"] for row in query.take(3)] == [6, 8, 10]


def test_filtered_rows_count_as_read(items: OpenStore) -> None:
    fill(items, *({"n": n} for n in range(5)))
    transaction = items.begin(limits=dataclasses.replace(LIMITS, documents_read_max=4))
    with pytest.raises(LimitReached, match="documents_read_max"):
        transaction.query("items").filter(lambda row: False).collect()


def test_a_table_that_does_not_exist_is_empty_and_has_no_indexes(store: OpenStore) -> None:
    transaction = store.begin()
    assert transaction.query("absent").collect() == []
    assert transaction.query("absent").order("desc").first() is None
    with pytest.raises(IndexNotFound) as error:
        transaction.query("absent").with_index("by_n").collect()
    assert str(error.value) == "Index absent.by_n not found."
    assert transaction.poisoned is None


def test_an_index_that_the_schema_declares_can_be_used_before_the_first_row(store: OpenStore) -> None:
    transaction = store.begin(schema=define_schema(items=define_table().index("by_n", ["n"])))
    assert transaction.query("items").with_index("by_n", n=1).collect() == []
    with pytest.raises(InvalidQuery, match="doesn't index this field"):
        transaction.query("items").with_index("by_n", m=1).collect()


def test_the_index_by_creation_time_can_be_ranged_over(items: OpenStore) -> None:
    ids = fill(items, {"n": 1}, {"n": 2}, {"n": 3})
    transaction = items.begin()
    second: Any = transaction.get(ids[1])
    later = transaction.query("items").with_index("by_creation_time", _creationTime=Range(gt=second["_creationTime"]))
    assert [row["n"] for row in later] == [3]
    exact = transaction.query("items").with_index("by_creation_time", _creationTime=second["_creationTime"])
    assert [row["n"] for row in exact] == [2]


def test_an_entry_without_its_document_is_corruption(items: OpenStore) -> None:
    (document_id,) = fill(items, {"n": 1})
    key = document_key(*decode_id(document_id))
    row = items.begin().get(document_id)
    broken = items.begin()
    broken.put_raw(key, None)
    items.commit(broken)
    reading = items.begin()
    with pytest.raises(StoreCorrupt, match="leads to no document of table 10001"):
        reading.query("items").collect()
    definition = reading.table("items")
    assert definition is not None
    assert definition.indexes["by_creation_time"].range_of(()) in reading.read_set.ranges, "what it has met is read"
    assert items.check() != []
    items.run(lambda transaction: transaction.put_raw(key, encode(row)))


# --- ranges -----------------------------------------------------------------------------------------------------------

N_VALUES: list[Any] = [UNDEFINED, None, Int64(5), -1, 4, 5, 6, True, "a", "a\0b", "ab"]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Range(), N_VALUES),
        (Range(lt=5), [UNDEFINED, None, Int64(5), -1, 4]),
        (Range(lte=5), [UNDEFINED, None, Int64(5), -1, 4, 5]),
        (Range(gt=5), [6, True, "a", "a\0b", "ab"]),
        (Range(gte=5), [5, 6, True, "a", "a\0b", "ab"]),
        (Range(gt=None, lt=5), [Int64(5), -1, 4]),
        (Range(gte=Int64(5), lte=Int64(5)), [Int64(5)]),
        (Range(gt="a"), ["a\0b", "ab"]),
        (Range(gte="a", lte="a"), ["a"]),
        (Range(lte="a"), N_VALUES[:9]),
        (Range(gt="a", lt="ab"), ["a\0b"]),
        (Range(gt=6, lt=4), []),
        (Range(gt=5, lt=5), []),
        (Range(gte=UNDEFINED, lt=None), [UNDEFINED]),
        (5, [5]),
        (5.0, [5]),
        ("a", ["a"]),
        (UNDEFINED, [UNDEFINED]),
        (None, [None]),
        (Int64(5), [Int64(5)]),
        (7, []),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_ranges(items: OpenStore, bounds: object, expected: list[Any], committed: bool) -> None:
    transaction = items.begin()
    for value in reversed(N_VALUES):
        transaction.insert("items", {} if value is UNDEFINED else {"n": value})
    if committed:
        items.commit(transaction)
        transaction = items.begin()
    rows = [row.get("n", UNDEFINED) for row in transaction.query("items").with_index("by_n", n=bounds)]
    assert list(map(repr, rows)) == list(map(repr, expected))
    backwards = transaction.query("items").with_index("by_n", n=bounds).order("desc")
    assert [repr(row.get("n", UNDEFINED)) for row in backwards] == list(map(repr, reversed(expected)))


def test_two_fields_by_keywords_and_by_builder(items: OpenStore) -> None:
    fill(items, *({"a": a, "b": b, "n": 10 * a + b} for a in (1, 2) for b in (1, 2, 3)))
    cases: list[tuple[dict[str, object], Callable[[IndexRangeBuilder], IndexRangeBuilder], list[int]]] = [
        ({"a": 1}, lambda q: q.eq("a", 1), [11, 12, 13]),
        ({"a": 1, "b": 2}, lambda q: q.eq("a", 1).eq("b", 2), [12]),
        ({"b": 2, "a": 1}, lambda q: q.eq("b", 2).eq("a", 1), [12]),
        ({"a": 1, "b": Range(gt=1)}, lambda q: q.eq("a", 1).gt("b", 1), [12, 13]),
        ({"a": 2, "b": Range(gte=2, lt=3)}, lambda q: q.eq("a", 2).gte("b", 2).lt("b", 3), [22]),
        ({"a": Range(lte=1)}, lambda q: q.lte("a", 1), [11, 12, 13]),
        ({}, lambda q: q, [11, 12, 13, 21, 22, 23]),
    ]
    for keywords, build, expected in cases:
        transaction = items.begin()
        assert numbers(transaction.query("items").with_index("by_ab", **keywords)) == expected
        assert numbers(transaction.query("items").with_index("by_ab", build)) == expected


def test_keywords_that_python_reserves_and_nested_fields(items: OpenStore) -> None:
    fill(items, {"from": "a", "n": 1}, {"from": "b", "n": 2}, {"place": {"x": 5}, "n": 3})
    transaction = items.begin()
    assert numbers(transaction.query("items").with_index("by_from", from_="a")) == [1]
    assert numbers(transaction.query("items").with_index("by_from", from_=Range(gt="a"))) == [2]
    assert numbers(transaction.query("items").with_index("by_x", **{"place.x": 5})) == [3]


ALREADY = 'Already defined {} bound in index range. Can\'t add "a" {}.'


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda q: q.gt("a", 1).gte("a", 2), ALREADY.format("lower", ">= 2")),
        (lambda q: q.lt("a", 1).lte("a", "x"), ALREADY.format("upper", '<= "x"')),
        (lambda q: q.eq("a", 1).eq("a", UNDEFINED), ALREADY.format("equality", "== undefined")),
        (lambda q: q.gt("a", 1).eq("a", 2), ALREADY.format("inequality", "== 2")),
        (lambda q: q.eq("a", 1).lt("a", 2), ALREADY.format("equality", "< 2")),
        (
            lambda q: q.gt("a", 1).lt("b", 2),
            "Upper and lower bounds in `range` can only be applied to a single index field. This query against index "
            'items.by_ab attempted to set a range bound on both "a" and "b". Consider using `filter` instead.',
        ),
        (
            lambda q: q.eq("b", 1),
            "Tried to query index items.by_ab but the query didn't use the index fields in order.\n"
            'Index fields: ["a", "b", "_creationTime"]\nQuery fields: ["b"]\nFirst incorrect field: "b"\n'
            "An index is read by its first fields: equal ones, then bounds on the next.",
        ),
        (
            lambda q: q.gt("a", 1).eq("b", 2),
            "Tried to query index items.by_ab but the query didn't use the index fields in order.\n"
            'Index fields: ["a", "b", "_creationTime"]\nQuery fields: ["b", "a"]\nFirst incorrect field: "b"\n'
            "An index is read by its first fields: equal ones, then bounds on the next.",
        ),
        (
            lambda q: q.eq("c", 1),
            'The index range included a comparison with "c", but items.by_ab with fields ["a", "b", "_creationTime"] '
            "doesn't index this field.",
        ),
    ],
)
def test_ranges_that_are_none(
    items: OpenStore, build: Callable[[IndexRangeBuilder], IndexRangeBuilder], text: str
) -> None:
    transaction = items.begin()
    query = transaction.query("items").with_index("by_ab", build)
    with pytest.raises(InvalidQuery) as error:
        query.collect()
    assert str(error.value) == text
    with pytest.raises(InvalidQuery):
        transaction.write_set()


def test_the_builder_is_used_once(items: OpenStore) -> None:
    def reuse(q: IndexRangeBuilder) -> IndexRangeBuilder:
        q.eq("a", 1)
        return q.eq("b", 2)

    def forget(q: IndexRangeBuilder) -> IndexRangeBuilder:
        q.eq("a", 1)
        return q

    for build in (reuse, forget):
        with pytest.raises(InvalidQuery, match="IndexRangeBuilder has already been used! Chain your method calls"):
            items.begin().query("items").with_index("by_ab", build)


def test_with_index_takes_a_function_or_keywords(items: OpenStore) -> None:
    nothing: Any = lambda q: None  # noqa: E731
    number: Any = 3
    uses: list[Callable[[Any], object]] = [
        lambda q: q.with_index("by_ab", lambda q: q, a=1),
        lambda q: q.with_index("by_ab", nothing),
        lambda q: q.with_index("by_ab", number),
        lambda q: q.with_index("by_ab", lambda q: q.eq(3, 1)),
        lambda q: q.order("asc").with_index("by_ab"),
        lambda q: q.with_index("by_ab").with_index("by_ab"),
    ]
    for use in uses:
        transaction = items.begin()
        with pytest.raises(InvalidQuery):
            use(transaction.query("items"))
        assert isinstance(transaction.poisoned, InvalidQuery)


# --- misuse -----------------------------------------------------------------------------------------------------------


def twice(use: Callable[[Any], object]) -> Callable[[Any], object]:
    def run(query: Any) -> None:
        use(query)
        use(query)

    return run


def begun(use: Callable[[Any], object]) -> Callable[[Any], object]:
    def run(query: Any) -> None:
        rows = iter(query)
        next(rows)
        use(query)

    return run


@pytest.mark.parametrize(
    ("use", "text"),
    [
        (lambda q: q.order("asc").order("desc"), "Queries may only specify order at most once"),
        (
            twice(lambda q: q.filter(bool)),
            "A query can only be chained once and can't be chained after iteration begins.",
        ),
        (
            begun(lambda q: q.order("asc")),
            "A query can only be chained once and can't be chained after iteration begins.",
        ),
        (begun(iter), "Iteration can only begin on a query once."),
        (twice(lambda q: q.collect()), "This query is closed and can't emit any more values."),
        (twice(lambda q: q.first()), "This query is closed and can't emit any more values."),
        (
            lambda q: (q.filter(bool), q.collect()),
            "This query has been chained with another operator and can't be reused.",
        ),
        (lambda q: q.take(-1), "Arg 1 `n` to `take` must be a non-negative integer"),
        (lambda q: q.take(1.5), "Arg 1 `n` to `take` must be a non-negative integer"),
        (lambda q: q.take(True), "Arg 1 `n` to `take` must be a non-negative integer"),
        (lambda q: q.order("up"), 'The order of a query is "asc" or "desc", got \'up\''),
        (lambda q: q.filter(3), "`filter` takes a function of a document, or an expression made with `q`, got 3"),
    ],
)
def test_misuse(items: OpenStore, use: Callable[[Any], object], text: str) -> None:
    fill(items, {"n": 1}, {"n": 2})
    transaction = items.begin()
    with pytest.raises(InvalidQuery) as error:
        use(transaction.query("items"))
    assert str(error.value) == text
    with pytest.raises(InvalidQuery):
        transaction.write_set()


def test_a_query_has_at_most_256_operators(items: OpenStore) -> None:
    query = items.begin().query("items")
    for _ in range(256):
        query = query.filter(bool)
    with pytest.raises(InvalidQuery, match=r"Can't construct query with more than 256 operators.*query_operators_max"):
        query.filter(bool)


# --- the read set -----------------------------------------------------------------------------------------------------


def test_what_is_taken_is_read_and_no_more(items: OpenStore) -> None:
    ids = fill(items, {"n": 1}, {"n": 2}, {"n": 3})
    look = items.begin()
    start, end = index_interval(look, "by_n")
    second = entry(look, "by_n", ids[1])

    ascending = items.begin()
    ascending.query("items").with_index("by_n").take(2)
    assert ascending.read_set.ranges == [(start, second + b"\0")]

    descending = items.begin()
    descending.query("items").with_index("by_n").order("desc").take(2)
    assert descending.read_set.ranges == [(second, end)]

    filtered = items.begin()
    filtered.query("items").with_index("by_n").filter(lambda row: row["n"] == 2).first()
    assert filtered.read_set.ranges == [(start, second + b"\0")]

    unique = items.begin()
    unique.query("items").with_index("by_n", n=2).unique()
    prefix = start + encode_key([2])
    assert unique.read_set.ranges == [(prefix, prefix + b"\xff")], "exhausted: a second row would be a conflict"

    everything = items.begin()
    everything.query("items").with_index("by_n").take(4)
    assert everything.read_set.ranges == [(start, end)]

    nothing = items.begin()
    nothing.query("items").with_index("by_n").take(0)
    nothing.query("items").with_index("by_n")
    assert nothing.read_set.ranges == []


def test_an_index_scan_remembers_one_interval_and_no_point_for_each_document(items: OpenStore) -> None:
    ids = fill(items, *({"n": n} for n in range(50)))
    transaction = items.begin()
    transaction.query("items").with_index("by_n").collect()
    assert len(transaction.read_set.ranges) == 1
    assert not {document_key(*decode_id(one)) for one in ids} & transaction.read_set.points


def test_a_loop_under_way_is_in_the_read_set(items: OpenStore) -> None:
    ids = fill(items, {"n": 1}, {"n": 2}, {"n": 3})
    transaction = items.begin()
    start, _ = index_interval(transaction, "by_n")
    rows = iter(transaction.query("items").with_index("by_n"))
    next(rows)
    first = entry(items.begin(), "by_n", ids[0])
    assert transaction.read_set.ranges == [(start, first + b"\0")]
    next(rows)
    second = entry(items.begin(), "by_n", ids[1])
    assert transaction.read_set.ranges == [(start, second + b"\0")]


def test_an_empty_interval_reads_nothing(items: OpenStore) -> None:
    transaction = items.begin()
    assert transaction.query("items").with_index("by_n", n=Range(gt=5, lt=3)).collect() == []
    assert transaction.read_set.ranges == []


# --- own writes -------------------------------------------------------------------------------------------------------


def test_own_writes_are_merged_in_both_directions_through_every_index(items: OpenStore) -> None:
    ids = fill(items, *({"n": n} for n in (10, 20, 30, 40)))
    transaction = items.begin()
    transaction.insert("items", {"n": 25})
    transaction.insert("items", {"n": 5})
    transaction.insert("items", {"n": 45})
    transaction.delete(ids[1])
    transaction.patch(ids[3], {"n": 15})
    transaction.patch(ids[2], {"other": 1})
    transaction.patch(ids[0], {"n": UNSET})
    by_n = [None, 5, 15, 25, 30, 45]
    by_time = [None, 30, 15, 25, 5, 45]

    def check(current: Transaction) -> None:
        assert numbers(current.query("items").with_index("by_n")) == by_n
        assert numbers(current.query("items").with_index("by_n").order("desc")) == by_n[::-1]
        assert numbers(current.query("items")) == by_time
        assert numbers(current.query("items").order("desc")) == by_time[::-1]
        assert numbers(current.query("items").with_index("by_n", n=Range(gte=15, lt=30))) == [15, 25]
        assert numbers(current.query("items").with_index("by_n", n=20)) == []
        assert [row["n"] for row in current.query("items").with_index("by_n", n=Range(gt=None)).take(2)] == [5, 15]

    check(transaction)
    items.commit(transaction)
    check(items.begin())


def test_a_loop_that_updates_what_it_walks_over_meets_every_row_once(items: OpenStore) -> None:
    fill(items, *({"n": n} for n in range(5)))
    transaction = items.begin()
    transaction.insert("items", {"n": 7})
    seen = []
    for row in transaction.query("items").with_index("by_n"):
        seen.append(row["n"])
        transaction.patch(row["_id"], {"n": row["n"] + 100})
        transaction.insert("items", {"n": row["n"] + 0.5})
    assert seen == [0, 1, 2, 3, 4, 7]
    assert len(transaction.query("items").collect()) == 12
    for row in transaction.query("items").order("desc"):
        transaction.delete(row["_id"])
    assert transaction.query("items").collect() == []
    items.commit(transaction)
    assert items.begin().query("items").collect() == []


def test_a_row_that_is_deleted_during_a_loop_is_still_met_as_it_was(items: OpenStore) -> None:
    ids = fill(items, {"n": 1}, {"n": 2})
    transaction = items.begin()
    transaction.patch(ids[1], {"n": 3})
    seen = []
    for row in transaction.query("items"):
        seen.append(row["n"])
        if transaction.get(ids[1]):
            transaction.delete(ids[1])
    assert seen == [1, 3]


def test_scans_after_many_writes_stay_right(items: OpenStore) -> None:
    transaction = items.begin()
    for n in range(100):
        transaction.insert("items", {"n": (n * 37) % 100})
        if n % 7 == 0:
            low = transaction.query("items").with_index("by_n").first()
            assert low is not None
            assert low["n"] == min((m * 37) % 100 for m in range(n + 1))
    assert numbers(transaction.query("items").with_index("by_n")) == list(range(100))


def test_a_rollback_during_a_loop_leaves_the_loop_as_it_began(items: OpenStore) -> None:
    fill(items, {"n": 1}, {"n": 2})
    transaction = items.begin()
    savepoint = transaction.savepoint()
    transaction.insert("items", {"n": 3})
    rows = iter(transaction.query("items"))
    assert next(rows)["n"] == 1
    transaction.rollback(savepoint)
    assert [row["n"] for row in rows] == [2, 3]
    assert numbers(transaction.query("items")) == [1, 2]
