"""Runs of touched keys answer as a list of all commits would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolute.database.conflict import Touch, TouchedKeys, first_conflict
from evolute.database.read_set import ReadSet

KEYS = st.sampled_from([bytes([letter]) for letter in b"abcdefghij"])
COMMITS = st.lists(st.sets(KEYS, max_size=4), max_size=24)


@st.composite
def read_sets(draw: st.DrawFn) -> ReadSet:
    read_set = ReadSet()
    for key in draw(st.sets(KEYS, max_size=3)):
        read_set.add_point(key)
    for start, end in draw(st.lists(st.tuples(KEYS, KEYS), max_size=2)):
        read_set.add_range(start, end)
    return read_set


@given(COMMITS, st.lists(st.integers(1, 6), min_size=1), read_sets(), st.data())
def test_runs_answer_as_all_commits_would(
    commits: list[set[bytes]], run_lengths: list[int], read_set: ReadSet, data: st.DataObject
) -> None:
    """Commit n has timestamp n + 1. The runs are as long as `run_lengths` says, and neighbours may be merged."""
    runs: list[TouchedKeys] = []
    for index, keys in enumerate(commits):
        if not runs or runs[-1].commits >= run_lengths[len(runs) % len(run_lengths)]:
            runs.append(TouchedKeys())
        runs[-1].add(index + 1, keys)
        first_conflict(read_set, 0, reversed(runs))  # asking in between sorts some keys early
    while len(runs) > 1 and data.draw(st.booleans()):
        later = runs.pop()
        runs[-1].absorb(later)
    assert sum(run.commits for run in runs) == len(commits)

    for after_ts in range(len(commits) + 1):
        touched = {
            key: index + 1
            for index, keys in enumerate(commits)
            for key in keys
            if index + 1 > after_ts and read_set.contains(key)
        }
        touch = first_conflict(read_set, after_ts, reversed(runs))
        assert (touch is None) == (not touched)
        assert touch is None or touched[touch.key] == touch.commit_ts


def test_of_several_touches_the_latest_is_named() -> None:
    """Given two runs that both touch what was read, I expect the newer one's commit: it is the one to wait for."""
    older, newer = TouchedKeys(), TouchedKeys()
    older.add(10, {b"a", b"b"})
    newer.add(11, {b"b"})
    newer.add(12, {b"c"})
    read_set = ReadSet()
    for key in (b"a", b"b", b"c"):
        read_set.add_point(key)

    assert first_conflict(read_set, 9, [newer, older]) == Touch(b"c", 12)
    assert first_conflict(read_set, 12, [newer, older]) is None


def test_in_a_straddling_run_only_later_touches_count() -> None:
    run = TouchedKeys()
    for commit_ts in range(1, 101):
        run.add(commit_ts, {b"%03d" % commit_ts})
    read_set = ReadSet()
    read_set.add_range(b"020", b"041")

    assert first_conflict(read_set, 40, [run]) is None
    assert first_conflict(read_set, 39, [run]) == Touch(b"040", 40)
