"""The one place that retries: a transaction runs until its commit stands.

    attempt on a snapshot ──► commit ──► durable, published
          ▲                     │
          ╰── take a turn in the line of the key, wait for the winner ◄── Conflict

One that keeps losing runs serially in the end: the committer holds all others for the length of one run. So nothing
fails because of contention.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from evolute.database.database import Database
from evolute.database.fill import Fill
from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, Contended, OutOfRetention
from evolute.execution.contention import ContentionLines, Turn
from evolute.limits import Limits

T = TypeVar("T")
OnCommit = Callable[[int], None]


class Attempted(NamedTuple, Generic[T]):
    """One run on one snapshot, which the log has published. Without a write set there is nothing to commit."""

    value: T
    begin_ts: int
    read_set: ReadSet
    write_set: WriteSet | None
    fill: Fill | None = None


class Attempts:
    """Runs transactions of one database, for one executor."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._lines = ContentionLines()
        self.conflicts = 0
        self.serial_runs = 0

    @property
    def in_line(self) -> int:
        """How many wait for their turn on a contended key."""
        return self._lines.waiting

    async def until_committed(
        self, attempt: Callable[[bool], Awaitable[Attempted[T]]], on_commit: OnCommit | None
    ) -> tuple[T, int]:
        """Runs `attempt(urgent)` until its commit stands. Returns its value and timestamp.

        `on_commit(commit_ts)` is called in the turn of the event loop that publishes it. Raises Contended if a serial
        run does not end within `serial_ms_max`.
        """
        turn: Turn | None = None
        lost_at = b""
        try:
            for _ in range(self._limits.attempts_before_serial):
                run = await attempt(False)
                try:
                    return run.value, await self._commit(run, on_commit, serial=False)
                except OutOfRetention:
                    continue  # It began before the oldest commit that the log remembers: too slow once, not wrong.
                except Conflict as conflict:
                    self.conflicts += 1
                    lost_at = conflict.key
                    if turn is not None:
                        turn.leave()
                    turn = await self._lines.take_turn(conflict.key)
                    await self._database.log.wait_published(conflict.commit_ts)
        finally:
            if turn is not None:
                turn.leave()
        async with self._database.committer.serially():
            self.serial_runs += 1
            try:
                # All commits wait for this run, those of a deployment too that might bring workers that start again.
                async with asyncio.timeout(self._limits.serial_ms_max / 1000):
                    run = await attempt(True)
            except TimeoutError:
                raise Contended(self._contended_text(lost_at)) from None
            return run.value, await self._commit(run, on_commit, serial=True)

    def _contended_text(self, key: bytes) -> str:
        name = self._database.table_of(key)
        table = "some table" if name is None else f'the "{name}" table'
        return (
            f"Documents read from or written to {table} changed while this mutation was being run and on every "
            f"subsequent retry. Run alone, with all others waiting, it did not end within {self._limits.serial_ms_max} "
            f"ms; the setting is serial_ms_max."
        )

    async def _commit(self, run: Attempted[T], on_commit: OnCommit | None, *, serial: bool) -> int:
        if not run.write_set:
            return run.begin_ts
        return await self._database.committer.commit(
            run.begin_ts, run.read_set, run.write_set, on_published=on_commit, serial=serial, fill=run.fill
        )
