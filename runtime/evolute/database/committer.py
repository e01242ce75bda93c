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

**Batch.** While the disk syncs one batch the next one forms: one sync for many commits. Their puts are merged in
timestamp order into one storage write, together with LAST_TS.

**Publication.** When a batch is durable, one event-loop turn publishes it in the log, tells those who committed,
breaks subscriptions and wakes waiters, in this order, and no task runs in between. Nothing is told before.

**Failure.** A batch that was certainly not written is withdrawn: its members fail with the disk's error before the next
batch starts, and the commits after it stand, for they were validated against more than has happened. When it is not
certain, nothing more is written, and `on_fate_unknown` has to stop the process: what the store holds after the restart
is what happened.

**Serial turns.** A call that has lost too often runs inside `serially()`. New arrivals are held meanwhile, so that
nobody can overtake it; they are validated, in order, when it is over.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import SimpleQueue

from evolute import failpoints
from evolute.clock import Clock
from evolute.database.commit_batch import Arrival, CommitBatch
from evolute.database.fill import Fill
from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscriptions
from evolute.database.write_log import LogReader, LogWriter
from evolute.database.write_rate import WriteRate
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, FateUnknown, OutOfRetention, Overloaded, ShuttingDown, StorageFailed, StorageFull
from evolute.limits import Limits
from evolute.storage.engine import Engine
from evolute.storage.keyspace import LAST_TS, decode_number


@dataclass(frozen=True)
class CommitterStatistics:
    """The committer since its start, and what is under way."""

    commits: int
    conflicts: int
    batches: int
    """Batches that became durable; `commits / batches` is what group commit saves."""
    failed_batches: int
    queue_length: int
    """Commits under way: held, pending or being written; bounded by `commit_queue_length_max`."""
    queue_bytes: int
    held: int
    """Of these the ones that wait for a serial turn to end."""


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
    ) -> None:
        self._engine = engine
        self._log = log
        self._log_writer = log_writer
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._on_fate_unknown = on_fate_unknown
        self._loop = asyncio.get_running_loop()
        self._last_ts = log.published_ts

        self._forming: deque[CommitBatch] = deque()
        self._writing: CommitBatch | None = None
        self._write_scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._serial_turn = asyncio.Lock()
        self._is_serial = False
        self._held: deque[Arrival] = deque()
        self._is_closing = False
        self._fate_unknown: FateUnknown | None = None

        self._write_rate = WriteRate(limits.write_bytes_per_s_max, clock.now_ns())
        self._queue_length = self._queue_bytes = 0
        self._commits = self._conflicts = self._batches = self._failed_batches = 0

        self._to_write: SimpleQueue[CommitBatch | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_batches, name="evolute-writer", daemon=True)
        self._writer.start()

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
    ) -> int:
        """Commits a transaction; returns its timestamp once it is durable and published.

        It is validated before the first await, unless a serial turn holds arrivals; `serial` is for the call whose
        turn it is. `on_published(commit_ts)` is called in the turn of publication, before any task goes on; it must be
        quick and must not raise. A transaction that writes nothing is a reader: it is over, at its own `begin_ts`,
        when that is published. What of a `fill` is still true is written with the rest.

        Raises Conflict; OutOfRetention; Overloaded, TooManyWrites, ShuttingDown (nothing happened); StorageFull,
        StorageFailed (it was certainly not written); FateUnknown. If the caller is cancelled the transaction may still
        be committed.
        """
        self._require_running()
        assert len(read_set) <= self._limits.read_set_intervals_max
        assert self._is_serial or not serial, "serial commits belong inside serially()"
        if not write_set:
            await self._log.wait_published(begin_ts)
            if on_published is not None:
                on_published(begin_ts)
            return begin_ts
        arrival = Arrival(begin_ts, read_set, write_set, on_published, self._loop.create_future(), fill)
        if not serial:
            self._require_room(arrival)
        self._queue_length += 1
        self._queue_bytes += arrival.bytes
        if self._is_serial and not serial:
            self._held.append(arrival)
        else:
            self._admit(arrival)
        return await arrival.done

    @asynccontextmanager
    async def serially(self) -> AsyncIterator[None]:
        """A serial turn: entered when nothing is under way any more; `commit(serial=True)` inside it comes first.

        What arrives meanwhile is held, and validated in order in the event-loop turn in which this is left. Turns are
        taken one at a time, first come first served. Raises ShuttingDown, FateUnknown.
        """
        self._require_running()
        async with self._serial_turn:
            self._is_serial = True
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
        async with self._serial_turn:
            await self._idle.wait()
        self._to_write.put(None)
        self._writer.join()

    def statistics(self) -> CommitterStatistics:
        return CommitterStatistics(
            commits=self._commits,
            conflicts=self._conflicts,
            batches=self._batches,
            failed_batches=self._failed_batches,
            queue_length=self._queue_length,
            queue_bytes=self._queue_bytes,
            held=len(self._held),
        )

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
                self._leave(arrival)
            else:
                self._admit(arrival)

    def _admit(self, arrival: Arrival) -> None:
        """Validates. A transaction that passes becomes pending, in the batch that is forming."""
        error = self._validate(arrival)
        if error is not None:
            self._leave(arrival)
            arrival.fail(error)
            return
        if arrival.fill is not None:
            self._settle_fill(arrival.fill)
        failpoints.hit(failpoints.AFTER_VALIDATION)
        self._last_ts = arrival.commit_ts = max(self._last_ts + 1, self._clock.now_ns())
        if not self._forming or self._forming[-1].is_full(self._limits):
            self._forming.append(CommitBatch())
            self._log_writer.begin_batch()
        self._log_writer.append(arrival.commit_ts, arrival.write_set.touched)
        self._forming[-1].add(arrival)
        self._idle.clear()
        if self._writing is None and not self._write_scheduled:
            # Not at once: whatever else arrives in this turn of the loop shares the sync.
            self._write_scheduled = True
            self._loop.call_soon(self._write_next)

    def _validate(self, arrival: Arrival) -> BaseException | None:
        if self._fate_unknown is not None:
            return self._fate_unknown
        try:
            touch = self._log.first_touch(arrival.read_set, arrival.begin_ts)
        except OutOfRetention as error:
            return error
        if touch is None:
            return None
        self._conflicts += 1
        return Conflict(touch.key, touch.commit_ts)

    def _settle_fill(self, fill: Fill) -> None:
        if fill.start == fill.end:
            return
        try:
            fill.leave_out(self._log.touched(fill.start, fill.end, fill.begin_ts))
        except OutOfRetention:
            fill.refuse()

    def _leave(self, arrival: Arrival) -> None:
        self._queue_length -= 1
        self._queue_bytes -= arrival.bytes

    # --- Batch --------------------------------------------------------------------------------------------------

    def _write_next(self) -> None:
        self._write_scheduled = False
        if self._writing is None and self._forming and self._fate_unknown is None:
            self._writing = self._forming.popleft()
            self._to_write.put(self._writing)

    def _write_batches(self) -> None:
        """The writer thread."""
        while (batch := self._to_write.get()) is not None:
            error = self._write(batch)
            try:
                self._loop.call_soon_threadsafe(self._settle, batch, error)
            except RuntimeError:  # the loop was closed without us: there is nobody left to tell
                return

    def _write(self, batch: CommitBatch) -> BaseException | None:
        """None if the batch is durable; StorageFull or StorageFailed only if it certainly was not written."""
        try:
            self._engine.write(batch.puts(), on_puts=lambda: failpoints.hit(failpoints.AFTER_PUTS))
        except (StorageFull, StorageFailed) as error:
            return self._confirm_unwritten(batch, error)
        except BaseException as error:
            return error
        failpoints.hit(failpoints.AFTER_COMMIT)
        return None

    def _confirm_unwritten(self, batch: CommitBatch, error: StorageFull | StorageFailed) -> BaseException:
        """The store's own word against the engine's: `error` if they agree."""
        try:
            reader = self._engine.reader()
            try:
                stored = reader.get(LAST_TS)
            finally:
                reader.close()
        except Exception as second_error:
            return FateUnknown(f"A write failed ({error}), and then the store could not be read: {second_error}")
        if stored is not None and decode_number(stored) >= batch.first_ts:
            return FateUnknown(f"A write was reported as failed ({error}), but the store holds it.")
        return error

    # --- Publication --------------------------------------------------------------------------------------------

    def _settle(self, batch: CommitBatch, error: BaseException | None) -> None:
        """Back on the event loop, with the batch's fate. All of this is one turn: no task runs in between."""
        if self._fate_unknown is not None:
            return
        self._writing = None
        match error:
            case None:
                self._write_next()  # the disk works while we publish
                self._publish(batch)
            case StorageFull() | StorageFailed():
                self._withdraw(batch, error)
                self._write_next()
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
            for arrival in batch.arrivals:
                self._leave(arrival)
                if arrival.on_published is not None:
                    arrival.on_published(arrival.commit_ts)
            # Before the callers go on: queries that have to run again set out while the answers are written.
            for arrival in batch.arrivals:
                self._subscriptions.publish(arrival.commit_ts, arrival.write_set.touched)
            for arrival in batch.arrivals:
                arrival.succeed()
            self._log_writer.wake()
        except Exception as error:
            # A listener broke its contract: some of those who must hear of these commits have not.
            self._stop(error, batch)

    def _withdraw(self, batch: CommitBatch, error: StorageFull | StorageFailed) -> None:
        self._failed_batches += 1
        self._log_writer.withdraw(batch.last_ts)
        for arrival in batch.arrivals:
            self._leave(arrival)
        self._fail(batch.arrivals, error)
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
        self._to_write.put(None)
        for under_way in (batch, self._writing, *self._forming):
            if under_way is not None:
                self._fail(under_way.arrivals, fate_unknown)
        self._fail(self._held, fate_unknown)
        self._held.clear()
        self._idle.set()
        self._on_fate_unknown(fate_unknown)

    @staticmethod
    def _fail(arrivals: Iterable[Arrival], error: BaseException) -> None:
        for arrival in arrivals:
            arrival.fail(copy.copy(error))  # each caller raises, and so changes, its own
