"""Limits: each has a least sensible value, and below that is an error that names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from evolute.config import SERVER_READERS, Config
from evolute.limits import LEAST, MAY_BE_ZERO, Limits, limits_from

NAMES = [field.name for field in dataclasses.fields(Limits)]
# With none of these nothing would ever run, be sent or be kept, and whoever waits for it would wait for ever.
HANGS_AT_ZERO = {
    "jobs_running_max",
    "requests_per_worker_max",
    "actions_per_worker_max",
    "job_backoff_ms_max",
    "heartbeat_ms",
    "query_retry_ms_min",
    "reader_check_ms",
    "system_ms_max",
    "query_user_ms_max",
    "commit_queue_length_max",
    "call_queue_length_max",
}


def least(name: str) -> int:
    return 0 if name in MAY_BE_ZERO else LEAST.get(name, 1)


def fits(name: str, value: int) -> bool:
    """Whether the limit may have this value, as far as it is the limit's own rule that says so."""
    try:
        dataclasses.replace(Limits(), **{name: value})
    except ValueError as error:
        return "whole number" not in str(error)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_less_than_the_least_sensible_value_is_refused_by_name(name: str) -> None:
    assert fits(name, least(name))
    for value in (least(name) - 1, -1, float("nan"), float("inf"), 1e9, None, "5"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from {least(name)} on, got "):
            dataclasses.replace(Limits(), **{name: value})  # type: ignore[arg-type]


def test_no_limit_of_none_stops_the_runtime() -> None:
    assert not [name for name in HANGS_AT_ZERO if fits(name, 0)]


def test_the_tables_name_limits() -> None:
    assert {*MAY_BE_ZERO, *LEAST} <= set(NAMES)
    assert not MAY_BE_ZERO & LEAST.keys()


def test_a_variable_is_refused_like_the_limit() -> None:
    with pytest.raises(ValueError, match="jobs_running_max must be a whole number from 1 on, got 0"):
        limits_from({"EVOLUTE_JOBS_RUNNING_MAX": "0"})
    with pytest.raises(ValueError, match="EVOLUTE_HEARTBEAT_MS must be a whole number, got 'nan'"):
        limits_from({"EVOLUTE_HEARTBEAT_MS": "nan"})


def test_every_worker_can_read() -> None:
    folder = Path("functions")
    Config(folder, folder, workers=3, action_workers=2, limits=Limits(readers_max=5 + SERVER_READERS))
    with pytest.raises(
        ValueError, match=r"readers_max must be at least 13 with 3 workers and 2 action workers.* is 12"
    ):
        Config(folder, folder, workers=3, action_workers=2, limits=Limits(readers_max=4 + SERVER_READERS))
