"""A database whose schema is changed while a test writes to it, in the test's own event loop and without processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from evolute.clock import ManualClock
from evolute.database.database import Database
from evolute.database.transaction import Transaction
from evolute.errors import Conflict
from evolute.execution.call_log import CallLog
from evolute.execution.examination import RowsExamined, RowsRequest, examine
from evolute.execution.examiner import ProcessExaminer
from evolute.execution.executor import Executor
from evolute.execution.runners import Runners
from evolute.execution.schema_change import SchemaChange
from evolute.execution.schema_upkeep import SchemaUpkeep
from evolute.execution.table_walk import WalkProgress
from evolute.limits import MIB, Limits
from evolute.system import deployments, tables
from evolute.system.deployments import KeptDeployment
from evolute.values.schema import Schema, define_schema

T = TypeVar("T")
LIMITS = Limits(map_bytes_max=256 * MIB, backfill_rows_max=8)


class LocalExaminer:
    """Looks at rows here, and shows each request and what was found to the test, which may write meanwhile."""

    def __init__(self, store: SchemaStore, schema: Schema) -> None:
        self._store = store
        self._schema = schema

    async def examine(self, request: RowsRequest) -> RowsExamined:
        with self._store.database.snapshot() as snapshot:
            found = examine(request, snapshot, self._schema, self._store.limits)
        self._store.requests.append(request)
        await self._store.on_examined(request)
        return RowsExamined.from_wire(found.to_wire())

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


async def nothing(request: RowsRequest) -> None:
    await asyncio.sleep(0)


class SchemaStore:
    """Use it with `async with`. The store is sound in the end."""

    def __init__(self, folder: Path, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.clock = ManualClock()
        self.schema = define_schema()
        self.requests: list[RowsRequest] = []
        self.progress: list[WalkProgress] = []
        self.on_examined: Callable[[RowsRequest], Awaitable[None]] = nothing
        self._folder = folder
        self._deployments = 0

    async def __aenter__(self) -> Self:
        self.database = Database(self._folder / "store", self.clock, self.limits, sync=False)
        # No function is called: what is run are transactions of the server's own.
        runners = cast(Runners, None)
        self.executor = Executor(self.database, runners, self.clock, self.limits, CallLog(self.limits))
        await self.executor.run_system(tables.bootstrap)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        broken = self.database.check()
        await self.database.close()
        assert error is not None or not broken, broken

    # --- What the code that is served does -------------------------------------------------------------------------

    async def write(self, function: Callable[[Transaction], T]) -> T:
        """A mutation of the code that is served, whose schema checks what it writes."""
        while True:
            with self.database.snapshot() as snapshot:
                self.clock.set_ns(self.clock.now_ns() + 1_000_000)
                now_ns = self.clock.now_ns()
                seed = now_ns.to_bytes(32, "big")
                transaction = Transaction(
                    snapshot, limits=self.limits, now_ns=now_ns, seed=seed, writable=True, schema=self.schema
                )
                value = function(transaction)
            try:
                await self.database.committer.commit(
                    transaction.begin_ts, transaction.read_set, transaction.write_set()
                )
            except Conflict as conflict:
                await self.database.log.wait_published(conflict.commit_ts)
                continue
            await asyncio.sleep(0)  # also if nothing was changed
            return value

    async def insert(self, **fields: Any) -> str:
        return await self.write(lambda transaction: transaction.insert("items", fields))

    async def fill(self, count: int) -> list[str]:
        """So many rows, with `n` from 0 on."""
        return await self.write(lambda tx: [tx.insert("items", {"n": n, "kind": "new"}) for n in range(count)])

    async def rows(self, index: str = "by_creation_time") -> list[dict[str, Any]]:
        return (await self.executor.run_system(lambda tx: tx.query("items").with_index(index).collect())).value

    # --- Changes ---------------------------------------------------------------------------------------------------

    def change(self, schema: Schema) -> SchemaChange:
        self._deployments += 1
        return SchemaChange(
            KeptDeployment(f"deployment {self._deployments}", "functions", "", {}),
            schema.to_wire(),
            self.executor,
            self.database,
            cast(ProcessExaminer, LocalExaminer(self, schema)),
            self.clock,
            self.limits,
            self.progress.append,
        )

    async def activate(self, change: SchemaChange, schema: Schema) -> None:
        """As the deployer does."""
        await self.executor.run_system(
            lambda tx: deployments.activate(tx, change._deployment, schema.to_wire(), change.validated),
            known=change.known,
        )
        self.schema = schema

    async def change_to(self, schema: Schema) -> None:
        change = self.change(schema)
        await change.make_ready()
        await self.activate(change, schema)

    def upkeep(self) -> SchemaUpkeep:
        def examiner() -> ProcessExaminer:
            return cast(ProcessExaminer, LocalExaminer(self, self.schema))

        return SchemaUpkeep(self.executor, self.database, examiner, self.clock, self.limits, self.progress.append)
