"""The one place that retries: a transaction runs until its commit stands.

    attempt on a snapshot ──► validated ──► durable, published
          ▲                       │
          ╰── take a turn in the line of the key ◄── Conflict

A loser is run again on what is pending too, the winner's commit included, and the next in its line as soon as it has
been validated: so those who want the same row follow each other as fast as they run, in one sync of the disk. One whose
attempts cannot see what is pending waits until the winner is published. One that keeps losing runs serially in the end:
the committer holds all others for the length of one run. So nothing fails because of contention.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from evolute.clock import monotonic_ns
from evolute.database.chain import Link
from evolute.database.database import Database
from evolute.database.fill import Fill
from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, Contended, OutOfRetention, Withdrawn
from evolute.execution.contention import ContentionLines, Turn
from evolute.execution.crowd import Crowd
from evolute.limits import Limits

T = TypeVar("T")
OnCommit = Callable[[int], None]


class Mode(NamedTuple):
    """How an attempt is made. `urgent`: all others wait for it. `fresh`: it is to see what is pending."""

    urgent: bool = False
    fresh: bool = False


FIRST, FRESH, URGENT = Mode(), Mode(fresh=True), Mode(urgent=True)


class Attempted(NamedTuple, Generic[T]):
    """One run on one snapshot. Without a write set there is nothing to commit, and the log has published the snapshot;
    else it may be one with pending commits, and `seen` is the snapshot's.
    """

    value: T
    begin_ts: int
    read_set: ReadSet
    write_set: WriteSet | None
    fill: Fill | None = None
    seen: int | None = None
    link: Link | None = None


class Attempts:
    """Runs transactions of one database, for one executor. `width` is `Crowd`'s."""

    def __init__(self, database: Database, limits: Limits, width: int) -> None:
        self._database = database
        self._limits = limits
        self._lines = ContentionLines()
        self._crowd = Crowd(width, limits)
        self.conflicts = self._running = 0
        self.serial_runs = 0

    @property
    def in_line(self) -> int:
        """How many wait for their turn on a contended key, or to run a function whose runs get in each other's way."""
        return self._lines.waiting + self._crowd.waiting

    async def until_committed(
        self,
        attempt: Callable[[Mode], Awaitable[Attempted[T]]],
        on_commit: OnCommit | None,
        *,
        path: str | None = None,
    ) -> tuple[T, int]:
        """Makes attempts until the commit of one stands. Returns its value and timestamp.

        `on_commit(commit_ts)` is called in the turn of the event loop that publishes it. `path` is the function's of a
        mutation, whose attempts can be `fresh`. Raises Contended if a serial run does not end within `serial_ms_max`.
        """
        turn: Turn | None = None
        lost_at = b""
        try:
            for _ in range(self._limits.attempts_before_serial):
                try:
                    return await self._attempt(attempt, on_commit, path, turn)
                except (OutOfRetention, Withdrawn):
                    # It began before the oldest commit that the log remembers: too slow once, not wrong. Or it was
                    # founded on one that the disk has refused.
                    continue
                except Conflict as conflict:
                    self.conflicts += 1
                    lost_at = conflict.key
                    if turn is not None:
                        turn.leave()
                    lost_ns = monotonic_ns()
                    turn = await self._lines.take_turn(conflict.key)
                    committer = self._database.committer
                    if path is None or not committer.has_view:
                        await self._database.log.wait_published(committer.last_pending_ts)
                    self._database.stages.line.add(monotonic_ns() - lost_ns)
        finally:
            if turn is not None:
                turn.leave()
        lost_ns = monotonic_ns()
        async with self._database.committer.serially():
            self._database.stages.line.add(monotonic_ns() - lost_ns)
            self.serial_runs += 1
            try:
                # All commits wait for this run, those of a deployment too that might bring workers that start again.
                async with asyncio.timeout(self._limits.serial_ms_max / 1000):
                    run = await attempt(URGENT)
            except TimeoutError:
                raise Contended(self._contended_text(lost_at)) from None
            return run.value, await self._commit(run, on_commit, serial=True)

    async def _attempt(
        self,
        attempt: Callable[[Mode], Awaitable[Attempted[T]]],
        on_commit: OnCommit | None,
        path: str | None,
        turn: Turn | None,
    ) -> tuple[T, int]:
        """One attempt. Its place and its turn are free for the next as soon as it has been validated."""
        if path is None:
            run = await attempt(FIRST)
            return run.value, await self._commit(run, on_commit)
        place = self._crowd.enter_at_once(path)
        if place is None:
            came_ns = monotonic_ns()
            place = await self._crowd.enter(path, has_lost=turn is not None)
            self._database.stages.line.add(monotonic_ns() - came_ns)

        def on_validated(follows: bool) -> None:
            self._crowd.note(path, lost=follows)
            place.leave()
            if turn is not None:
                turn.leave()

        try:
            self._running += 1
            try:
                run = await attempt(FRESH if turn is not None or place.is_narrow else FIRST)
            finally:
                self._running -= 1
            return run.value, await self._commit(run, on_commit, on_validated=on_validated)
        except Conflict:
            self._crowd.note(path, lost=True)
            raise
        finally:
            place.leave()

    def _contended_text(self, key: bytes) -> str:
        name = self._database.table_of(key)
        table = "some table" if name is None else f'the "{name}" table'
        return (
            f"Documents read from or written to {table} changed while this mutation was being run and on every "
            f"subsequent retry. Run alone, with all others waiting, it did not end within {self._limits.serial_ms_max} "
            f"ms; the setting is serial_ms_max."
        )

    async def _commit(
        self,
        run: Attempted[T],
        on_commit: OnCommit | None,
        *,
        serial: bool = False,
        on_validated: Callable[[bool], None] | None = None,
    ) -> int:
        if not run.write_set:
            return run.begin_ts
        return await self._database.committer.commit(
            run.begin_ts,
            run.read_set,
            run.write_set,
            on_published=on_commit,
            serial=serial,
            fill=run.fill,
            seen=run.seen,
            link=run.link,
            on_validated=on_validated,
            others_running=self._running,
        )
