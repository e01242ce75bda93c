"""The arithmetic of the benchmarks, and the peer that keeps the same accounts in SQLite."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.benchmarks.compare import check_runtime, comparison
from tests.benchmarks.measures import CpuTimes, percentile, table
from tests.benchmarks.pairs import uniform, zipf
from tests.benchmarks.peers.accounts import Accounts, NoAccount
from tests.benchmarks.turns import Turn, figures_of, ratio


def turn(answers: int, *, seconds: float = 1.0, failures: tuple[str, ...] = ()) -> Turn:
    return Turn(seconds, [float(number + 1) for number in range(answers)], failures, CpuTimes(0.1, 0.4, 0.2))


def test_uniform_pairs_are_of_two_accounts_and_leave_none_out() -> None:
    drawn = uniform(50)
    assert all(source != target for source, target in drawn)
    counts = Counter(source for source, _ in drawn)
    assert sorted(counts) == list(range(50))
    assert max(counts.values()) < 2 * min(counts.values())
    assert zipf(50, 0) == drawn


def test_zipf_pairs_have_the_frequencies_of_their_exponent() -> None:
    drawn = zipf(1000, 1.5)
    assert all(source != target for source, target in drawn)
    counts = Counter(account for pair in drawn for account in pair)
    assert counts[0] / counts[3] < 4**1.5  # pairs of equal ones, mostly of the first account, are drawn again
    assert counts[3] / counts[15] == pytest.approx(4**1.5, rel=0.15)
    assert {account for account, _ in counts.most_common(5)} == set(range(5))


def test_a_percentile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0, 0.2, 0.21, 0.5, 0.99, 1)] == [1, 1, 2, 3, 5, 5]


def test_a_rate_is_the_median_of_the_turns() -> None:
    row = figures_of([turn(10), turn(40, seconds=2.0), turn(90, failures=("no",))])
    assert (row["per s"], row["from"], row["to"]) == (20, 10, 90)
    assert (row["p50 ms"], row["max ms"], row["failed"]) == (30, 90, 1)
    assert (row["CPU server %"], row["CPU workers %"], row["CPU client %"]) == (30, 15, 8)
    assert row["server ms each"] == pytest.approx(1000 * 1.2 / 140, abs=0.001)


def test_a_ratio_is_of_turns_that_were_side_by_side() -> None:
    """The machine became slower, for both: the ratio of their medians would be 1.5."""
    mine, theirs = [turn(60), turn(30), turn(20)], [turn(40), turn(20), turn(10)]
    assert ratio(mine, theirs) == 1.5
    assert ratio([turn(60), turn(30), turn(20)], [turn(30), turn(30), turn(20)]) == 1


def test_a_table_has_its_columns_under_each_other() -> None:
    lines = table({"first": {"per s": 1000, "p50 ms": 0.5}, "second one": {"per s": 7, "more": "x"}})
    assert lines == [
        "              per s  p50 ms  more",
        "  first        1000    0.50",
        "  second one      7             x",
    ]


def test_the_peers_transfer_moves_money_and_is_whole(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.db", 10, 1000)
    accounts.transfer(3, 4, 100)
    accounts.transfer(3, 5, 1)
    with pytest.raises(NoAccount, match="no account 10"):
        accounts.transfer(3, 10, 50)
    assert [accounts._balance(number) for number in (3, 4, 5, 6)] == [899, 1100, 1001, 1000]
    assert accounts.total() == 10_000
    accounts.close()


def test_the_peer_syncs_every_commit(tmp_path: Path) -> None:
    """Or it would not be beside evolute, which does."""
    accounts = Accounts(tmp_path / "accounts.db", 1, 0)
    settings = [
        accounts._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    ]
    assert settings == ["wal", 2]
    accounts.close()


def test_a_comparison_has_a_row_for_every_number() -> None:
    theirs = [{"per s": 100, "failed": 0, "title": "x", "more": 1}, {"per s": 50, "failed": 0, "title": "x", "more": 1}]
    ours = [{"per s": 150, "failed": 2, "title": "x", "more": "?"}, {"per s": 100, "failed": 0, "title": "x", "new": 1}]
    assert comparison("main", theirs, ours) == {
        "per s": {"main": 75, "this tree": 125, "ratio": 1.75},
        "failed": {"main": 0, "this tree": 1},
    }


def test_a_comparison_is_with_the_tree_it_names(tmp_path: Path) -> None:
    (tmp_path / "runtime" / "evolute").mkdir(parents=True)
    with pytest.raises(AssertionError, match="would run instead"):
        check_runtime(tmp_path)
    (tmp_path / "runtime" / "evolute" / "__init__.py").touch()
    check_runtime(tmp_path)
