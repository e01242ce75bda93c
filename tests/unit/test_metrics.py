"""What the metrics are made from: durations by kind, and labels that are bounded by the deployment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from evolute.backend import BackendStatistics
from evolute.execution.call_durations import BUCKETS_MS, CallDurations
from evolute.execution.call_log import CallLog, CallLogEntry
from evolute.execution.pool_statistics import PoolStatistics
from evolute.limits import Limits
from evolute.registry.job_options import Pool
from evolute.registry.registry import FunctionReport, RegistryReport
from evolute.scheduler.scheduler import SchedulerStatistics
from evolute.server.metrics import Scrape, StatisticsCollector, Waiting
from evolute.testing import LocalBackend


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


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    with LocalBackend() as backend:
        yield backend


def test_what_is_of_no_deployment_any_more_is_told_together(backend: LocalBackend) -> None:
    """Every deployment may bring other names; the series that a scraper keeps are those of the latest."""
    outcomes = {("m:kept", "failed"): 3, ("m:old", "failed"): 2, ("m:older", "failed"): 5}
    statistics = BackendStatistics(
        scheduler=SchedulerStatistics(9, {"mail": 1, "default": 2, "p1": 3, "p2": 4}, 0.0, outcomes, looks=1),
        crons=backend.crons.statistics(),
        calls=backend.log.durations.statistics(),
        stages=backend.database.stages.statistics(),
        executor=backend.executor.statistics(),
        query_cache=backend.executor.query_cache.statistics(),
        pool=PoolStatistics(None, 1, 2, 3, 0, 0, 0, ()),
        database=backend.database.statistics(),
    )
    function = FunctionReport("m:kept", "mutation", "public", "m.py", 1, {}, {})
    pools = {"mail": Pool(concurrency=1), "idle": Pool(concurrency=1)}
    report = RegistryReport("hash", {"m:kept": function}, {}, (), pools)
    backlog = {"mail": Waiting(5, 2.5), "p1": Waiting(1, 1.0), "p2": Waiting(2, 9.0)}
    scrape = Scrape(statistics, backlog, frozenset({None, "p1", "p2", "mail"}), report)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in StatisticsCollector(scrape).collect()
        for sample in family.samples
    }
    assert [found["evolute_workers", lane] for lane in ("transaction", "action", "blocking")] == [1, 2, 3]
    by_pool: dict[str, dict[str, float]] = {
        name: {} for name in ("job_lag_seconds", "job_backlog", "jobs_running", "jobs_paused")
    }
    for (name, *labels), value in found.items():
        if name.removeprefix("evolute_") in by_pool:
            by_pool[name.removeprefix("evolute_")][labels[0]] = value
    assert by_pool == {
        "job_lag_seconds": {"default": 0, "mail": 2.5, "idle": 0, "(gone)": 9},
        "job_backlog": {"default": 0, "mail": 5, "idle": 0, "(gone)": 3},
        "jobs_running": {"default": 2, "mail": 1, "idle": 0, "(gone)": 7},
        "jobs_paused": {"mail": 1, "(gone)": 1, "(everything)": 1},
    }
    runs = {key[1:]: value for key, value in found.items() if key[0] == "evolute_job_runs_total"}
    assert runs == {("m:kept", "failed"): 3, ("(gone)", "failed"): 7}


def test_a_server_that_nobody_watches_does_without_the_library() -> None:
    program = "import sys, evolute.server.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
