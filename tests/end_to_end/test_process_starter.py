"""Worker processes that are started before anybody needs them: taken in turn, replaced if dead, never left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from evolute.execution.process_starter import ProcessStarter, StartedProcess
from tests.end_to_end.server_process import alive

ANSWER_S_MAX = 20.0


@pytest.fixture
def starter() -> Iterator[ProcessStarter]:
    with closing(ProcessStarter()) as made:
        yield made


def ends_well(started: StartedProcess) -> bool:
    """A worker whose channel is closed ends with status 0, however early that is."""
    started.channel.close()
    return started.process.wait(ANSWER_S_MAX) == 0


def test_what_was_started_ahead_is_taken_first_and_then_new_ones_are_started(starter: ProcessStarter) -> None:
    starter.start_ahead(2)
    ahead = {started.process.pid for started in starter._ahead}
    taken = [starter.take() for _ in range(3)]
    assert {started.process.pid for started in taken[:2]} == ahead
    assert taken[2].process.pid not in ahead
    assert all(ends_well(started) for started in taken)


def test_a_process_that_died_before_it_was_taken_is_passed_over(starter: ProcessStarter) -> None:
    starter.start_ahead(1)
    (dead,) = starter._ahead
    dead.process.kill()
    dead.process.wait()
    taken = starter.take()
    assert taken.process.pid != dead.process.pid
    assert ends_well(taken)


def test_closing_ends_what_nobody_took_and_tells_the_others_that_the_server_is_gone() -> None:
    starter = ProcessStarter()
    taken = starter.take()
    starter.start_ahead(1)
    (ahead,) = starter._ahead
    starter.close()
    starter.close()  # the command line closes what the pool has closed
    assert not alive(ahead.process.pid)
    taken.process.wait(ANSWER_S_MAX)  # its channel is still open: it saw the lifeline's end
    taken.abandon()
