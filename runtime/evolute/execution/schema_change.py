"""A change of the schema while the old one is in use: what has to be done before the new code can be activated.

    prepare      one commit: new indexes of tables with rows are there, backfilling
    walk         table by table: rows are validated where the new validator may refuse some; new indexes are filled
    activate     one commit, the deployer's: schema, indexes, code. Rows written since they were validated are asked
                 about once more right before it, and nobody may have written others when it comes

Nothing that is done before the activation is seen by the code that is served, whose own schema checks what it writes.
A row that does not fit ends the change with the row's id. What was filled by then stays: the next change goes on there.
"""

from __future__ import annotations

from evolute import failpoints
from evolute.clock import Clock
from evolute.database.database import Database
from evolute.database.read_set import ReadSet
from evolute.errors import DefinitionError, OutOfRetention, SchemaNotReady
from evolute.execution.examiner import ProcessExaminer
from evolute.execution.executor import Executor
from evolute.execution.table_walk import OnProgress, TableWalk
from evolute.limits import Limits
from evolute.system import deployments
from evolute.system.deployments import Deployment
from evolute.system.schema_changes import SchemaWire, TableWork

TRIES_MAX = 5


class SchemaChange:
    """From the schema that is served to that of one deployment. `make_ready`, then activate, then `close`."""

    def __init__(
        self,
        deployment: Deployment,
        schema: SchemaWire,
        executor: Executor,
        database: Database,
        examiner: ProcessExaminer,
        clock: Clock,
        limits: Limits,
        on_progress: OnProgress,
    ) -> None:
        self._deployment = deployment
        self._schema = schema
        self._executor = executor
        self._database = database
        self._examiner = examiner
        self._clock = clock
        self._limits = limits
        self._on_progress = on_progress
        self._validated: list[TableWalk] = []
        self._tries = 0

    @property
    def validated(self) -> list[str]:
        """The tables whose rows match the new schema, as of what `known` says."""
        return [walk.table for walk in self._validated]

    async def make_ready(self) -> None:
        """Returns when the deployment can be activated. To be called again if that then says SchemaNotReady.

        Raises DefinitionError naming the row that does not fit. May be cancelled.
        """
        while True:
            self._tries += 1
            self._validated = []
            try:
                for work in await self._begin():
                    await self._walk(work)
                return
            except (SchemaNotReady, OutOfRetention) as error:
                self.refuse_after_too_many(error)

    def refuse_after_too_many(self, error: SchemaNotReady | OutOfRetention) -> None:
        """Raises DefinitionError if it makes no sense to try once more."""
        if self._tries >= TRIES_MAX:
            raise DefinitionError(
                f"The tables could not be made ready for the new schema in {self._tries} tries: {error}"
            ) from error

    async def known(self) -> tuple[int, ReadSet]:
        """A timestamp as of which the rows of the tables `validated` match the new schema, and the keys of these.

        Raises DefinitionError naming a row that was written meanwhile and does not fit, and OutOfRetention.
        """
        read_set = ReadSet()
        for walk in self._validated:
            await walk.catch_up()
            read_set.add_range(*walk.range)
        published_ts = self._database.log.published_ts
        return min((walk.validated_ts for walk in self._validated), default=published_ts), read_set

    async def close(self) -> None:
        await self._examiner.close()

    async def _begin(self) -> list[TableWork]:
        run = await self._executor.run_system(
            lambda transaction: deployments.prepare(transaction, self._deployment, self._schema)
        )
        if any(work.fills for work in run.value):
            failpoints.hit(failpoints.AFTER_INDEXES_BEGUN)
        return run.value

    async def _walk(self, work: TableWork) -> None:
        walk = TableWalk(
            work, self._executor, self._database, self._examiner, self._clock, self._limits, self._on_progress
        )
        await walk.run()
        if work.validate:
            self._validated.append(walk)
            for other in self._validated:  # the log does not remember for ever what was written
                await other.catch_up()
