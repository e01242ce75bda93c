"""The histograms of stages: into which bucket a duration falls, and what is counted of a batch."""

from __future__ import annotations

from types import SimpleNamespace

from evolute.clock import monotonic_ns
from evolute.stages import BOUNDS_US, Durations, Stages


def test_durations_fall_into_buckets_by_their_upper_bounds() -> None:
    durations = Durations()
    longest_ns = BOUNDS_US[-1] * 1000
    for duration_ns in (0, 10_000, 10_001, longest_ns, longest_ns + 1):
        durations.add(duration_ns)
    found = durations.statistics()
    assert found.counts[:2] == (2, 1)
    assert found.counts[-2:] == (1, 1)
    assert sum(found.counts) == 5
    assert len(found.counts) == len(BOUNDS_US) + 1
    assert abs(found.total_s - 2 * longest_ns / 1e9 - 20_002e-9) < 1e-9


def test_what_a_batch_takes_is_counted_for_each_of_its_commits() -> None:
    stages = Stages()
    written_ns = monotonic_ns()
    commits = [SimpleNamespace(arrived_ns=0, validated_ns=200_000), SimpleNamespace(arrived_ns=0, validated_ns=20_000)]
    stages.note_published(commits, 1_000_000, 6_000_000)
    stages.note_published(commits[:1], 1_000_000, written_ns)
    found = {stage: durations for (_, stage), durations in stages.statistics().items() if sum(durations.counts)}
    assert {stage: sum(durations.counts) for stage, durations in found.items()} == dict.fromkeys(
        ("validate", "batch", "sync", "publish"), 3
    )
    assert found["validate"].counts[BOUNDS_US.index(250)] == 2
    assert found["batch"].counts[BOUNDS_US.index(1_000)] == 3
    assert found["sync"].counts[BOUNDS_US.index(5_000)] == 2
    assert round(found["batch"].total_s * 1e6) == 800 + 980 + 800


def test_the_run_is_no_part_of_the_queue() -> None:
    stages = Stages()
    stages.note_run("mutation", 1_000_000, 4_000_000, 2_400_000)
    found = stages.statistics()
    assert found["mutation", "run"].total_s == 0.0024
    assert found["mutation", "queue"].total_s == 0.0006
    assert not sum(found["query", "run"].counts)
