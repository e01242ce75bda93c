"""An open database: the engine, the write log, the committer and the subscriptions, opened in this order.

    Database ── Engine          the bytes
             ├─ LogReader       what was touched lately, and what is published
             ├─ Subscriptions   who is told
             ╰─ Committer       who writes; it alone has the LogWriter

It belongs to one event loop and is closed in the reverse order, so that what is under way is finished while everything
that it needs is still there. Its other duty is the readers' table: see `check_readers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from evolute.clock import Clock
from evolute.database.catalog import definition_from
from evolute.database.check import check
from evolute.database.committer import Committer
from evolute.database.committer_statistics import CommitterStatistics
from evolute.database.pending_view import PendingView
from evolute.database.snapshot import Snapshot
from evolute.database.subscriptions import Subscriptions, SubscriptionStatistics
from evolute.database.write_log import LogReader, LogStatistics, new_write_log
from evolute.errors import StoreCorrupt
from evolute.limits import Limits
from evolute.stages import Stages
from evolute.storage.engine import Engine, EngineStatistics, Reader
from evolute.storage.keyspace import CATALOG_RANGE, LAST_TS, decode_number, encode_number, parse
from evolute.storage.lmdb_engine import LmdbEngine


@dataclass(frozen=True)
class DatabaseStatistics:
    """The database at one moment."""

    engine: EngineStatistics
    log: LogStatistics
    committer: CommitterStatistics
    subscriptions: SubscriptionStatistics


def _remain_stopped(error: BaseException) -> None:
    """The committer answers every call with FateUnknown from now on; enough for tests, where nobody else writes."""


class Database:
    """Opens the store at `store_path`, which is created if it is missing. The data folder must be locked by then.

    Make it while the event loop runs, and use it on that loop's thread. `on_fate_unknown` has to stop the process.
    `sync=False` gives up durability, for tests. Raises what LmdbEngine raises, and StoreCorrupt.
    """

    def __init__(
        self,
        store_path: Path,
        clock: Clock,
        limits: Limits,
        *,
        sync: bool = True,
        on_fate_unknown: Callable[[BaseException], None] = _remain_stopped,
    ) -> None:
        self._limits = limits
        self.stages = Stages()
        self._loop = asyncio.get_running_loop()
        self._engine: Engine = LmdbEngine(store_path, limits, sync=sync)
        try:
            last_ts = _first_timestamp(self._engine, clock)
            self.log: LogReader
            self.log, log_writer = new_write_log(last_ts, limits)
            self.subscriptions = Subscriptions(self.log, limits)
            self.committer = Committer(
                self._engine,
                self.log,
                log_writer,
                self.subscriptions,
                clock=clock,
                limits=limits,
                on_fate_unknown=on_fate_unknown,
                stages=self.stages,
            )
        except BaseException:
            self._engine.close()
            raise
        self._next_check = self._loop.call_later(limits.reader_check_ms / 1000, self._check_readers_again)

    def snapshot(self, *, unbounded: bool = False, pending: PendingView | None = None) -> Snapshot:
        """Everything that is committed. It may be newer than what the log has published: see `LogReader`.

        Close it soon. `unbounded` is for walks (see `Engine.reader`), `pending` is seen too. Raises Overloaded when
        `readers_max` are open.
        """
        return Snapshot(self._engine.reader(unbounded=unbounded), pending)

    def table_of(self, key: bytes) -> str | None:
        """The name of the table to which the key of a document or of an index entry belongs, if there is one."""
        parsed = parse(key)
        with self.snapshot() as snapshot:
            for _, data in snapshot.scan(*CATALOG_RANGE):
                table = definition_from(data)
                numbers = {table.number} if parsed.family == "document" else {index.id for index in table.maintained}
                if parsed.family in ("document", "index") and parsed.number in numbers:
                    return table.name
        return None

    def check_readers(self) -> int:
        """Frees the snapshots of processes that are gone, and says how many; call it after the death of a worker.

        A dead reader's snapshot pins every page that was current then, and the file grows with each commit.
        """
        return self._engine.check_readers()

    def check(self, faults: Callable[[Reader], Iterable[str]] = check) -> list[str]:
        """Every broken invariant of the store, as a sentence. Reads all of it, on the calling thread.

        `faults` may be a check that knows more: `system.check`'s.
        """
        reader = self._engine.reader(unbounded=True)
        try:
            return list(faults(reader))
        finally:
            reader.close()

    def statistics(self) -> DatabaseStatistics:
        return DatabaseStatistics(
            engine=self._engine.statistics(),
            log=self.log.statistics(),
            committer=self.committer.statistics(),
            subscriptions=self.subscriptions.statistics(),
        )

    async def close(self) -> None:
        """Finishes the commits that are under way. Close every snapshot first. Idempotent."""
        self._next_check.cancel()
        await self.committer.close()
        self._engine.close()

    def _check_readers_again(self) -> None:
        self._next_check = self._loop.call_later(self._limits.reader_check_ms / 1000, self._check_readers_again)
        self.check_readers()


def _first_timestamp(engine: Engine, clock: Clock) -> int:
    """The timestamp of the last commit. The first opening makes one, before there is a committer to do it."""
    reader = engine.reader()
    try:
        last_ts = reader.get(LAST_TS)
        is_empty = next(reader.scan(b"", None), None) is None
    finally:
        reader.close()
    if last_ts is None and is_empty:
        last_ts = encode_number(max(clock.now_ns(), 1))
        engine.write({LAST_TS: last_ts})
    if last_ts is None or len(last_ts) != 8:
        raise StoreCorrupt("The store has no last timestamp. It is damaged: restore a backup.")
    return decode_number(last_ts)
