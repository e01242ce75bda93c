"""Pages of queries: which rows, what ends a page, what its cursors are good for, and every text of semantics D8."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evolute import (
    ActionCtx,
    BadRequest,
    ConvexError,
    Document,
    InvalidCursor,
    InvalidQuery,
    MutationCtx,
    PaginationOptions,
    PaginationResult,
    QueryCtx,
    Range,
    action,
    define_schema,
    define_table,
    internal_query,
    mutation,
    q,
    query,
    v,
)
from evolute.execution.request import Call
from evolute.limits import Limits
from evolute.testing import FunctionFailed, LocalBackend
from evolute.values.wire_codec import encode

INVALID_CURSOR = {"isConvexSystemError": True, "paginationError": "InvalidCursor"}
OTHER_QUERY = (
    "InvalidCursor: Tried to run a query starting from a cursor, but it looks like this cursor is from a different "
    "query."
)


class Item(Document):
    n: int
    group: str


schema = define_schema(items=define_table(Item).index("by_n", ["n"]).index("by_group", ["group", "n"]))

# What the next function is to do with its context; a test sets it and looks at what comes of it.
on_ctx: Callable[[Any], Any]


@mutation
def do(ctx: MutationCtx) -> Any:
    return on_ctx(ctx)


@query
def look(ctx: QueryCtx) -> Any:
    return on_ctx(ctx)


@query
def page_of(ctx: QueryCtx, paginationOpts: PaginationOptions) -> PaginationResult[Item]:
    return ctx.db.query(Item).with_index("by_n").paginate(paginationOpts)


@query
def untyped(ctx: QueryCtx, paginationOpts):  # type: ignore[no-untyped-def]
    return ctx.db.query(Item).with_index("by_n").paginate(paginationOpts)


@query(args={"paginationOpts": v.pagination_options()}, returns=v.pagination_result(v.number()))
def explicit(ctx: QueryCtx, paginationOpts: Any) -> Any:
    return ctx.db.query(Item).with_index("by_n").paginate(paginationOpts).map(lambda item: item["n"])


@action
async def acts(ctx: ActionCtx) -> list[int]:
    """Goes through all pages, each in a transaction of its own."""
    seen: list[int] = []
    at = await ctx.run_query(page_of, paginationOpts=PaginationOptions(num_items=2))
    while True:
        seen += numbers(at)
        if at.is_done:
            return seen
        options = PaginationOptions(num_items=2, cursor=at.continue_cursor)
        at = await ctx.run_query(page_of, paginationOpts=options)


@internal_query
def inner(ctx: QueryCtx, cursor: str | None) -> PaginationResult[Item]:
    return ctx.db.query(Item).with_index("by_n").paginate(num_items=2, cursor=cursor)


FUNCTIONS = (do, look, page_of, untyped, explicit, acts, inner)


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    with LocalBackend(*FUNCTIONS, schema=schema) as backend:
        yield backend


def within(backend: LocalBackend, function: Callable[[MutationCtx], Any]) -> Any:
    global on_ctx
    on_ctx = function
    return backend.mutation(do)


def fill(backend: LocalBackend, *numbers: int, group: str = "a") -> None:
    within(backend, lambda ctx: [ctx.db.insert(Item, {"n": n, "group": group}) for n in numbers] and None)


def numbers(page: PaginationResult[Item]) -> list[int]:
    return [item["n"] for item in page.page]


def page(
    backend: LocalBackend, cursor: str | None = None, num_items: int = 3, **named: Any
) -> tuple[list[int], PaginationResult[Item]]:
    """A page of `by_n`, and the numbers in it."""
    kept: list[PaginationResult[Item]] = []

    def paginate(ctx: MutationCtx) -> None:
        kept.append(ctx.db.query(Item).with_index("by_n").paginate(num_items=num_items, cursor=cursor, **named))

    within(backend, paginate)
    return numbers(kept[-1]), kept[-1]


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_to_the_end(backend: LocalBackend) -> None:
    fill(backend, *range(7))
    first, at = page(backend)
    second, at_2 = page(backend, at.continue_cursor)
    third, at_3 = page(backend, at_2.continue_cursor)
    assert (first, second, third) == ([0, 1, 2], [3, 4, 5], [6])
    assert (at.is_done, at_2.is_done, at_3.is_done) == (False, False, True)
    assert page(backend, at_3.continue_cursor) == ([], dataclasses.replace(at_3, page=[]))


def test_a_page_that_is_full_does_not_know_that_it_is_the_last(backend: LocalBackend) -> None:
    fill(backend, 1, 2, 3)
    full, at = page(backend)
    assert (full, at.is_done) == ([1, 2, 3], False)
    rest, at = page(backend, at.continue_cursor)
    assert (rest, at.is_done) == ([], True)


def test_descending_with_a_range_and_a_filter(backend: LocalBackend) -> None:
    fill(backend, *range(20))

    def paginate(ctx: MutationCtx, cursor: str | None) -> PaginationResult[Item]:
        found = ctx.db.query(Item).with_index("by_group", group="a", n=Range(gte=2, lt=18)).order("desc")
        return found.filter(lambda item: item["n"] % 3 == 0).paginate(num_items=2, cursor=cursor)

    seen: list[list[int]] = []
    cursor = None
    while True:
        given = cursor
        at = within(backend, lambda ctx: paginate(ctx, given))  # noqa: B023
        seen.append([item["n"] for item in at["page"]])
        cursor = at["continueCursor"]
        if at["isDone"]:
            break
    assert seen == [[15, 12], [9, 6], [3]]


def test_a_cursor_is_a_place_and_no_row(backend: LocalBackend) -> None:
    fill(backend, *range(6))
    _, at = page(backend)

    def change(ctx: MutationCtx) -> None:
        for item in ctx.db.query(Item).with_index("by_n", n=Range(lt=4)).collect():
            ctx.db.delete(item["_id"])

    within(backend, change)
    fill(backend, 1)
    assert page(backend, at.continue_cursor)[0] == [4, 5]


def test_with_an_end_the_page_is_exactly_what_lies_before_it(backend: LocalBackend) -> None:
    fill(backend, *range(0, 20, 2))
    _, first = page(backend)
    _, second = page(backend, first.continue_cursor)
    fill(backend, 1, 5, 7, 9, 11)
    grown, at = page(backend, None, 1, end_cursor=first.continue_cursor)
    assert (grown, at.continue_cursor, at.is_done) == ([0, 1, 2, 4], first.continue_cursor, False)
    grown, at = page(backend, first.continue_cursor, 1, end_cursor=second.continue_cursor)
    assert (grown, at.continue_cursor) == ([5, 6, 7, 8, 9, 10], second.continue_cursor)
    _, last = page(backend, second.continue_cursor, 99)
    grown, at = page(backend, second.continue_cursor, 1, end_cursor=last.continue_cursor)
    assert (grown, at.is_done) == ([11, 12, 14, 16, 18], True)
    assert page(backend, second.continue_cursor, 1, end_cursor=first.continue_cursor)[0] == []


def test_a_mutation_sees_its_own_writes_in_a_page(backend: LocalBackend) -> None:
    fill(backend, 1, 3)

    def write_and_read(ctx: MutationCtx) -> PaginationResult[Item]:
        ctx.db.insert(Item, {"n": 2, "group": "a"})
        return ctx.db.query(Item).with_index("by_n").paginate(num_items=2)

    assert [item["n"] for item in within(backend, write_and_read)["page"]] == [1, 2]


def test_a_table_without_rows_or_without_existence_is_one_empty_page(backend: LocalBackend) -> None:
    empty, at = page(backend)
    assert (empty, at.is_done, at.split_cursor, at.page_status) == ([], True, None, None)
    at = within(backend, lambda ctx: ctx.db.query("nothing").paginate(num_items=1))
    assert (at["page"], at["isDone"]) == ([], True)
    assert within(backend, lambda ctx: ctx.db.query("nothing").paginate(num_items=1, cursor=at["continueCursor"])) == at
    fill(backend, 1)
    assert page(backend)[0] == [1]


def test_contradictory_bounds_are_one_empty_page(backend: LocalBackend) -> None:
    fill(backend, 1, 2, 3)
    at = within(backend, lambda ctx: ctx.db.query(Item).with_index("by_n", n=Range(gt=3, lt=2)).paginate(num_items=1))
    assert (at["page"], at["isDone"]) == ([], True)


def test_system_tables_have_pages(backend: LocalBackend) -> None:
    within(backend, lambda ctx: [ctx.scheduler.run_after(10, do) for _ in range(3)])

    def paginate(ctx: MutationCtx) -> PaginationResult[Any]:
        jobs = ctx.db.system.query("_scheduled_functions").filter(lambda job: job["state"]["kind"] == "pending")
        return jobs.paginate(num_items=2)

    at = within(backend, paginate)
    assert [set(job) for job in at["page"]] == [{"_id", "_creationTime", "name", "args", "scheduledTime", "state"}] * 2


def test_DB7_a_page_may_be_empty_and_not_the_last(backend: LocalBackend) -> None:
    fill(backend, *range(10))

    def paginate(ctx: MutationCtx, cursor: str | None) -> PaginationResult[Item]:
        rare = ctx.db.query(Item).with_index("by_n").filter(lambda item: item["n"] == 9)
        return rare.paginate(num_items=5, cursor=cursor, maximum_rows_read=6)

    at = within(backend, lambda ctx: paginate(ctx, None))
    assert (at["page"], at["isDone"]) == ([], False)
    at = within(backend, lambda ctx: paginate(ctx, at["continueCursor"]))
    assert ([item["n"] for item in at["page"]], at["isDone"]) == ([9], True)


# --- Options and results ----------------------------------------------------------------------------------------------


def test_on_the_wire_it_is_what_the_hooks_send_and_expect(backend: LocalBackend) -> None:
    fill(backend, 1, 2, 3)
    sent = {"numItems": 2, "cursor": None, "endCursor": None, "id": 7, "maximumRowsRead": 100, "maximumBytesRead": 1e6}
    for path in ("page_of", "untyped"):
        result = backend.query(_path(path), paginationOpts=sent)
        assert set(result) == {"page", "isDone", "continueCursor", "splitCursor", "pageStatus"}
        assert [item["n"] for item in result["page"]] == [1, 2]
        assert (result["isDone"], result["pageStatus"]) == (False, None)
    assert backend.query(_path("explicit"), paginationOpts=sent)["page"] == [1, 2]
    least = backend.query(_path("page_of"), paginationOpts={"numItems": 2, "cursor": None})
    assert least["continueCursor"] == result["continueCursor"]


def _path(name: str) -> str:
    return f"{__name__.rpartition('.')[2]}:{name}"


def test_a_python_caller_gives_options_and_gets_a_result(backend: LocalBackend) -> None:
    fill(backend, 1, 2, 3)

    def call(ctx: MutationCtx) -> Any:
        result = ctx.run_query(page_of, paginationOpts=PaginationOptions(num_items=2))
        assert isinstance(result, PaginationResult)
        assert (numbers(result), result.is_done) == ([1, 2], False)
        return result.with_page(["one"])

    assert within(backend, call)["page"] == ["one"]


def test_what_is_given_by_name_takes_the_place_of_what_the_options_say(backend: LocalBackend) -> None:
    fill(backend, *range(5))
    options = PaginationOptions(num_items=1)
    within(backend, lambda ctx: _assert_length(ctx.db.query(Item).paginate(options), 1))
    within(backend, lambda ctx: _assert_length(ctx.db.query(Item).paginate(options, num_items=2), 2))
    within(backend, lambda ctx: _assert_length(ctx.db.query(Item).paginate({"numItems": 3, "cursor": None}), 3))
    with pytest.raises(FunctionFailed, match="unexpected keyword argument 'numItems'"):
        within(backend, lambda ctx: ctx.db.query(Item).paginate(numItems=2))  # type: ignore[call-arg]


def _assert_length(result: PaginationResult[Any], length: int) -> None:
    assert len(result.page) == length


def test_the_validators_are_those_of_convex() -> None:
    assert v.pagination_options().to_json() == {
        "type": "object",
        "value": {
            "numItems": {"fieldType": {"type": "number"}, "optional": False},
            "cursor": {
                "fieldType": {"type": "union", "value": [{"type": "string"}, {"type": "null"}]},
                "optional": False,
            },
            "endCursor": {
                "fieldType": {"type": "union", "value": [{"type": "string"}, {"type": "null"}]},
                "optional": True,
            },
            "id": {"fieldType": {"type": "number"}, "optional": True},
            "maximumRowsRead": {"fieldType": {"type": "number"}, "optional": True},
            "maximumBytesRead": {"fieldType": {"type": "number"}, "optional": True},
        },
    }
    assert sorted(v.pagination_result(v.string()).fields) == [
        "continueCursor",
        "isDone",
        "page",
        "pageStatus",
        "splitCursor",
    ]


def test_options_that_no_page_can_have_are_refused_before_the_function(backend: LocalBackend) -> None:
    with pytest.raises(FunctionFailed, match="extra field `pages`"):
        backend.query(_path("page_of"), paginationOpts={"numItems": 1, "cursor": None, "pages": 2})
    with pytest.raises(FunctionFailed, match="missing the required field `cursor`"):
        backend.query(_path("page_of"), paginationOpts={"numItems": 1})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_items": "10"}, '`options.numItems` must be a positive number. Received `"10"`.'),
        ({"num_items": None}, "`options.numItems` must be a positive number. Received `null`."),
        ({"num_items": True}, "`options.numItems` must be a positive number. Received `true`."),
        ({"num_items": -1}, "`options.numItems` must be a positive number. Received `-1`."),
        ({"num_items": math.nan}, "`options.numItems` must be a positive number. Received `nan`."),
        ({"num_items": 0}, "Must request at least 1 document while paginating"),
        ({"num_items": 32_001}, "Requested too many items: 32001 (limit: 32000; the setting is `documents_read_max`)"),
        ({"num_items": math.inf}, "Requested too many items: inf (limit"),
        ({"num_items": 2.5}, "`options.numItems` must be a whole number. Received `2.5`."),
        ({"num_items": 1, "maximum_rows_read": 0}, "maximumRowsRead and maximumBytesRead must be greater than 0"),
        ({"num_items": 1, "maximum_bytes_read": 0}, "maximumRowsRead and maximumBytesRead must be greater than 0"),
        ({"num_items": 1, "maximum_bytes_read": "1"}, '`options.maximumBytesRead` must be a number. Received `"1"`.'),
        ({"num_items": 1, "cursor": 3}, "`options.cursor` must be a string or None. Received `3.0`."),
        ({"num_items": 1, "end_cursor": []}, "`options.endCursor` must be a string or None. Received `[]`."),
    ],
)
def test_D8_options_out_of_bounds(backend: LocalBackend, options: dict[str, Any], text: str) -> None:
    fill(backend, 1)

    def paginate(ctx: MutationCtx) -> int:
        with pytest.raises(InvalidQuery) as error:
            ctx.db.query(Item).paginate(**options)
        assert str(error.value).startswith(text)
        return len(ctx.db.query(Item).paginate(num_items=1).page)

    assert within(backend, paginate) == 1, "the function can go on"


def test_D8_codes(backend: LocalBackend) -> None:
    codes: list[str] = []

    def paginate(ctx: MutationCtx) -> None:
        for options in ({"num_items": 1, "maximum_rows_read": 0}, {"num_items": 1, "cursor": "x"}):
            with pytest.raises(BadRequest) as error:
                ctx.db.query(Item).paginate(**options)
            codes.append(error.value.code)

    within(backend, paginate)
    assert codes == ["InvalidPaginationLimit", "InvalidCursor"]


def test_as_many_items_as_a_transaction_may_read_can_be_asked_for(backend: LocalBackend) -> None:
    fill(backend, 1, 2)
    assert page(backend, num_items=Limits.documents_read_max)[0] == [1, 2]


def test_what_is_no_options_at_all_is_refused(backend: LocalBackend) -> None:
    def paginate(ctx: MutationCtx) -> None:
        with pytest.raises(InvalidQuery, match="takes PaginationOptions, or num_items"):
            ctx.db.query(Item).paginate(3)  # type: ignore[arg-type]
        with pytest.raises(InvalidQuery, match='have no "items"; they have numItems, cursor'):
            ctx.db.query(Item).paginate({"items": 3})

    within(backend, paginate)


# --- One page in a function -------------------------------------------------------------------------------------------


def test_DB5_a_function_paginates_one_query(backend: LocalBackend) -> None:
    fill(backend, 1)

    def twice(ctx: MutationCtx) -> None:
        ctx.db.query(Item).paginate(num_items=1)
        ctx.db.query(Item).with_index("by_n").paginate(num_items=1)

    text = (
        "MultiplePaginatedQueries: This query or mutation function ran multiple paginated queries. "
        "Convex only supports a single paginated query in each function."
    )
    with pytest.raises(FunctionFailed, match=text):
        within(backend, twice)

    def swallowed(ctx: MutationCtx) -> None:
        with pytest.raises(InvalidQuery):
            twice(ctx)

    with pytest.raises(FunctionFailed, match="ran multiple paginated queries"):
        within(backend, swallowed)


def test_functions_that_are_called_have_a_page_each(backend: LocalBackend) -> None:
    fill(backend, *range(5))

    def all_of_them(ctx: MutationCtx) -> list[int]:
        seen: list[int] = []
        at = ctx.run_query(inner, None)
        while True:
            seen += numbers(at)
            if at.is_done:
                return seen
            at = ctx.run_query(inner, at.continue_cursor)

    assert within(backend, all_of_them) == [0, 1, 2, 3, 4]


def test_an_action_goes_through_the_pages_of_a_query(backend: LocalBackend) -> None:
    fill(backend, *range(5))
    assert backend.action(acts) == [0, 1, 2, 3, 4]


def test_a_query_that_was_paginated_is_used_up(backend: LocalBackend) -> None:
    def again(ctx: MutationCtx) -> None:
        found = ctx.db.query(Item)
        found.paginate(num_items=1)
        found.collect()

    with pytest.raises(FunctionFailed, match="Iteration can only begin on a query once"):
        within(backend, again)


# --- Cursors of other queries -----------------------------------------------------------------------------------------


def ordered(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query(Item).with_index("by_n").order("desc").paginate(num_items=2, cursor=cursor)


def plain(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query(Item).with_index("by_n").paginate(num_items=2, cursor=cursor)


def bounded(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query(Item).with_index("by_n", n=Range(gte=0)).paginate(num_items=2, cursor=cursor)


def other_index(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query(Item).with_index("by_group").paginate(num_items=2, cursor=cursor)


def by_creation(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query(Item).paginate(num_items=2, cursor=cursor)


def filtered(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query(Item).with_index("by_n").filter(lambda item: True).paginate(num_items=2, cursor=cursor)


def filtered_otherwise(ctx: MutationCtx, cursor: str | None) -> Any:
    found = ctx.db.query(Item).with_index("by_n").filter(lambda item: item["n"] in {1, 2, 3})
    return found.paginate(num_items=2, cursor=cursor)


def compared(ctx: MutationCtx, cursor: str | None) -> Any:
    found = ctx.db.query(Item).with_index("by_n").filter(q.gt(q.field("n"), 1))
    return found.paginate(num_items=2, cursor=cursor)


def compared_otherwise(ctx: MutationCtx, cursor: str | None) -> Any:
    found = ctx.db.query(Item).with_index("by_n").filter(q.gt(q.field("n"), 2))
    return found.paginate(num_items=2, cursor=cursor)


def other_table(ctx: MutationCtx, cursor: str | None) -> Any:
    return ctx.db.query("nothing").paginate(num_items=2, cursor=cursor)


QUERIES = (
    plain,
    ordered,
    bounded,
    other_index,
    by_creation,
    filtered,
    filtered_otherwise,
    compared,
    compared_otherwise,
    other_table,
)


@pytest.mark.parametrize("second", QUERIES)
@pytest.mark.parametrize("first", QUERIES)
def test_DB6_a_cursor_of_another_query_is_an_invalid_cursor(
    backend: LocalBackend, first: Callable[..., Any], second: Callable[..., Any]
) -> None:
    fill(backend, *range(5))
    cursor = within(backend, lambda ctx: first(ctx, None))["continueCursor"]
    if first is second:
        assert within(backend, lambda ctx: second(ctx, cursor)) is not None
        return
    with pytest.raises(ConvexError) as error:
        within(backend, lambda ctx: second(ctx, cursor))
    assert error.value.data == INVALID_CURSOR


def test_an_end_of_another_query_is_an_invalid_cursor(backend: LocalBackend) -> None:
    fill(backend, *range(5))
    cursor = within(backend, lambda ctx: ordered(ctx, None))["continueCursor"]
    with pytest.raises(ConvexError) as error:
        page(backend, None, 3, end_cursor=cursor)
    assert error.value.data == INVALID_CURSOR


def test_an_invalid_cursor_can_be_caught_and_the_query_begun_anew(backend: LocalBackend) -> None:
    fill(backend, *range(5))
    cursor = within(backend, lambda ctx: ordered(ctx, None))["continueCursor"]

    def begin_anew(ctx: MutationCtx) -> Any:
        with pytest.raises(InvalidCursor) as error:
            other_index(ctx, cursor)
        assert str(error.value) == OTHER_QUERY
        assert error.value.data == INVALID_CURSOR
        return other_index(ctx, None)

    assert [item["n"] for item in within(backend, begin_anew)["page"]] == [0, 1]


def test_the_text_and_the_data_reach_the_caller(backend: LocalBackend) -> None:
    call = Call(_path("page_of"), b'{"paginationOpts":{"cursor":"x","numItems":1}}', "query")
    error = backend._wait(backend.executor.query(call)).error
    assert error is not None
    assert (error.code, error.data) == ("InvalidCursor", encode(INVALID_CURSOR))
    assert "InvalidCursor: This is not a cursor that this backend made." in error.message


def test_what_a_filter_has_closed_over_does_not_make_it_another_query(backend: LocalBackend) -> None:
    fill(backend, *range(5))

    def paginate(ctx: MutationCtx, least: int, cursor: str | None) -> Any:
        found = ctx.db.query(Item).with_index("by_n").filter(lambda item: item["n"] >= least)
        return found.paginate(num_items=2, cursor=cursor)

    at = within(backend, lambda ctx: paginate(ctx, 0, None))
    at = within(backend, lambda ctx: paginate(ctx, 3, at["continueCursor"]))
    assert [item["n"] for item in at["page"]] == [3, 4]
