"""Who looks at rows for a change of the schema, as the server sees it: a worker process of its own, one at a time.

It is started when there is something to look at, loads the sources of the deployment that is to come (or of the one
that is served, for staged indexes), answers one request after the other, and ends with the change. If it dies it is
started once more; a validator that never returns is the author's to find, and the message says where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from evolute.errors import DefinitionError
from evolute.execution.channel import Frame
from evolute.execution.examination import RowsExamined, RowsRequest
from evolute.execution.process_starter import ProcessStarter
from evolute.execution.worker_process import WorkerProcess
from evolute.limits import Limits
from evolute.system.deployments import Deployment

DEATHS_MAX = 2


class Examiner(Protocol):
    """Answers requests, one after the other."""

    async def examine(self, request: RowsRequest) -> RowsExamined:
        """Raises DefinitionError if the rows cannot be looked at."""
        ...


class ExaminingProcess(WorkerProcess):
    """The process. Its lane is `rows`."""

    def __init__(self, limits: Limits, processes: ProcessStarter) -> None:
        super().__init__("rows", limits, processes=processes, on_outcome=_nothing, on_late=_nothing, on_gone=_nothing)
        self._asked = 0
        self._awaited: asyncio.Future[RowsExamined] | None = None

    async def ask(self, request: RowsRequest) -> RowsExamined | None:
        """None if the process has ended. Raises DefinitionError if it failed, TimeoutError after `system_ms_max`."""
        assert self._channel is not None
        if self.gone:
            return None
        self._awaited = awaited = asyncio.get_running_loop().create_future()
        self._asked += 1
        self._channel.send(("examine", self._asked, tuple(request)))
        ended = asyncio.ensure_future(self._closed.wait())
        try:
            async with asyncio.timeout(self._limits.system_ms_max / 1000):
                await asyncio.wait({awaited, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        return awaited.result() if awaited.done() else None

    def _on_frame(self, frame: Frame) -> None:
        match frame[0]:
            case "examined" | "examination_failed":
                _, number, found = frame
                if self._awaited is None or self._awaited.done() or number != self._asked:
                    return  # nobody waits for it any more
                if frame[0] == "examined":
                    self._awaited.set_result(RowsExamined.from_wire(found))
                else:
                    self._awaited.set_exception(DefinitionError(f"The rows could not be looked at:\n{found}"))
            case _:
                super()._on_frame(frame)


class ProcessExaminer:
    """An `Examiner` for the length of a `with` block; the process is started by the first request."""

    def __init__(
        self,
        deployment: Deployment,
        data_path: str,
        limits: Limits,
        processes: ProcessStarter,
        *,
        on_worker_death: Callable[[], object],
    ) -> None:
        self._deployment = deployment
        self._data_path = data_path
        self._limits = limits
        self._processes = processes
        self._on_worker_death = on_worker_death
        self._process: ExaminingProcess | None = None
        self._turn = asyncio.Lock()

    async def examine(self, request: RowsRequest) -> RowsExamined:
        async with self._turn:
            return await self._examine(request)

    async def _examine(self, request: RowsRequest) -> RowsExamined:
        for _ in range(DEATHS_MAX):
            process = self._process or await self._start()
            try:
                examined = await process.ask(request)
            except TimeoutError:
                await self.close()
                raise DefinitionError(
                    f'Looking at {request.rows_max} rows of table "{request.table}" took longer than '
                    f"{self._limits.system_ms_max} ms; the setting is `system_ms_max`. Does a validator hang?"
                ) from None
            if examined is not None:
                return examined
            await self.close()
        raise DefinitionError(f'The process that looks at the rows of table "{request.table}" died {DEATHS_MAX} times.')

    async def close(self) -> None:
        """Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.retired = process.leaving = True
            process.kill("its work is done")
            await process.wait_gone()
            self._on_worker_death()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.shield(self.close())

    async def _start(self) -> ExaminingProcess:
        self._process = ExaminingProcess(self._limits, self._processes)
        await self._process.start(self._deployment, self._data_path)
        return self._process


def _nothing(_: object) -> None:
    pass
