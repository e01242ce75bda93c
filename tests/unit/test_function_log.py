"""Log lines: print and logging find the call that runs, levels, limits; the server's log of calls stays bounded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from evolute.execution import function_log
from evolute.execution.call_log import CallLog, CallLogEntry
from evolute.execution.function_log import Captured, LogLines
from evolute.limits import Limits


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_print_and_logging_become_lines_with_levels() -> None:
    lines = LogLines(Limits())
    with Captured(lines):
        print("a", 1, {"b": None})
        print("two\nlines")
        print("no newline", end="")
        logging.getLogger("app").warning("careful: %d", 7)
        logging.info("told")
        logging.error("wrong")
        logging.debug("not shown")
    assert lines.finish() == (
        "[LOG] a 1 {'b': None}",
        "[LOG] two",
        "[LOG] lines",
        "[WARN] careful: 7",
        "[INFO] told",
        "[ERROR] wrong",
        "[LOG] no newline",
    )


def test_outside_a_call_print_and_logging_go_where_they_went(capfd: pytest.CaptureFixture[str]) -> None:
    function_log.install()
    print("to the terminal")
    logging.warning("logged to the terminal")
    shown = capfd.readouterr()
    assert shown.out == "to the terminal\n"
    assert "[WARN] logged to the terminal\n" in shown.err


def test_concurrent_calls_keep_their_lines_apart_in_tasks_and_threads() -> None:
    async def call(name: str, lines: LogLines) -> None:
        with Captured(lines):
            for number in range(3):
                print(name, number)
                await asyncio.sleep(0)
            await asyncio.to_thread(print, name, "thread")

    async def scenario() -> list[LogLines]:
        calls = [LogLines(Limits()), LogLines(Limits())]
        await asyncio.gather(*(call(name, lines) for name, lines in zip("ab", calls, strict=True)))
        return calls

    for name, lines in zip("ab", asyncio.run(scenario()), strict=True):
        assert lines.finish() == (f"[LOG] {name} 0", f"[LOG] {name} 1", f"[LOG] {name} 2", f"[LOG] {name} thread")


def test_too_many_lines_end_with_one_that_says_so() -> None:
    lines = LogLines(Limits(log_lines_max=4))
    with Captured(lines):
        for number in range(10):
            print(number)
    assert lines.finish() == (
        "[LOG] 0",
        "[LOG] 1",
        "[LOG] 2",
        "[ERROR] Log overflow (maximum 4). Remaining log lines omitted.",
    )


def test_a_long_line_is_cut_at_its_bytes() -> None:
    lines = LogLines(Limits(log_line_bytes_max=50))
    with Captured(lines):
        print("\N{SNOWMAN}" * 1000)
        for _ in range(1000):
            print("ab", end="")
        print()
        print("short")
    first, second, third = lines.finish()
    assert first == "[LOG] " + "\N{SNOWMAN}" * 6 + function_log.TRUNCATED
    assert second == "[LOG] " + "ab" * 9 + function_log.TRUNCATED
    assert len(first.encode()) <= 50 == len(second.encode())
    assert third == "[LOG] short"


def entry(path: str, text: str = "") -> CallLogEntry:
    return CallLogEntry(path, "query", 1, 2.0, (text,), None, None)


def test_the_call_log_keeps_the_latest_and_tells_its_listeners() -> None:
    log = CallLog(Limits(function_log_entries_max=2))
    heard: list[str] = []
    stop = log.listen(lambda entry: heard.append(entry.path))
    for path in "abc":
        log.add(entry(path))
    stop()
    log.add(entry("d"))
    assert [kept.path for kept in log.entries()] == ["c", "d"]
    assert heard == ["a", "b", "c"]


def test_a_listener_that_fails_harms_no_call_and_no_other_listener(caplog: pytest.LogCaptureFixture) -> None:
    """The terminal of `evolute dev` may be gone: the call has happened all the same."""

    def tell_nobody(entry: CallLogEntry) -> None:
        raise BrokenPipeError

    log, heard = CallLog(Limits()), list[CallLogEntry]()
    log.listen(tell_nobody)
    log.listen(heard.append)
    log.add(entry("a"))
    assert heard == [entry("a")]
    assert "BrokenPipeError" in caplog.text


def test_the_call_log_is_bounded_in_bytes() -> None:
    log = CallLog(Limits(function_log_bytes_max=10_000))
    for number in range(100):
        log.add(entry(str(number), "x" * 1000))
    kept = log.entries()
    assert 1 < len(kept) < 10
    assert kept[-1].path == "99"
