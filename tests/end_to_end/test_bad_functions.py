"""What bad functions get: an error with their own lines in it, from a server that serves on.

They return what is no value, raise what nobody should, break their process, keep what they were lent and swallow what
they should not. After every test the same server answers, and no mutation that failed has written anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.bad_input_target import Target, running_target

WORKERS = 2


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running_target(tmp_path_factory.mktemp("bad_functions")) as target:
        yield target


@pytest.fixture
def server(running: Target) -> Iterator[Target]:
    yield running
    running.assert_serves()


# --- What they return -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("set", "set is not a value; use a sorted list"),
        ("tuple", "tuple is not a value at .pair; use a list"),
        ("datetime", "datetime is not a value at [0]; use .timestamp() * 1000 or .isoformat()"),
        ("decimal", "Decimal is not a value; use a float or str"),
        (
            "object",
            "Thing is not a value at .a[0]; values are None, bool, int, float, Int64, str, bytes, list and dict",
        ),
        ("function", "function is not a value; values are "),
        ("generator", "generator is not a value; use list(…)"),
        ("huge", "The int 1152921504606846976 is beyond ±2^53, where numbers are not exact; use Int64("),
        ("key", "Field name 'schlüssel' has other characters than printable ASCII"),
        ("dollar", "Field name '$b' starts with '$', which is reserved at .a"),
        ("number key", "Field name 1 is of type int; field names are strings"),
        ("surrogate", "A string holds the lone surrogate '\\ud800', which is no Unicode character at .a[0]"),
        ("circle", "Value is too nested (nested 65 levels deep > maximum nesting 64) at [0][0]"),
        ("deep", "Value is too nested (nested 65 levels deep > maximum nesting 64) at [0][0]"),
        ("items", "Array length is too long (8193 > maximum length 8192) at .a"),
        ("fields", "Object has too many fields (1025 > maximum number 1024)"),
    ],
)
def test_results_that_are_no_values(server: Target, what: str, said: str) -> None:
    for kind, path in (("query", "results:give"), ("action", "results:give_later")):
        assert server.error(kind, path, {"what": what}).startswith(
            f"Function {path} returned what is not a value: {said}"
        )


def test_results_that_are_too_large_mistyped_or_unfinished(server: Target) -> None:
    assert server.error("query", "results:give", {"what": "long"}) == (
        "Function results:give return value is too large (actual: 2097154 bytes, limit: 1048576 bytes; "
        "the setting is result_bytes_max)"
    )
    assert server.error("query", "results:wrongly_typed") == (
        'ReturnsValidationError: Value does not match validator.\nPath: [1].values()\nValue: "two"\n'
        "Validator: v.float64() that is a whole number"
    )
    assert server.error("query", "results:unread").startswith(
        "Return value is a Query. Results must be retrieved with `.collect()`"
    )
    assert "Query is not a value at .rows; end it with .collect()" in server.error("query", "results:unread_part")
    assert server.error("action", "results:coroutine") == "Function results:coroutine returned a coroutine; await it."


def test_odd_results_that_are_values(server: Target) -> None:
    assert [next(iter(number)) for number in server.value("query", "results:give", what="nan")] == ["$float"] * 4
    assert server.value("query", "results:give", what="deepest")


# --- What they raise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("SystemExit", "Uncaught SystemExit: 3"),
        ("KeyboardInterrupt", "Uncaught KeyboardInterrupt"),
        ("GeneratorExit", "Uncaught GeneratorExit"),
        ("StopIteration", "Uncaught "),
        ("BaseException", "Uncaught Loop: of my own"),
        ("Unprintable", "Uncaught Unprintable: <Unprintable; its text cannot be made: RuntimeError>"),
        ("data", "Uncaught ConvexError with invalid data: {'when': {1, 2}}"),
        ("surrogate data", "Uncaught ConvexError with invalid data: '\\ud800'"),
        ("Forgetful", "Uncaught ConvexError: null"),
        ("notes", "Uncaught ValueError: with notes"),
        ("surrogate", "Uncaught ValueError: half a ? pair"),
        ("long", "Uncaught ValueError: xxx"),
        ("group", "Uncaught ExceptionGroup: two (2 sub-exceptions)"),
        ("recursion", "Uncaught RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_whatever_is_raised_is_told_with_its_lines(server: Target, what: str, said: str) -> None:
    for kind in ("query", "mutation", "action"):
        text = server.error(kind, f"raises:in_{kind}", {"what": what})
        assert text.startswith(said), text
        assert len(text) <= 64 * 1024
        if what == "long":
            assert text.endswith(" (truncated due to length)")
        else:
            assert re.search(rf'File "functions/raises.py", line \d+, in in_{kind}\n    return raise_\(what\)', text)
        if what == "recursion":
            assert "more frames" in text


def test_the_same_over_a_websocket(server: Target) -> None:
    """Also what no JSON can hold; and a session's record of it can be written."""
    for kind, path in (("mutation", "raises:in_mutation"), ("action", "raises:in_action")):
        answer = server.answer(kind, path, [{"what": "surrogate"}])
        assert answer["success"] is False
        assert "Uncaught ValueError: half a ? pair" in answer["result"]
    failed = server.answer("query", "raises:in_query", [{"what": "surrogate"}])
    assert "Uncaught ValueError: half a ? pair" in failed["errorMessage"]
    written = server.answer("mutation", "raises:prints_and_writes", [{}])
    assert (written["success"], written["logLines"]) == (True, ["[LOG] half a ? pair"])


def test_a_job_that_fails_with_what_no_store_can_hold_ends(server: Target) -> None:
    job = server.value("mutation", "well:later", delay=0, target="raises:in_job")
    for _ in range(500):
        error = server.value("query", "well:job_error", job=job)
        if error is not None:
            break
    assert error.startswith("Uncaught ValueError: half a ? pair\n")


# --- What they print --------------------------------------------------------------------------------------------------


def test_what_is_printed_is_bounded_and_cannot_be_shut(server: Target) -> None:
    def lines(what: str) -> Any:
        answer = server.call("query", "raises:prints", {"what": what})
        assert answer["status"] == "success", answer
        return answer.get("logLines")

    (megabyte,) = lines("megabyte")
    assert len(megabyte) == 32 * 1024
    assert megabyte.endswith(" (truncated due to length)")
    many = lines("lines")
    assert len(many) == 256
    assert many[254:] == ["[LOG] line 254", "[ERROR] Log overflow (maximum 256). Remaining log lines omitted."]
    assert lines("surrogate") == ["[LOG] half a ? pair"]
    for _ in range(2 * WORKERS):
        assert lines("closed") == ["[LOG] before", "[LOG] after"]
        assert lines("replaced") is None
        assert lines("stderr") is None
    assert lines("lines") == many


# --- What they do to their process ------------------------------------------------------------------------------------


def test_a_function_that_kills_its_worker_is_named(server: Target) -> None:
    """It is run again once, because the death may have been another's; an action is not."""
    assert server.error("mutation", "raises:dies") == (
        "raises:dies: the worker process died while this function ran, twice"
    )
    assert server.error("query", "raises:dies_reading") == (
        "raises:dies_reading: the worker process died while this function ran, twice"
    )
    assert server.error("action", "raises:dies_acting") == (
        "The worker process died while this action ran. It may have acted."
    )


@pytest.mark.parametrize(
    "builtin", ["len", "isinstance", "sorted", "frozenset", "print", "BaseException", "__import__"]
)
def test_deleted_builtins_are_put_back(server: Target, builtin: str) -> None:
    """The call fails and names them, and whoever comes next is well."""
    assert server.error("mutation", "raises:without", {"builtin": builtin}) == (
        f"raises:without changed Python's builtins ({builtin}), which all functions of a worker share."
    )
    for _ in range(2 * WORKERS):
        server.assert_serves()


def test_actions_put_builtins_back_too(server: Target) -> None:
    assert server.error("action", "raises:without_later", {"builtin": "sorted"}) == (
        "raises:without_later changed Python's builtins (sorted), which all functions of a worker share."
    )
    assert server.value("action", "well:pause") == server.value("query", "well:count")


def test_a_recursion_limit_is_one_calls(server: Target) -> None:
    for _ in range(2 * WORKERS):
        server.value("query", "raises:shallow")
        server.assert_serves()


def test_memory_and_time_are_limited(server: Target) -> None:
    assert server.error("query", "raises:hungry").startswith(
        "Function execution ran out of memory (maximum: 1024 MiB; the setting is worker_memory_bytes_max)\n"
        '  File "functions/raises.py", line '
    )
    text = server.error("mutation", "swallows:time")
    assert text.startswith("Function execution timed out (maximum duration: 1s); the setting is mutation_user_ms_max")
    assert 'File "functions/swallows.py", line ' in text


def test_a_stack_that_gives_out_inside_ctx_commits_nothing(server: Target) -> None:
    """Half of a write may have been done when the recursion limit was met, and the function went on."""
    assert server.error("mutation", "raises:deep_insert").startswith(
        "Uncaught RecursionError: the stack gave out inside `ctx`."
    )
    assert server.value("query", "well:rows", table="deep1") == 0


# --- What they keep ---------------------------------------------------------------------------------------------------

RETURNED = "`ctx` was used after its function returned"


@pytest.mark.parametrize("what", ["ctx", "run", "query", "rows", "db", "scheduler"])
def test_what_is_kept_is_closed(server: Target, what: str) -> None:
    """Kept in a mutation and used by a later one of the same worker."""
    said = set()
    for _ in range(20):
        server.value("mutation", "keeps:keep")
        answer = server.call("mutation", "keeps:use", {"what": what})
        if answer["status"] == "error":
            said.add(answer["errorMessage"].partition("\n")[2])
            break
        assert answer["value"] == "nothing kept"
    (text,) = said
    assert text.startswith(f"Uncaught ContextClosed: {RETURNED}")
    assert 'File "functions/keeps.py", line ' in text
    for _ in range(2 * WORKERS):
        server.value("mutation", "keeps:forget")


def test_the_context_of_a_nested_call_ends_with_it(server: Target) -> None:
    assert f"ContextClosed: {RETURNED}" in server.error("mutation", "keeps:nested_keeps")


def test_a_context_is_for_one_thread(server: Target) -> None:
    said = "ContextClosed: `ctx` was used by another thread than the one that runs its function."
    assert server.value("mutation", "keeps:lend") == said
    text = server.error("action", "keeps:from_thread")
    assert text.startswith("Uncaught ContextClosed: `ctx` of an action was used by another thread than the one of its")
    assert "in act_on" in text


def test_the_context_of_an_action_ends_with_it(server: Target) -> None:
    server.value("action", "keeps:keep_action")
    assert server.error("action", "keeps:use_action").startswith(f"Uncaught ContextClosed: {RETURNED}")


# --- What they ask for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("table", "InvalidQuery: 5 names no table. A table is named by its string, or by the row type that"),
        ("id", "InvalidId: Invalid argument `id` for `db.normalize_id`, expected string but got 'int': 5.0"),
        ("system table", "SystemTableError: User tables can only be accessed from db.normalizeId()."),
        ("system", "SystemTableError: There is no system table '_sessions'; functions can read '_scheduled_functions'"),
        ("index", "IndexNotFound: Index items.5 not found."),
        ("bound", "InvalidValue: object is not a value; values are "),
        ("builder", "InvalidQuery: The range of `with_index` is a function of a builder, or keywords; got 5"),
        ("predicate", "InvalidQuery: `filter` takes a function of a document, or an expression made with `q`, got 5"),
        ("take", "InvalidQuery: Arg 1 `n` to `take` must be a non-negative integer"),
        ("name", "InvalidValue: Field name 5 is of type int; field names are strings"),
        ("value", "InvalidValue: set is not a value at .a; use a sorted list"),
        ("text", "InvalidValue: A string holds the lone surrogate '\\ud800', which is no Unicode character at .a"),
        (
            "function",
            "FunctionNotFound: 5 is not a function reference: give a decorated function, or 'module:function'",
        ),
        ("kind", "WrongKind: Trying to execute well.py:add as Query, but it is defined as Mutation."),
        ("missing", "FunctionNotFound: Could not find public function for 'well:nothing'."),
        ("arguments", "ValidationFailed: ArgumentValidationError: Value does not match validator.\nPath: .whole"),
        ("object", "InvalidValue: Invalid arguments for well:echo: object is not a value at .value; values are "),
        ("target", "InvalidSchedule: 5 is not a function reference: give a decorated function, or 'module:function'"),
        ("action", "AttributeError: `ctx` of a mutation has no 'run_action': only an action runs an action; a mutat"),
    ],
)
def test_misuse_of_ctx_is_told_where_it_is(server: Target, what: str, said: str) -> None:
    server.value("mutation", "well:insert_any", table="items", fields={"n": 1})
    text = server.error("mutation", "misuses:use", {"what": what})
    assert text.startswith(f"Uncaught {said}"), text
    assert 'File "functions/misuses.py", line ' in text
    if what in ("function", "kind", "missing", "arguments", "object"):
        text = server.error("action", "misuses:use_acting", {"what": what})
        assert text.startswith(f"Uncaught {said}"), text


def test_what_a_kind_of_function_has_not(server: Target) -> None:
    assert "`ctx.db` of a query has no 'insert': only a mutation writes" in server.error(
        "query", "misuses:use_reading", {"what": "name"}
    )
    assert "`ctx` of a query has no 'scheduler': only mutations and actions schedule" in server.error(
        "query", "misuses:use_reading", {"what": "target"}
    )
    assert "`ctx` of an action has no 'db': an action reads and writes through ctx.run_query" in server.error(
        "action", "misuses:use_acting", {"what": "table"}
    )


# --- What they swallow ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "write",
            "Too many writes in a single function execution (limit: 1500). The setting is `documents_written_max",
        ),
        ("intervals", "Too many reads in a single function execution (limit: 2000)"),
        ("query", "This query is closed and can't emit any more values."),
        ("order", "Queries may only specify order at most once"),
        ("range", "by_n"),
    ],
)
def test_a_swallowed_error_of_the_transaction_stands(server: Target, how: str, said: str) -> None:
    """Nothing is committed, though the function has returned in good order."""
    server.value("mutation", "well:insert_any", table="items", fields={"n": 1})
    assert said in server.error("mutation", "swallows:limit", {"how": how})


def test_a_swallowed_read_limit_stands(server: Target) -> None:
    for _ in range(6):
        server.value("mutation", "well:insert_any", table="items", fields={"n": 1})
    said = server.error("mutation", "swallows:limit", {"how": "read"})
    assert "Too many documents read in a single function execution (limit: 1000)." in said
    assert "`documents_read_max`" in said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("socket", "Can't open a socket in queries and mutations."),
        ("file", "Can't open a file for writing in queries and mutations."),
        ("os.open", "Can't open a file for writing in queries and mutations."),
        ("remove", "Can't change files in queries and mutations."),
        ("subprocess", "Can't "),
        ("fork", "Can't start a process in queries and mutations."),
        ("system", "Can't start a process in queries and mutations."),
        ("thread", "Can't start a thread in queries and mutations."),
    ],
)
def test_side_effects_are_refused(server: Target, tmp_path: Path, what: str, said: str) -> None:
    path = tmp_path / "file"
    path.write_text("as it was")
    text = server.error("mutation", "swallows:side_effect", {"what": what, "path": str(path)})
    assert text.startswith(f"Uncaught SideEffectRefused: {said}")
    assert "Use an action" in text
    assert 'File "functions/swallows.py", line ' in text
    assert path.read_text() == "as it was"


def test_what_a_function_is_given_is_its_own(server: Target) -> None:
    """Changing arguments and rows changes neither the store nor what others are given."""
    for _ in range(2 * WORKERS):
        assert server.value("mutation", "swallows:mutates_arguments", value={"list": [0]}) == [0, 1]
