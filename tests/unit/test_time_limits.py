"""The first stage of the time limits: where it raises, what it counts, and that nothing escapes it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from evolute.errors import ContextClosed, TimeLimit
from evolute.execution.scope import Scope
from evolute.execution.time_limits import CallClock
from evolute.limits import Limits

LIMITS = Limits(system_ms_max=300)


@pytest.fixture
def clock() -> Iterator[CallClock]:
    before = signal.getsignal(signal.SIGALRM)
    clock = CallClock(LIMITS)
    clock.install()
    yield clock
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def busy(ms: float) -> None:
    end = time.monotonic() + ms / 1000
    while time.monotonic() < end:
        pass


def test_an_endless_loop_is_interrupted_where_it_stands(clock: CallClock) -> None:
    def endless() -> None:
        while True:
            pass

    clock.start(30, "query_user_ms_max")
    with pytest.raises(TimeLimit, match=r"maximum duration: 0\.03s\); the setting is query_user_ms_max") as raised:
        clock.user_code(endless)
    clock.stop()
    assert "endless" in [entry.name for entry in raised.traceback]
    assert clock.fired is raised.value
    assert clock.user_ns > 25e6


def test_time_inside_ctx_is_not_the_functions(clock: CallClock) -> None:
    def function() -> str:
        for _ in range(4):
            with scope:
                busy(30)
        return "done"

    clock.start(60, "x")
    scope = Scope(clock)
    assert clock.user_code(function) == "done"
    clock.stop()
    assert clock.fired is None
    assert clock.user_ns < 60e6 < 120e6 <= clock.total_ns


def test_nothing_is_raised_inside_ctx_but_on_the_way_out(clock: CallClock) -> None:
    steps: list[str] = []

    def function() -> None:
        busy(20)
        with scope:
            clock.user_code(busy, 30)  # the user's own code inside ctx, a filter for example, is the user's time
            steps.append("still inside")
        steps.append("not reached")

    clock.start(40, "x")
    scope = Scope(clock)
    with pytest.raises(TimeLimit):
        clock.user_code(function)
    clock.stop()
    assert steps == []


def test_due_time_is_raised_when_the_function_comes_out_of_ctx(clock: CallClock) -> None:
    steps: list[str] = []

    def function() -> None:
        with scope:
            busy(LIMITS.system_ms_max + 50)
            steps.append("inside")
        steps.append("not reached")

    clock.start(20, "x")
    scope = Scope(clock)
    with pytest.raises(TimeLimit, match=r"too many system operations .*system_ms_max"):
        clock.user_code(function)
    clock.stop()
    assert steps == ["inside"]


def test_code_that_swallows_it_meets_it_again(clock: CallClock) -> None:
    swallowed = 0

    def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                busy(1000)
            except BaseException:
                swallowed += 1
        with scope:
            raise AssertionError("ctx is closed to a function whose time is up")

    clock.start(20, "x")
    scope = Scope(clock)
    with pytest.raises(TimeLimit):
        clock.user_code(stubborn)
    clock.stop()
    assert swallowed == 2
    assert clock.fired is not None


def test_after_the_call_nothing_is_raised_and_the_next_starts_anew(clock: CallClock) -> None:
    clock.start(10, "x")
    clock.stop()
    busy(30)
    clock.start(50, "x")
    clock.user_code(busy, 5)
    clock.stop()
    assert clock.fired is None
    assert 4e6 < clock.user_ns < 50e6


@pytest.mark.parametrize(("earlier_ms", "own_ms", "shown"), [(40, 80, r"0\.08s"), (5000, 30, r"0\.03s")])
def test_the_timer_of_an_earlier_call_serves_the_next_ones(
    clock: CallClock, earlier_ms: int, own_ms: int, shown: str
) -> None:
    """It reminds too soon, and is set again for what is left; one that would remind too late is not kept."""
    clock.start(earlier_ms, "earlier")
    clock.stop()
    clock.start(own_ms, "own")
    with pytest.raises(TimeLimit, match=shown):
        clock.user_code(busy, 1000)
    clock.stop()
    assert clock.user_ns >= own_ms * 1e6


def test_a_closed_scope_refuses() -> None:
    clock = CallClock(LIMITS)
    clock.start(10, "x")
    scope = Scope(clock)
    scope.close()
    with pytest.raises(ContextClosed, match="after its function returned"), scope:
        pass
    clock.stop()


def test_a_scope_belongs_to_the_thread_that_runs_the_function() -> None:
    clock = CallClock(LIMITS)
    clock.start(10, "x")
    scope = Scope(clock)
    failures: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with scope:
                pass
        except ContextClosed as failure:
            failures.append(failure)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    clock.stop()
    assert "another thread" in str(failures[0])
