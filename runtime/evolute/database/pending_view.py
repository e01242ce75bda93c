"""What has been validated and is not durable yet, for a transaction that builds on it.

    store  ts ≤ 100        pending  101  102  103                a transaction that begins now
    ├──────────────────────┼── with the disk ──┼─ forming ─┤     on the store           begin_ts 100, loses to 101…103
                                                               on the store + view    begin_ts 103

Where many want the same rows, each would lose to the one before it until that one is durable, and a row could change
once in every sync of the disk. With the view they follow each other as fast as they run. Nothing of it is told to
anybody before it is durable: the commit of such a transaction comes after those it has seen, and if one of these is
refused by the disk, `withdrawals` no longer agrees and the transaction is run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

Puts: TypeAlias = Mapping[bytes, bytes | None]
"""What a commit changes; None deletes."""


class PendingView(NamedTuple):
    """The pending commits of one moment, in the order of their timestamps: `commits` has (commit_ts, puts) of each.

    `withdrawals` counts the batches that the disk had refused by then.
    """

    withdrawals: int
    commits: tuple[tuple[int, Puts], ...]

    def to_wire(self) -> tuple[int, tuple[tuple[int, dict[bytes, bytes | None]], ...]]:
        """Plain data that `marshal` takes."""
        return self.withdrawals, tuple((commit_ts, dict(puts)) for commit_ts, puts in self.commits)

    def after(self, ts: int) -> tuple[int, dict[bytes, bytes | None]]:
        """What is later than `ts`: the last timestamp, or `ts` if there is nothing, and all puts as one."""
        merged: dict[bytes, bytes | None] = {}
        for commit_ts, puts in self.commits:
            if commit_ts > ts:
                merged.update(puts)
                ts = commit_ts
        return ts, merged
