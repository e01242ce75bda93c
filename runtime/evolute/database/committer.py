"""The committer: decides which transactions happen, in which order, and makes them last.

It is the only part that writes, and it works in two threads. The event loop decides and tells; one writer thread waits
for the disk:

    event loop    ─ a arrives ─ b arrives ─╮─ c arrives ─ d arrives ─╭─ publish a, b ─ e arrives ─ ···
                    validate    validate   │  validate    validate   │  answer         validate
                    append      append     │  append      append     │  invalidate     append
                                           │                         │  wake
    writer thread                          ╰─ put ─ commit ─ sync ───┴─ put ─ commit ─ sync ─ ···
                                              batch 1: a, b             batch 2: c, d

**Arrival.** A transaction is validated in the turn in which it arrives, against everything published *and pending*: a
touch of its read set later than its `begin_ts` is a Conflict. If it passes, it gets the next timestamp and is pending:
from that moment others lose against it. So validation order is timestamp order is write order, and the result is as if
the transactions had run one after the other.

**Batch.** While the disk syncs one batch the next one forms: one sync for many commits. Where many are being run it
waits for more of them (`departure`). Their puts are merged in timestamp order into one storage write, with LAST_TS.

**Publication.** When a batch is durable, one event-loop turn publishes it in the log, tells those who committed,
breaks subscriptions and wakes waiters, in this order, and no task runs in between. Nothing is told before.

**The view.** A transaction may be run on what is pending as well (`pending_view`). It comes after the commits that it
has seen, in the same batch or a later one, so it is not durable before they are.

**Failure.** A batch that was certainly not written is withdrawn: its members fail with the disk's error before the next
batch starts. Those after it that have seen pending commits are withdrawn too, and are run again; the others stand, for
they were validated against more than has happened. When it is not
certain, nothing more is written, and `on_fate_unknown` has to stop the process: what the store holds after the restart
is what happened.

**Serial turns.** A call that has lost too often runs inside `serially()`. New arrivals are held meanwhile, so that
nobody can overtake it; they are validated, in order, when it is over.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from evolute import failpoints
from evolute.clock import Clock
from evolute.database.batch_writer import BatchWriter
from evolute.database.chain import Link
from evolute.database.commit_batch import Arrival, CommitBatch
from evolute.database.committer_statistics import CommitterStatistics
from evolute.database.departure import Departure
from evolute.database.fill import Fill
from evolute.database.pending_view import NOTHING_SHOWN, Mark, PendingView, new_part
from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscriptions
from evolute.database.validation import Validation
from evolute.database.write_log import LogReader, LogWriter
from evolute.database.write_rate import WriteRate
from evolute.database.write_set import WriteSet
from evolute.errors import (
    FateUnknown,
    OutOfRetention,
    Overloaded,
    ShuttingDown,
    StorageFailed,
    StorageFull,
    TooManyWrites,
    Withdrawn,
)
from evolute.limits import Limits
from evolute.stages import Stages
from evolute.storage.engine import Engine


class Committer:
    """The one place where transactions become commits.

    Make it while the event loop runs, and use it on that loop's thread. `log` and `log_writer` are the two doors of one
    log that begins at the store's LAST_TS. `on_fate_unknown` is called at most once, after every waiting commit has
    failed with FateUnknown; it has to stop the process. `close` it before the engine.
    """

    def __init__(
        self,
        engine: Engine,
        log: LogReader,
        log_writer: LogWriter,
        subscriptions: Subscriptions,
        *,
        clock: Clock,
        limits: Limits,
        on_fate_unknown: Callable[[BaseException], None],
        stages: Stages | None = None,
    ) -> None:
        self._log = log
        self._log_writer = log_writer
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._on_fate_unknown = on_fate_unknown
        self._stages = stages or Stages()
        self._loop = asyncio.get_running_loop()
        self._last_ts = log.published_ts
        self._validation = Validation(log)

        self._forming: deque[CommitBatch] = deque()
        self._writing: CommitBatch | None = None
        self._departure = Departure(self._waiting_length, self._write_next)
        self._idle = asyncio.Event()
        self._idle.set()
        self._serial_turn = asyncio.Lock()
        self._is_serial = False
        self._held: deque[Arrival] = deque()
        self._is_closing = False
        self._fate_unknown: FateUnknown | None = None

        self._write_rate = WriteRate(limits.write_bytes_per_s_max, clock.now_ns())
        self._queue_length = self._queue_bytes = 0
        self._commits = self._batches = self._failed_batches = 0

        self._writer = BatchWriter(engine, self._settle)

    # --- Arrival ------------------------------------------------------------------------------------------------

    async def commit(
        self,
        begin_ts: int,
        read_set: ReadSet,
        write_set: WriteSet,
        *,
        on_published: Callable[[int], None] | None = None,
        serial: bool = False,
        fill: Fill | None = None,
        seen: int | None = None,
        on_validated: Callable[[bool], None] | None = None,
        link: Link | None = None,
        others_running: int = 0,
    ) -> int:
        """Commits a transaction; returns its timestamp once it is durable and published.

        It is validated before the first await, unless a serial turn holds arrivals; `serial` is for the call whose
        turn it is. `on_published(commit_ts)` is called in the turn of publication, before any task goes on; it must be
        quick and must not raise. A transaction that writes nothing is a reader: it is over, at its own `begin_ts`,
        when that is published. What of a `fill` is still true is written with the rest. `seen` is the snapshot's, of a
        transaction that was run on pending commits; `link` is its place in a chain. `on_validated` is called in the
        turn in which it becomes pending, with whether it would be in conflict but for what it has seen of its chain.
        `others_running` counts those that are still being run, and may want to commit soon.

        Raises Conflict; OutOfRetention; Withdrawn, for what it has seen never happened; Overloaded, TooManyWrites,
        ShuttingDown (nothing happened); StorageFull, StorageFailed (it was certainly not written); FateUnknown. If the
        caller is cancelled the transaction may still be committed.
        """
        self._require_running()
        assert len(read_set) <= self._limits.read_set_intervals_max
        assert self._is_serial or not serial, "serial commits belong inside serially()"
        if not write_set:
            await self._log.wait_published(begin_ts)
            self.require_standing(seen)
            if on_published is not None:
                on_published(begin_ts)
            return begin_ts
        arrival = Arrival(
            begin_ts, read_set, write_set, on_published, self._loop.create_future(), fill, seen, on_validated, link
        )
        if not serial:
            try:
                self._require_room(arrival)
            except (Overloaded, TooManyWrites):
                arrival.refuse()
                raise
        self._queue_length += 1
        self._queue_bytes += arrival.bytes
        if self._is_serial and not serial:
            self._held.append(arrival)
        else:
            self._departure.running = others_running
            self._admit(arrival)
        return await arrival.done

    @property
    def last_pending_ts(self) -> int:
        """The timestamp of the last transaction that was validated."""
        return self._last_ts

    @property
    def has_view(self) -> bool:
        """Whether a transaction can be run on what is pending: whether that is not too much."""
        bytes_max = self._limits.pending_view_bytes_max
        return self._queue_bytes <= bytes_max or sum(batch.bytes for batch in self._under_way()) <= bytes_max

    def pending_view(self, shown: Mark = NOTHING_SHOWN.mark) -> PendingView | None:
        """What is pending now and new to who has this mark; None if all that is pending is too much to be shown."""
        if not self.has_view:
            return None
        newest_first = (arrival for batch in reversed(self._under_way()) for arrival in reversed(batch.arrivals))
        return new_part(shown, self._validation.withdrawals, self._log.published_ts, newest_first)

    def require_standing(self, seen: int | None) -> None:
        """Raises Withdrawn if a commit may have been withdrawn since a snapshot with this `seen` was made."""
        self._validation.require_standing(seen)

    def require_seen(self, read_set: ReadSet, begin_ts: int, link: Link) -> int:
        """See `Validation.require_seen`."""
        return self._validation.require_seen(read_set, begin_ts, link)

    @asynccontextmanager
    async def serially(self) -> AsyncIterator[None]:
        """A serial turn: entered when nothing is under way any more; `commit(serial=True)` inside it comes first.

        What arrives meanwhile is held, and validated in order in the event-loop turn in which this is left. Turns are
        taken one at a time, first come first served. Raises ShuttingDown, FateUnknown.
        """
        self._require_running()
        async with self._serial_turn:
            self._is_serial = True
            self._departure.hurry()
            try:
                await self._idle.wait()
                self._require_running()
                yield
            finally:
                self._is_serial = False
                self._release_held()

    async def close(self) -> None:
        """Refuses what arrives from now on, finishes what is under way, and ends the writer thread. Idempotent."""
        self._is_closing = True
        self._departure.hurry()
        async with self._serial_turn:
            await self._idle.wait()
        self._writer.close()

    def statistics(self) -> CommitterStatistics:
        return CommitterStatistics(
            commits=self._commits,
            conflicts=self._validation.conflicts,
            batches=self._batches,
            failed_batches=self._failed_batches,
            withdrawn=self._validation.withdrawn,
            queue_length=self._queue_length,
            queue_bytes=self._queue_bytes,
            held=len(self._held),
        )

    def _under_way(self) -> list[CommitBatch]:
        return [*(() if self._writing is None else (self._writing,)), *self._forming]

    def _require_running(self) -> None:
        if self._fate_unknown is not None:
            raise copy.copy(self._fate_unknown)
        if self._is_closing:
            raise ShuttingDown

    def _require_room(self, arrival: Arrival) -> None:
        limits = self._limits
        if self._queue_length >= limits.commit_queue_length_max:
            raise Overloaded(f"{self._queue_length} commits are under way, as many as commit_queue_length_max allows.")
        if self._queue_bytes + arrival.bytes > limits.commit_queue_bytes_max and self._queue_length > 0:
            raise Overloaded(
                f"Commits of {self._queue_bytes} bytes are under way; {arrival.bytes} more would be more than "
                f"commit_queue_bytes_max={limits.commit_queue_bytes_max}."
            )
        self._write_rate.take(arrival.bytes, self._clock.now_ns())

    def _release_held(self) -> None:
        while self._held:
            arrival = self._held.popleft()
            if arrival.done.cancelled():
                self._leave(1, arrival.bytes)
                arrival.refuse()
            else:
                self._admit(arrival)

    def _admit(self, arrival: Arrival) -> None:
        """Validates. A transaction that passes becomes pending, in the batch that is forming."""
        error = self._fate_unknown or self._validation.error_of(arrival)
        if error is not None:
            self._leave(1, arrival.bytes)
            arrival.refuse()
            arrival.fail(error)
            return
        if arrival.fill is not None:
            self._settle_fill(arrival.fill)
        failpoints.hit(failpoints.AFTER_VALIDATION)
        self._last_ts = arrival.commit_ts = max(self._last_ts + 1, self._clock.now_ns())
        if not self._forming or self._forming[-1].is_full(self._limits):
            self._forming.append(CommitBatch())
            self._log_writer.begin_batch()
            self._idle.clear()
        self._log_writer.append(arrival.commit_ts, arrival.write_set.touched)
        self._validation.note(arrival)
        self._forming[-1].add(arrival)
        if arrival.on_validated is not None:
            arrival.on_validated(arrival.follows)
        if self._writing is None:
            self._departure.joined()

    def _settle_fill(self, fill: Fill) -> None:
        if fill.start == fill.end:
            return
        try:
            fill.leave_out(self._log.touched(fill.start, fill.end, fill.begin_ts))
        except OutOfRetention:
            fill.refuse()

    def _leave(self, count: int, size: int) -> None:
        self._queue_length -= count
        self._queue_bytes -= size

    # --- Batch --------------------------------------------------------------------------------------------------

    def _waiting_length(self) -> int:
        return sum(len(batch.arrivals) for batch in self._forming)

    def _write_next(self) -> None:
        if self._writing is None and self._forming and self._fate_unknown is None:
            self._writing = self._forming.popleft()
            self._writer.write(self._writing)

    # --- Publication --------------------------------------------------------------------------------------------

    def _settle(self, batch: CommitBatch, error: BaseException | None) -> None:
        """Back on the event loop, with the batch's fate. All of this is one turn: no task runs in between."""
        if self._fate_unknown is not None:
            return
        self._writing = None
        match error:
            case None:
                self._departure.leave_or_wait()  # the disk works while we publish
                self._publish(batch)
            case StorageFull() | StorageFailed():
                self._withdraw(batch, error)
                self._departure.leave_or_wait()
            case _:
                self._stop(error, batch)
        self._set_idle()

    def _set_idle(self) -> None:
        if self._writing is None and not self._forming:
            self._idle.set()

    def _publish(self, batch: CommitBatch) -> None:
        self._batches += 1
        self._commits += len(batch.arrivals)
        try:
            self._log_writer.publish(batch.last_ts)
            failpoints.hit(failpoints.AFTER_PUBLICATION)
            self._leave(len(batch.arrivals), batch.bytes)
            for arrival in batch.arrivals:
                if arrival.on_published is not None:
                    arrival.on_published(arrival.commit_ts)
            # Before the callers go on: queries that have to run again set out while the answers are written.
            for arrival in batch.arrivals:
                self._subscriptions.publish(arrival.commit_ts, arrival.write_set.touched)
            for arrival in batch.arrivals:
                arrival.succeed()
            self._log_writer.wake()
            self._stages.note_published(batch.arrivals, batch.begun_ns, batch.written_ns)
        except Exception as error:
            # A listener broke its contract: some of those who must hear of these commits have not.
            self._stop(error, batch)

    def _withdraw(self, batch: CommitBatch, error: StorageFull | StorageFailed) -> None:
        self._failed_batches += 1
        self._validation.withdrawals += 1
        self._log_writer.withdraw(batch.last_ts)
        unfounded = [arrival for forming in self._forming for arrival in forming.take_out_founded_on_pending()]
        self._validation.withdrawn += len(unfounded)
        self._leave(len(batch.arrivals), batch.bytes)
        self._leave(len(unfounded), sum(arrival.bytes for arrival in unfounded))
        self._fail(batch.arrivals, error)
        self._fail(unfounded, Withdrawn())
        # Whoever lost against one of these waits for a timestamp that will never be published.
        self._log_writer.wake()

    def _stop(self, error: BaseException, batch: CommitBatch) -> None:
        """The fate of `batch` is unknown. Nothing more is written, and everybody who waits is told so."""
        if isinstance(error, FateUnknown):
            fate_unknown = error
        else:
            fate_unknown = FateUnknown(f"The committer stopped: {type(error).__name__}: {error}")
            fate_unknown.__cause__ = error
        self._fate_unknown = fate_unknown
        self._writer.stop()
        for under_way in (batch, *self._under_way()):
            self._fail(under_way.arrivals, fate_unknown)
        self._fail(self._held, fate_unknown)
        self._held.clear()
        self._idle.set()
        self._on_fate_unknown(fate_unknown)

    @staticmethod
    def _fail(arrivals: Iterable[Arrival], error: BaseException) -> None:
        for arrival in arrivals:
            arrival.fail(copy.copy(error))  # each caller raises, and so changes, its own
