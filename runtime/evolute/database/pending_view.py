"""What has been validated and is not durable yet, for a transaction that builds on it.

    store  ts ≤ 100        pending  101  102  103                a transaction that begins now
    ├──────────────────────┼── with the disk ──┼─ forming ─┤     on the store           begin_ts 100, loses to 101…103
                                                               on the store + view    begin_ts 103

Where many want the same rows, each would lose to the one before it until that one is durable, and a row could change
once in every sync of the disk. With the view they follow each other as fast as they run. Nothing of it is told to
anybody before it is durable: the commit of such a transaction comes after those it has seen, and if one of these is
refused by the disk, `withdrawals` no longer agrees and the transaction is run again.

A worker is shown each commit once, with the first request that needs it, and remembers it until it is durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

Puts: TypeAlias = Mapping[bytes, bytes | None]
"""What a commit changes; None deletes."""


class Mark(NamedTuple):
    """How far somebody has been shown what is pending."""

    withdrawals: int
    ts: int


class PendingView(NamedTuple):
    """The pending commits of one moment, in the order of their timestamps: `commits` has (commit_ts, puts) of each.

    Everything up to `durable_ts` is in the store. `withdrawals` counts the batches that the disk had refused by then.
    """

    withdrawals: int
    durable_ts: int
    commits: tuple[tuple[int, Puts], ...] = ()

    def to_wire(self) -> tuple[int, int, tuple[tuple[int, Puts], ...]]:
        """Plain data that `marshal` takes, as long as the puts are dicts."""
        return self.withdrawals, self.durable_ts, self.commits

    @property
    def mark(self) -> Mark:
        """Of who has been shown all of it."""
        return Mark(self.withdrawals, self.commits[-1][0] if self.commits else self.durable_ts)

    def mark_after(self, shown: Mark) -> Mark:
        """Of who is shown this as the part that was new to him, with the mark that he had before."""
        return self.mark if self.commits or shown.withdrawals != self.withdrawals else shown

    def joined(self, part: PendingView) -> PendingView:
        """This one, shown before, and the part that was new: without what is durable by now, or withdrawn."""
        if part.withdrawals != self.withdrawals:
            return part
        kept = tuple(commit for commit in self.commits if commit[0] > part.durable_ts)
        return part._replace(commits=kept + part.commits)

    def after(self, ts: int) -> tuple[int, dict[bytes, bytes | None]]:
        """What is later than `ts`: the last timestamp, or `ts` if there is nothing, and all puts as one."""
        merged: dict[bytes, bytes | None] = {}
        for commit_ts, puts in self.commits:
            if commit_ts > ts:
                merged.update(puts)
                ts = commit_ts
        return ts, merged


NOTHING_SHOWN = PendingView(0, 0)


class Pending(Protocol):
    """A commit that has been validated and is not durable."""

    commit_ts: int

    def puts(self) -> Puts: ...


def new_part(shown: Mark, withdrawals: int, durable_ts: int, newest_first: Iterable[Pending]) -> PendingView:
    """What of that which is pending somebody with this mark has not been shown; none of the rest is looked at."""
    after_ts = shown.ts if shown.withdrawals == withdrawals else 0
    commits: list[tuple[int, Puts]] = []
    for commit in newest_first:
        if commit.commit_ts <= after_ts:
            break
        commits.append((commit.commit_ts, commit.puts()))
    return PendingView(withdrawals, durable_ts, tuple(reversed(commits)))
