"""The write log: the only record of what changed lately, and the clock by which everything else is told.

A commit passes through it twice, as *pending* when it has been validated and as *published* when it is durable:

    commit_ts          100    101    102 │  103    104 │  105
                      ├──── published ───┼── pending ──┼─ pending ─►
                      a batch that        the batch     the batch
                      is durable          being synced  being formed
                                         ▲
                                   published_ts

    append(105)        validated: from now on whoever has read its keys and began earlier is in conflict
    publish(104)       103 and 104 became durable together: what was read of them may be shown, waiters wake
    withdraw(104)      ... or their batch was refused by the disk: 103 and 104 never happened

Commits of one batch become durable together or not at all, so they share one run of touched keys (see `conflict`). A
published run is merged into its neighbour while that is no larger, so that the runs double in size as they grow older:

    [ 8192 keys ][ 8192 keys ][ 2048 ][ 512 ][ 64 ][ 8 ]│[ pending ][ pending ]
    ▲                                                   ▲
    floor_ts                                            published_ts

A transaction that began a moment ago is therefore checked against the few small runs at the right end, a slow one
against few large ones, and every key is merged at most a handful of times. Forgetting is dropping the leftmost run;
`floor_ts` then moves up, and whoever began before it is told OutOfRetention. Subscriptions need no retention: they
advance with every publication.

The log has two doors: `LogReader` asks and waits; `LogWriter` belongs to the committer. Both are used on the event
loop's thread only. The log reads no clock: its time is that of the commits.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from evolute.clock import NS_PER_MS
from evolute.database.conflict import Touch, TouchedKeys, first_conflict
from evolute.database.read_set import ReadSet
from evolute.errors import OutOfRetention
from evolute.limits import Limits


@dataclass(frozen=True)
class LogStatistics:
    """The write log at one moment."""

    published_ts: int
    floor_ts: int
    """Questions about times before it are OutOfRetention."""
    keys: int
    """Touched keys that are remembered, counted once per run; bounded by `log_keys_max`."""
    runs: int
    pending_commits: int
    waiters: int
    """Callbacks and tasks that wait for a timestamp."""


class _Log:
    """What the two doors share."""

    def __init__(self, last_ts: int, limits: Limits) -> None:
        self.limits = limits
        self.published_ts = last_ts
        self.settled_ts = last_ts
        self.floor_ts = last_ts
        self.published: deque[TouchedKeys] = deque()
        self.pending: deque[TouchedKeys] = deque()
        self.keys = 0
        self.waiters: list[tuple[int, int, Callable[[], object]]] = []
        self.order = itertools.count()

    def newest_first(self) -> Iterator[TouchedKeys]:
        return itertools.chain(reversed(self.pending), reversed(self.published))


class LogReader:
    """Answers what was touched, and waits for publication."""

    def __init__(self, log: _Log) -> None:
        self._log = log

    @property
    def published_ts(self) -> int:
        """The last commit that is durable and known to everybody. Nothing newer may be answered or cached."""
        return self._log.published_ts

    def first_touch(self, read_set: ReadSet, after_ts: int) -> Touch | None:
        """A commit later than `after_ts`, published *or pending*, that touched `read_set`; None if there is none.

        This is the question of isolation. Raises OutOfRetention if `after_ts` is older than what is remembered.
        """
        self._require_retained(after_ts)
        return first_conflict(read_set, after_ts, self._log.newest_first())

    def first_published_touch(self, read_set: ReadSet, after_ts: int) -> Touch | None:
        """The same for published commits alone: the question of reactivity, which must not see what may yet fail."""
        if after_ts >= self._log.published_ts:
            return None
        self._require_retained(after_ts)
        return first_conflict(read_set, after_ts, reversed(self._log.published))

    def touched(self, start: bytes, end: bytes, after_ts: int) -> set[bytes]:
        """The keys of an interval that commits later than `after_ts` touched, published or pending.

        Raises OutOfRetention if `after_ts` is older than what is remembered.
        """
        self._require_retained(after_ts)
        found: set[bytes] = set()
        for run in self._log.newest_first():
            if run.last_ts <= after_ts:
                break
            found.update(run.keys_in(start, end, after_ts))
        return found

    async def wait_published(self, ts: int) -> None:
        """Returns when every commit up to `ts` is settled, which for a commit that is in the store means published.

        A commit whose batch was refused by the disk is settled by its withdrawal, so that a transaction that lost
        against it does not wait for ever. Waits long for a `ts` beyond every commit that was begun.
        """
        if ts <= self._log.settled_ts:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.when_published(ts, functools.partial(_set_done, settled))
        await settled

    def when_published(self, ts: int, callback: Callable[[], object]) -> None:
        """Calls `callback` in the event-loop turn in which `wait_published(ts)` is over, or at once if it is.

        In that turn it comes after the replies and the invalidations of that commit. It must not raise.
        """
        if ts <= self._log.settled_ts:
            callback()
        else:
            heapq.heappush(self._log.waiters, (ts, next(self._log.order), callback))

    def statistics(self) -> LogStatistics:
        log = self._log
        return LogStatistics(
            published_ts=log.published_ts,
            floor_ts=log.floor_ts,
            keys=log.keys,
            runs=len(log.published) + len(log.pending),
            pending_commits=sum(run.commits for run in log.pending),
            waiters=len(log.waiters),
        )

    def _require_retained(self, after_ts: int) -> None:
        if after_ts < self._log.floor_ts:
            raise OutOfRetention(
                f"The transaction began at {after_ts}, but the write log remembers only what happened after "
                f"{self._log.floor_ts} (log_retention_ms={self._log.limits.log_retention_ms}, "
                f"log_keys_max={self._log.limits.log_keys_max}). Run it again."
            )


class LogWriter:
    """Appends, publishes and withdraws commits. Only the committer has one."""

    def __init__(self, log: _Log) -> None:
        self._log = log

    def begin_batch(self) -> None:
        """What is appended from now on becomes durable together, and after everything appended before."""
        self._log.pending.append(TouchedKeys())

    def append(self, commit_ts: int, keys: Collection[bytes]) -> None:
        """A validated commit, later than all others, becomes pending in the batch that was begun last."""
        assert commit_ts > self._log.settled_ts
        self._log.pending[-1].add(commit_ts, keys)

    def publish(self, last_ts: int) -> None:
        """The oldest pending batch, which ends at `last_ts`, is durable. `wake` tells the waiters."""
        log = self._log
        run = self._take_oldest_batch(last_ts)
        log.published_ts = log.settled_ts = last_ts
        log.keys += len(run)
        while log.published and len(log.published[-1]) <= len(run):
            if len(log.published[-1]) + len(run) > log.limits.log_run_keys_max:
                break
            older = log.published.pop()
            log.keys -= len(older) + len(run)
            older.absorb(run)
            log.keys += len(older)
            run = older
        log.published.append(run)
        self._forget()

    def withdraw(self, last_ts: int) -> None:
        """The oldest pending batch, which ends at `last_ts`, was not written and never will be.

        Later pending commits stand: they were checked against more than has happened, never against less.
        """
        self._take_oldest_batch(last_ts)
        self._log.settled_ts = last_ts

    def wake(self) -> None:
        """Calls, in order of their timestamps, the waiters of everything that is settled."""
        log = self._log
        while log.waiters and log.waiters[0][0] <= log.settled_ts:
            heapq.heappop(log.waiters)[2]()

    def _take_oldest_batch(self, last_ts: int) -> TouchedKeys:
        run = self._log.pending.popleft()
        assert run.last_ts == last_ts, "batches are settled whole and in order"
        return run

    def _forget(self) -> None:
        """Drops the oldest runs that are past the retention, and those that are too many."""
        log = self._log
        expired_ts = log.published_ts - log.limits.log_retention_ms * NS_PER_MS
        while log.published and (log.published[0].last_ts < expired_ts or log.keys > log.limits.log_keys_max):
            oldest = log.published.popleft()
            log.keys -= len(oldest)
            log.floor_ts = oldest.last_ts


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():  # its waiter may have been cancelled
        future.set_result(None)


def new_write_log(last_ts: int, limits: Limits) -> tuple[LogReader, LogWriter]:
    """A log that knows nothing of what happened up to `last_ts`, the last commit of the store."""
    log = _Log(last_ts, limits)
    return LogReader(log), LogWriter(log)
