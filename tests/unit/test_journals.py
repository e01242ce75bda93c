"""Journals: what a run of a page notes for the next one, and what becomes of one that is not what it should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolute.execution.request import CallResult
from tests.unit.function_store import FunctionStore, call

MODULE = """
from evolute import PaginationOptions, PaginationResult

@mutation
def insert(ctx: MutationCtx, numbers: list[int]) -> None:
    for n in numbers:
        ctx.db.insert("items", {"n": n})

@mutation
def delete(ctx: MutationCtx, n: int) -> None:
    ctx.db.delete(ctx.db.query("items").with_index("by_n", n=n).first()["_id"])

@mutation
def numbers_in_a_mutation(ctx: MutationCtx) -> PaginationResult[int]:
    return ctx.db.query("items").with_index("by_n").paginate(num_items=2).map(lambda item: item["n"])

@query
def numbers(ctx: QueryCtx, paginationOpts: PaginationOptions) -> PaginationResult[int]:
    return ctx.db.query("items").with_index("by_n").paginate(paginationOpts).map(lambda item: item["n"])

@query
def descending(ctx: QueryCtx, paginationOpts: PaginationOptions) -> PaginationResult[int]:
    page = ctx.db.query("items").with_index("by_n").order("desc").paginate(paginationOpts)
    return page.map(lambda item: item["n"])

@query
def with_others(ctx: QueryCtx, paginationOpts: PaginationOptions) -> list[Any]:
    first = ctx.run_query(descending, PaginationOptions(num_items=1))
    own = ctx.db.query("items").with_index("by_n").paginate(paginationOpts).map(lambda item: item["n"])
    last = ctx.run_query(descending, PaginationOptions(num_items=2))
    return [first.page, own.page, last.page]

@query
def through_another(ctx: QueryCtx, paginationOpts: PaginationOptions) -> PaginationResult[int]:
    return ctx.run_query(numbers, paginationOpts)

@query
def raises_when_odd(ctx: QueryCtx, paginationOpts: PaginationOptions, early: bool) -> Any:
    odd = ctx.db.query("items").with_index("by_n").order("desc").first()["n"] % 2
    if early and odd:
        raise ValueError("odd")
    page = ctx.db.query("items").with_index("by_n").paginate(paginationOpts)
    if odd:
        raise ValueError("odd")
    return page.map(lambda item: item["n"])

@query
def no_page(ctx: QueryCtx) -> int:
    return len(ctx.db.query("items").collect())
"""
SCHEMA = """
from evolute import define_schema, define_table
schema = define_schema(items=define_table().index("by_n", ["n"]))
"""


@pytest.fixture
def functions(tmp_path: Path) -> Iterator[FunctionStore]:
    store = FunctionStore(tmp_path, {"m.py": MODULE, "schema.py": SCHEMA})
    store.mutate("m:insert", numbers=[0, 2, 4, 6, 8, 10])
    yield store
    store.close()


def run(
    functions: FunctionStore, path: str, journal: str | None = None, cursor: str | None = None, **arguments: Any
) -> CallResult:
    """The page of two, as it would be sent."""
    if path != "m:no_page":
        arguments = {"paginationOpts": {"numItems": 2, "cursor": cursor, **arguments.pop("options", {})}, **arguments}
    made = call(path, "query", **arguments)._replace(journal=journal)
    return functions.run_queries(made).results[0]


def value(result: CallResult) -> Any:
    assert result.error is None, result.error
    assert result.value is not None
    return json.loads(result.value)


def page(result: CallResult) -> Any:
    return value(result)["page"]


def test_a_later_run_keeps_the_end_of_the_first(functions: FunctionStore) -> None:
    first = run(functions, "m:numbers")
    assert page(first) == [0, 2]
    assert first.journal is not None
    functions.mutate("m:insert", numbers=[1, 1])
    functions.mutate("m:delete", n=0)
    again = run(functions, "m:numbers", first.journal)
    assert page(again) == [1, 1, 2]
    assert (again.journal, value(again)["continueCursor"]) == (first.journal, value(first)["continueCursor"])
    functions.mutate("m:delete", n=2)
    functions.mutate("m:insert", numbers=[3])
    assert page(run(functions, "m:numbers", first.journal)) == [1, 1]
    assert page(run(functions, "m:numbers", None, value(first)["continueCursor"])) == [3, 4]


def test_a_page_that_was_the_last_stays_it(functions: FunctionStore) -> None:
    last = run(functions, "m:numbers", options={"numItems": 9})
    functions.mutate("m:insert", numbers=[11, 12, 13, 14])
    again = run(functions, "m:numbers", last.journal)
    assert (page(again), value(again)["isDone"]) == ([0, 2, 4, 6, 8, 10, 11, 12, 13, 14], True)


def test_an_end_that_is_asked_for_comes_before_the_journal(functions: FunctionStore) -> None:
    two, three = run(functions, "m:numbers"), run(functions, "m:numbers", options={"numItems": 3})
    ended = run(functions, "m:numbers", two.journal, options={"endCursor": value(three)["continueCursor"]})
    assert (page(ended), ended.journal) == ([0, 2, 4], three.journal)


@pytest.mark.parametrize("journal", ["", "x", "not base64 ä", "AAAA" * 20])
def test_a_journal_that_was_made_up_is_as_good_as_none(functions: FunctionStore, journal: str) -> None:
    first, made_up = run(functions, "m:numbers"), run(functions, "m:numbers", journal)
    assert (made_up.value, made_up.journal) == (first.value, first.journal)


def test_a_journal_is_of_one_page_of_one_query(functions: FunctionStore) -> None:
    first, backwards = run(functions, "m:numbers"), run(functions, "m:descending")
    assert page(run(functions, "m:numbers", backwards.journal)) == [0, 2]
    assert page(run(functions, "m:numbers", first.journal, value(first)["continueCursor"])) == [4, 6]


def test_a_cursor_is_no_journal_and_a_journal_no_cursor(functions: FunctionStore) -> None:
    first = run(functions, "m:numbers")
    functions.mutate("m:insert", numbers=[1])
    assert page(run(functions, "m:numbers", value(first)["continueCursor"])) == [0, 1]
    refused = run(functions, "m:numbers", None, first.journal)
    assert refused.error is not None
    assert refused.error.code == "InvalidCursor"


@pytest.mark.parametrize("early", [False, True])
def test_a_run_that_raises_loses_nothing(functions: FunctionStore, early: bool) -> None:
    first = run(functions, "m:raises_when_odd", early=early)
    functions.mutate("m:insert", numbers=[1, 21])
    failed = run(functions, "m:raises_when_odd", first.journal, early=early)
    assert failed.error is not None
    assert failed.journal == first.journal
    functions.mutate("m:delete", n=21)
    assert page(run(functions, "m:raises_when_odd", failed.journal, early=early)) == [0, 1, 2]


def test_what_reads_no_page_has_no_journal(functions: FunctionStore) -> None:
    assert run(functions, "m:no_page").journal is None
    outcome = functions.run_mutation(call("m:numbers_in_a_mutation", "mutation"))
    assert outcome.results[0].journal is None


def test_of_several_pages_that_of_the_function_itself_is_kept(functions: FunctionStore) -> None:
    first = run(functions, "m:with_others")
    assert value(first) == [[10], [0, 2], [10, 8]]
    functions.mutate("m:insert", numbers=[1, 11])
    assert value(run(functions, "m:with_others", first.journal)) == [[11], [0, 1, 2], [11, 10]]


def test_the_page_of_a_function_that_is_called_is_kept_if_there_is_no_other(functions: FunctionStore) -> None:
    first = run(functions, "m:through_another")
    functions.mutate("m:insert", numbers=[1])
    assert page(run(functions, "m:through_another", first.journal)) == [0, 1, 2]


def test_a_journal_survives_its_way_to_the_worker_and_back(functions: FunctionStore) -> None:
    request = functions.request("query", call("m:no_page", "query")._replace(journal="J"))
    assert type(request).from_wire(request.to_wire()) == request
    result = run(functions, "m:numbers")
    assert CallResult.from_wire(result.to_wire()).journal == result.journal
