"""What the metrics are made from: durations by kind, and labels that are bounded by the deployment."""

from __future__ import annotations

from evolute.execution.call_durations import BUCKETS_MS, CallDurations
from evolute.execution.call_log import CallLog, CallLogEntry
from evolute.limits import Limits


def test_durations_fall_into_buckets_by_their_upper_bounds() -> None:
    durations = CallDurations()
    for duration_ms in (0, 1, 1.01, 600_000, 600_001):
        durations.add("query", duration_ms, failed=duration_ms == 1)
    durations.add("action", 30, failed=False)
    found = durations.statistics()
    assert found["query"].counts[:2] == (2, 1)
    assert found["query"].counts[-2:] == (1, 1)
    assert sum(found["query"].counts) == 5
    assert len(found["query"].counts) == len(BUCKETS_MS) + 1
    assert (found["query"].total_ms, found["query"].errors) == (1_200_003.01, 1)
    assert found["action"].counts[BUCKETS_MS.index(50)] == 1


def test_every_call_is_counted_whether_or_not_its_entry_is_kept() -> None:
    log = CallLog(Limits(function_log_entries_max=1))
    for error in (None, "boom", None):
        log.add(CallLogEntry("m:f", "mutation", 0, 2.0, (), error, None))
    assert len(log.entries()) == 1
    found = log.durations.statistics()["mutation"]
    assert (sum(found.counts), found.errors, found.total_ms) == (3, 1, 6.0)
