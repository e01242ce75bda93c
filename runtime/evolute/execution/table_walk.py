"""One walk over the rows of a table that is in use: they are validated, and get entries in new indexes.

    rows      ──────────────┬───────────┬──────────►
              done          │ a chunk   │ to come
                            after       last
    each chunk                one snapshot of the examiner's, in its own process
    its entries               a fill, in a commit of their own; those of rows written meanwhile are made once more
    rows written meanwhile    the write log names them: before `after` they are validated again, with the next chunk

**What is on record** is where the chunk began, never where it ends: only when its last entries are in does the commit
of the next one say so. So what a crash leaves to be done again is a chunk, and doing it again changes nothing.

**Valid as of.** After each chunk all rows up to `after` are valid as of `validated_ts`: the rows of the chunk were read
later than that, and every row that a commit after it has touched is still to be asked about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from evolute import failpoints
from evolute.clock import NS_PER_MS, NS_PER_S, Clock
from evolute.database.database import Database
from evolute.database.fill import Fill
from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from evolute.errors import DefinitionError
from evolute.execution.attempts import Attempted, Mode
from evolute.execution.examination import Fault, RowsExamined, RowsRequest
from evolute.execution.examiner import Examiner
from evolute.execution.executor import Executor
from evolute.execution.pace import Pace
from evolute.limits import Limits
from evolute.storage.keyspace import (
    INTERNAL_ID_BYTES,
    after_prefix,
    document_key,
    document_prefix,
    index_work_key,
)
from evolute.system import schema_changes
from evolute.system.schema_changes import IndexFill, TableWork

AGAIN_MAX = 16  # rows that are filled again in one transaction: few, so that it seldom meets a writer
VALIDATED_AGAIN_MAX = 1_000


class WalkProgress(NamedTuple):
    """How far a walk has come. Ids are random, so that the last one tells which share of the rows is done."""

    table: str
    indexes: tuple[str, ...]
    validates: bool
    rows: int
    share: float
    rows_per_s: float


OnProgress = Callable[[WalkProgress], None]


class TableWalk:
    """The walk for one `TableWork`. `run` it to its end; then `catch_up` keeps what is validated up to date."""

    def __init__(
        self,
        work: TableWork,
        executor: Executor,
        database: Database,
        examiner: Examiner,
        clock: Clock,
        limits: Limits,
        on_progress: OnProgress,
    ) -> None:
        self.table = work.name
        self.validates = work.validate
        self.validated_ts = database.log.published_ts
        self._number = work.number
        self._fills = list(work.fills)
        self._executor = executor
        self._log = database.log
        self._examiner = examiner
        self._limits = limits
        self._clock = clock
        self._on_progress = on_progress
        self._pace = Pace(lambda: database.committer.statistics().commits, clock, limits)
        self._after = b"" if work.validate else min((fill.position for fill in work.fills), default=b"")
        self._rows = 0
        self._own_commits = 0
        self._begun_ns = self._told_ns = clock.now_ns()

    @property
    def range(self) -> tuple[bytes, bytes]:
        """The keys of the table's documents."""
        prefix = document_prefix(self._number)
        return prefix, after_prefix(prefix)

    async def run(self) -> None:
        """Raises DefinitionError naming the row that does not fit, SchemaNotReady if the indexes have been given up,
        and OutOfRetention if the log has forgotten what was written meanwhile."""
        coming: asyncio.Task[tuple[RowsRequest, RowsExamined]] | None = None
        try:
            while True:
                request, examined = await (coming or self._look(self._after))
                coming = None
                self._refuse(examined.fault)
                after = request.until if examined.is_end and request.until else examined.last
                is_end = examined.is_end and not request.until
                if not self._pace.is_busy and not is_end:
                    coming = asyncio.create_task(self._look(after))
                if not await self._put(request, examined):
                    await _end(coming)
                    coming = None
                    continue
                self._rows += examined.rows
                self._after = after
                self._tell()
                if is_end:
                    break
                self._pace.note(self._own_commits)
                self._own_commits = 0
                if coming is None:
                    await self._pace.rest(examined.rows)
        finally:
            await _end(coming)
        if self._fills:
            done = [self._reached(fill, self._after) for fill in self._fills]
            await self._executor.run_system(partial(schema_changes.complete, table=self.table, fills=done))
            failpoints.hit(failpoints.AFTER_BACKFILLED)

    async def catch_up(self) -> None:
        """What was written since `validated_ts` is valid too, up to a later one. Raises as `run` does."""
        ts = self._log.published_ts
        again = self._written(self.range[1])
        for first in range(0, len(again), VALIDATED_AGAIN_MAX):
            request = self._request(b"", again[first : first + VALIDATED_AGAIN_MAX])
            self._refuse((await self._examiner.examine(request)).fault)
        self.validated_ts = ts

    # --- Looking ---------------------------------------------------------------------------------------------------

    async def _look(self, after: bytes) -> tuple[RowsRequest, RowsExamined]:
        """The next chunk, and again what was written of those before it."""
        ts, again = self._log.published_ts, []
        if self.validates:
            again = self._written(document_key(self._number, after) + b"\0") if after else []
        rows_max, bytes_max = self._pace.next()
        fills = [fill for fill in self._fills if fill.position <= after]
        until = min((fill.position for fill in self._fills if fill.position > after), default=b"")
        request = self._request(after, again, fills)._replace(until=until, rows_max=rows_max, bytes_max=bytes_max)
        examined = await self._examiner.examine(request)
        self.validated_ts = ts
        return request, examined

    def _request(self, after: bytes, again: Sequence[bytes], fills: Sequence[IndexFill] = ()) -> RowsRequest:
        indexes = tuple((fill.entry.id, fill.entry.name, fill.entry.fields) for fill in fills)
        return RowsRequest(self.table, self._number, self.validates, indexes, after, b"", 0, 1, tuple(again))

    def _written(self, end: bytes) -> list[bytes]:
        """The internal ids of the rows before `end` that were written since `validated_ts`, or are being written."""
        touched = self._log.touched(self.range[0], end, self.validated_ts)
        return [key[-INTERNAL_ID_BYTES:] for key in touched]

    def _refuse(self, fault: Fault | None) -> None:
        if fault is None:
            return
        row = f'Document with ID "{fault.document_id}" in table "{self.table}"'
        if fault.is_key:
            raise DefinitionError(f"{row} cannot be indexed: {fault.detail}")
        if fault.is_new:
            text = f'New document in table "{self.table}" does not match the schema: {fault.detail}'
            raise DefinitionError(f'{text}\nIts ID is "{fault.document_id}".')
        raise DefinitionError(f"{row} does not match the schema: {fault.detail}")

    # --- Filling ---------------------------------------------------------------------------------------------------

    async def _put(self, request: RowsRequest, examined: RowsExamined) -> bool:
        """Commits the entries of a chunk. False if it has to be looked at once more."""
        indexes = {index[0] for index in request.indexes}
        if not indexes:
            return True
        fills = [fill for fill in self._fills if fill.entry.id in indexes]
        begun = [self._reached(fill, request.after) for fill in fills]
        prefix = document_prefix(self._number)
        end = prefix + examined.last + b"\0" if examined.rows else prefix
        fill = Fill(examined.begin_ts, self._number, prefix + request.after, end, examined.entries)
        await self._executor.run_system(partial(schema_changes.advance, fills=begun), fill=fill)
        self._own_commits += 1
        failpoints.hit(failpoints.AFTER_FILL)
        if fill.refused:
            return False
        for first in range(0, len(fill.left), AGAIN_MAX):
            await self._fill_again(fill.left[first : first + AGAIN_MAX], fills)
        self._fills = [
            self._reached(one, examined.last, examined.rows) if one.entry.id in indexes else one for one in self._fills
        ]
        return True

    @staticmethod
    def _reached(fill: IndexFill, position: bytes, rows: int = 0) -> IndexFill:
        return fill._replace(position=max(fill.position, position), rows=fill.rows + rows)

    async def _fill_again(self, ids: Sequence[bytes], fills: Sequence[IndexFill]) -> None:
        """Rows that were written while their entries were made: a transaction like any other, which may conflict."""
        request = self._request(b"", ids, fills)._replace(validate=False, fill_again=True)
        read_set = ReadSet()
        for internal_id in ids:
            read_set.add_point(document_key(self._number, internal_id))
        for fill in fills:
            read_set.add_point(index_work_key(fill.entry.id))

        async def attempt(mode: Mode) -> Attempted[None]:
            examined = await self._examiner.examine(request)
            self._refuse(examined.fault)
            await self._log.wait_published(examined.begin_ts)
            puts: dict[bytes, bytes | None] = dict(examined.entries)
            return Attempted(None, examined.begin_ts, read_set, WriteSet(puts, frozenset(puts)))

        await self._executor.run_attempts(attempt)
        self._own_commits += 1

    # --- Telling ---------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        now_ns = self._clock.now_ns()
        if now_ns - self._told_ns < self._limits.schema_progress_ms * NS_PER_MS:
            return
        self._told_ns = now_ns
        share = int.from_bytes(self._after[:8], "big") / 2**64
        rate = self._rows * NS_PER_S / max(now_ns - self._begun_ns, 1)
        names = tuple(fill.entry.name for fill in self._fills)
        self._on_progress(WalkProgress(self.table, names, self.validates, self._rows, share, rate))


async def _end(task: asyncio.Task[tuple[RowsRequest, RowsExamined]] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
