"""A database of its own for a test: opened on a folder, used in plain calls, and checked when the test is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from evolute.clock import NS_PER_MS, ManualClock
from evolute.database.database import Database
from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.limits import MIB, Limits
from evolute.system import tables
from evolute.system.check import faults
from evolute.values.schema import Schema

T = TypeVar("T")

STEP_NS = NS_PER_MS
LIMITS = Limits(map_bytes_max=64 * MIB)


class OpenStore:
    """Transactions on a real engine with a real committer. The clock goes on by a step for each of them."""

    def __init__(self, folder: Path, limits: Limits = LIMITS) -> None:
        self.clock = ManualClock()
        self.limits = limits
        self._folder = folder
        self._snapshots: list[Snapshot] = []
        self._attempts = 0
        self._runner = asyncio.Runner()
        self.database = self._runner.run(self._opened())
        self.run(tables.bootstrap)

    async def _opened(self) -> Database:
        return Database(self._folder / "store", self.clock, self.limits, sync=False)

    def begin(
        self,
        *,
        schema: Schema | None = None,
        writable: bool = True,
        limits: Limits | None = None,
        seed: bytes | None = None,
    ) -> Transaction:
        """On a snapshot of everything committed so far, which is closed with the store."""
        self._attempts += 1
        self.clock.set_ns(self.clock.now_ns() + STEP_NS)
        self._snapshots.append(self.database.snapshot())
        return Transaction(
            self._snapshots[-1],
            limits=limits or self.limits,
            now_ns=self.clock.now_ns(),
            seed=seed or self._attempts.to_bytes(32, "big"),
            writable=writable,
            schema=schema,
        )

    def commit(self, transaction: Transaction) -> int:
        """The timestamp of the commit. Raises Conflict, and the transaction's poison."""
        (commit_ts,) = self.commit_together([transaction])
        if isinstance(commit_ts, BaseException):
            raise commit_ts
        return commit_ts

    def commit_together(self, transactions: Sequence[Transaction]) -> list[int | BaseException]:
        """All of them arrive in one turn of the event loop."""
        sets = [(one.begin_ts, one.read_set, one.write_set()) for one in transactions]

        async def commits() -> list[int | BaseException]:
            committer = self.database.committer
            return await asyncio.gather(*(committer.commit(*one) for one in sets), return_exceptions=True)

        return self._runner.run(commits())

    def run(self, function: Callable[[Transaction], T], *, schema: Schema | None = None) -> T:
        """A transaction from beginning to end."""
        transaction = self.begin(schema=schema)
        value = function(transaction)
        self.commit(transaction)
        return value

    def check(self) -> list[str]:
        return self.database.check(faults)

    def close(self) -> None:
        for snapshot in self._snapshots:
            snapshot.close()
        self._runner.run(self.database.close())
        self._runner.close()
