"""The worker processes, in three lanes, by generation.

    generation = all workers that have loaded one deployment
        transaction lane   one request at a time per worker, several sent ahead so that no worker waits for the loop
        action lane        many at once per worker
        blocking lane      one per worker, as many workers as calls run; see `blocking_lane`

A request is lent the worker that has the least to do; those that were sent behind one that runs long are run elsewhere
as well, and the first outcome counts. If a worker dies, the request that was running is run once more; a second death
is its error. The others go back to the head of the queue, unharmed. An action is never run again.

Publishing new code starts a new generation beside the old one; `activate` switches in one event-loop turn, and the old
generation finishes what it holds and ends.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

from evolute.clock import Clock
from evolute.database.pending_view import Mark, PendingView
from evolute.errors import Overloaded, Overtaken, ShuttingDown
from evolute.execution.blocking_lane import BlockingLane
from evolute.execution.examiner import ProcessExaminer
from evolute.execution.generation import Generation
from evolute.execution.pending_request import Callbacks, Pending
from evolute.execution.pool_statistics import PoolStatistics, statistics_of
from evolute.execution.process_starter import ProcessStarter
from evolute.execution.request import Call, FunctionOutcome, FunctionRequest, RequestKind
from evolute.execution.seeds import seeds
from evolute.execution.worker_choice import ChainChoice, least_busy
from evolute.execution.worker_death import action_error, crashed, runs_again, timed_out
from evolute.execution.worker_process import Lane, RoomRequest, WorkerProcess
from evolute.limits import Limits
from evolute.registry.registry import RegistryReport
from evolute.stages import Stages
from evolute.system.deployments import Deployment

logger = logging.getLogger("evolute.pool")

RESTART_S_MAX = 5.0


class Pool:
    """Owns every worker process. Make it while the event loop runs, and use it on that loop's thread."""

    def __init__(
        self,
        data_path: str,
        clock: Clock,
        limits: Limits,
        *,
        workers: int,
        action_workers: int,
        on_worker_death: Callable[[], object],
        processes: ProcessStarter | None = None,
        pending_view: Callable[[Mark], PendingView | None] = lambda shown: None,
        stages: Stages | None = None,
    ) -> None:
        self._stages = stages or Stages()
        self._pending_view = pending_view
        self._data_path = data_path
        self._clock = clock
        self._limits = limits
        self._sizes: dict[Lane, int] = {"transaction": workers, "action": action_workers}
        self._on_worker_death = on_worker_death
        self._active: Generation | None = None
        self._generations: set[Generation] = set()
        self._queues: dict[Lane, deque[Pending | RoomRequest]] = {"transaction": deque(), "action": deque()}
        self._blocking = BlockingLane(
            limits, active=lambda: self._active, start=self._start_blocking, submit=self.submit
        )
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._seeds = seeds()
        self._chain = ChainChoice()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths = 0
        self._closing = False
        self._processes = processes or ProcessStarter()

    @property
    def report(self) -> RegistryReport:
        """What the active deployment holds."""
        assert self._active is not None, "no deployment has been activated"
        return self._active.report

    @property
    def deployment(self) -> str | None:
        return None if self._active is None else self._active.deployment.hash

    # --- Generations -----------------------------------------------------------------------------------------------

    async def prepare(self, deployment: Deployment) -> Generation:
        """Starts the deployment's transaction workers, beside the active ones. Its others start when it is activated.

        Raises DefinitionError with every fault of the folder; then nothing is left running.
        """
        generation = Generation(deployment, RegistryReport(deployment.hash, {}, {}))
        self._generations.add(generation)
        starts = [self._start_worker(generation, "transaction") for _ in range(self._sizes["transaction"])]
        try:
            results = await asyncio.gather(*starts, return_exceptions=True)
        except asyncio.CancelledError:
            await self.discard(generation)
            raise
        failure = next((result for result in results if isinstance(result, BaseException)), None)
        if failure is not None:
            await self.discard(generation)
            raise failure
        return generation

    def activate(self, generation: Generation) -> None:
        """Switches to `generation` at once. Call in the turn in which its deployment's commit is published."""
        old, self._active = self._active, generation
        self._generations.add(generation)  # it was forgotten if all of its workers have died since
        if old is not None and old is not generation:
            for worker in old.all_workers():
                worker.retire()
            self._forget_if_empty(old)
        for lane, size in self._sizes.items():
            for _ in range(size - len(generation.workers[lane])):  # not prepared, or have died since
                self._spawn(self._replace(generation, lane))
            self._dispatch(lane)
        self._blocking.dispatch()

    def examiner(self, deployment: Deployment | None = None) -> ProcessExaminer:
        """Who looks at rows with the schema of that deployment, or of the active one."""
        if deployment is None:
            assert self._active is not None, "no deployment has been activated"
            deployment = self._active.deployment
        return ProcessExaminer(
            deployment, self._data_path, self._limits, self._processes, on_worker_death=self._on_worker_death
        )

    async def discard(self, generation: Generation) -> None:
        """Ends a generation that will not be activated."""
        self._generations.discard(generation)
        workers = generation.all_workers()
        for worker in workers:
            worker.retired = worker.leaving = True
            worker.kill("its deployment is not wanted")
        await asyncio.gather(*(worker.wait_gone() for worker in workers))

    async def close(self) -> None:
        """Ends every worker at once. What still runs, waits or is prepared fails, calls with ShuttingDown."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for queue in self._queues.values():
            while queue:
                self._fail(queue.popleft(), ShuttingDown())
        self._blocking.close()
        workers = [worker for generation in self._generations for worker in generation.all_workers()]
        for worker in workers:
            worker.retired = worker.leaving = True
            for pending in worker.pending.values():
                self._fail(pending, ShuttingDown())
            worker.kill("the server is shutting down")
        await asyncio.gather(*(worker.wait_gone() for worker in workers))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._processes.close()

    def statistics(self) -> PoolStatistics:
        workers = [worker for generation in self._generations for worker in generation.all_workers()]
        queued = sum(len(queue) for queue in self._queues.values()) + self._blocking.waiting
        return statistics_of(self.deployment, workers, queued=queued, deaths=self._deaths)

    # --- Running ---------------------------------------------------------------------------------------------------

    def run(
        self, kind: RequestKind, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> asyncio.Future[FunctionOutcome]:
        """Runs a batch of queries or a mutation; it is on its way when this returns. `urgent` goes before what waits,
        `fresh` sees what is pending when it is sent to a worker.

        The future raises FunctionTimedOut if the worker had to be killed, FunctionCrashed if two died of it, `deaths`
        of them before, Overloaded, ShuttingDown. A batch's raises FunctionCrashed for one death, and Overtaken: run
        each alone. If it is cancelled, the transaction is left to end: it harms nobody.
        """
        pending = Pending(kind, calls, self._loop.create_future(), deaths=deaths, fresh=fresh)
        try:
            self._enqueue(pending, urgent=urgent)
        except (Overloaded, ShuttingDown) as error:
            pending.future.set_exception(error)
        return pending.future

    async def run_action(self, call: Call, callbacks: Callbacks, *, nested: bool = False) -> FunctionOutcome:
        """Runs an action, at most once. `nested` uses the caller's slot. Raises as `run` does."""
        if self.report.is_blocking(call.path):
            if self._closing:
                raise ShuttingDown
            return await self._blocking.run(call, callbacks)
        answered: asyncio.Future[FunctionOutcome] = self._loop.create_future()
        pending = Pending("action", (call,), answered, callbacks, nested)
        self._enqueue(pending, urgent=nested)
        try:
            return await answered
        except asyncio.CancelledError:
            for worker in (worker for generation in self._generations for worker in generation.workers["action"]):
                worker.cancel(pending)
            raise

    @asynccontextmanager
    async def action_room(self, path: str) -> AsyncIterator[int | None]:
        """Waits until the action could run at once, and keeps what it needs for that while the block runs.

        What the block runs as a nested action is in this room, if its call has the place that is given here (None but
        for a blocking action). Raises ShuttingDown.
        """
        if self._closing:
            raise ShuttingDown
        if self.report.is_blocking(path):
            async with self._blocking.room() as place:
                yield place
            return
        request = RoomRequest(self._loop.create_future())
        self._queues["action"].append(request)
        self._dispatch("action")
        try:
            await request.future
            yield None
        finally:
            if request.worker is not None:
                request.worker.rooms -= 1
                self._dispatch("action")

    def _enqueue(self, pending: Pending, *, urgent: bool) -> None:
        if self._closing:
            raise ShuttingDown
        lane: Lane = "action" if pending.kind == "action" else "transaction"
        queue = self._queues[lane]
        length_max = self._limits.action_queue_length_max if lane == "action" else self._limits.call_queue_length_max
        if len(queue) >= length_max and not urgent:  # what others wait for is never turned away
            name = "action_queue_length_max" if lane == "action" else "call_queue_length_max"
            raise Overloaded(f"{length_max} calls wait for a worker; the setting is {name}")
        (queue.appendleft if urgent else queue.append)(pending)
        if urgent or len(queue) == 1:  # or nobody can take who has come before it
            self._dispatch(lane)

    def _dispatch(self, lane: Lane) -> None:
        """Gives what waits to the workers that can take it, the least loaded first."""
        queue, generation = self._queues[lane], self._active
        while queue and generation is not None:
            pending = queue[0]
            if pending.future.done():
                queue.popleft()
                continue
            workers = generation.workers[lane]
            worker = self._chain.of(workers) if pending.fresh else least_busy(workers, nested=pending.nested)
            if worker is None:
                return
            queue.popleft()
            if isinstance(pending, RoomRequest):
                worker.rooms += 1
                pending.worker = worker
                pending.future.set_result(None)
                continue
            self.submit(worker, pending)

    def least_busy(self) -> WorkerProcess | None:
        """The transaction worker that would be lent a request now; None if all have enough to do."""
        return None if self._active is None else least_busy(self._active.workers["transaction"])

    def submit(self, worker: WorkerProcess, pending: Pending) -> None:
        """To a worker of the active generation, and to no other one."""
        assert self._active is not None
        view = self._pending_view(worker.shown) if pending.fresh else None
        mark = None if view is None else worker.chain.mark
        what = pending.kind, self._active.deployment.hash, pending.calls, self._clock.now_ns(), next(self._seeds)
        worker.submit(FunctionRequest(next(self._ids), *what, view, pending.kept, mark), pending)

    def _overtake(self, worker: WorkerProcess) -> None:
        """What was sent behind a request that runs long gets a second place, at the head of the queue.

        It runs in the first as well: so who has cost a worker gets none, or might cost a third; nor do jobs.
        """
        for pending in reversed(list(worker.pending.values())[1:]):
            if pending.places > 1 or pending.deaths or pending.future.done() or pending.kept:
                continue
            if len(pending.calls) > 1:
                pending.future.set_exception(Overtaken())
            elif runs_again(pending):
                pending.places += 1
                self._queues[worker.lane].appendleft(pending)
        self._dispatch(worker.lane)

    @staticmethod
    def _fail(pending: Pending | RoomRequest, error: Exception) -> None:
        if not pending.future.done():
            pending.future.set_exception(error)

    # --- Births and deaths -----------------------------------------------------------------------------------------

    async def _start_worker(self, generation: Generation, lane: Lane) -> None:
        if self._closing:
            raise ShuttingDown
        worker = WorkerProcess(
            lane,
            self._limits,
            processes=self._processes,
            stages=self._stages if lane == "transaction" else None,
            on_outcome=self._has_changed,
            on_late=self._overtake,
            on_gone=lambda worker: self._bury(generation, worker),
        )
        generation.workers[lane].append(worker)
        generation.report = RegistryReport.from_wire(await worker.start(generation.deployment, self._data_path))
        generation.failures = 0
        if generation is self._active:
            self._has_changed(lane)

    def _has_changed(self, lane: Lane) -> None:
        if lane == "blocking":
            self._blocking.dispatch()
        else:
            self._dispatch(lane)

    def _start_blocking(self, generation: Generation) -> None:
        async def start() -> None:
            try:
                await self._replace(generation, "blocking")
            finally:
                generation.starting -= 1
                self._blocking.dispatch()

        generation.starting += 1
        self._spawn(start())

    def _bury(self, generation: Generation, worker: WorkerProcess) -> None:
        """Takes back what the dead worker had not answered, and starts another in its place."""
        generation.workers[worker.lane].remove(worker)
        unanswered, worker.pending = list(worker.pending.values()), {}
        if self._closing:
            return  # they have been told
        if worker.lane != "transaction":
            for pending in unanswered:
                self._fail(pending, action_error(worker))
        else:
            self._take_back(worker, unanswered)
        self._reap(worker)
        self._forget_if_empty(generation)
        if generation is self._active and worker.loaded and worker.lane != "blocking":
            self._spawn(self._replace(generation, worker.lane))  # if it was not loaded, who was starting it does this
        self._has_changed(worker.lane)

    def _forget_if_empty(self, generation: Generation) -> None:
        if generation is not self._active and not generation.all_workers():
            self._generations.discard(generation)

    def _take_back(self, worker: WorkerProcess, unanswered: list[Pending]) -> None:
        """The first was running, unless the worker had said that it was leaving."""
        if unanswered and not worker.leaving:
            running = unanswered[0]
            if worker.overdue is None:
                running.deaths += 1
                running.fresh = False
            if worker.overdue is running:
                self._fail(running, timed_out(running, self._limits))
            elif running.deaths >= (2 if runs_again(running) else 1):
                self._fail(running, crashed(running))
        for pending in reversed(unanswered):
            pending.places -= 1
            if not pending.places and not pending.future.done():
                pending.places = 1
                self._queues["transaction"].appendleft(pending)

    def _reap(self, worker: WorkerProcess) -> None:
        async def reap() -> None:
            await worker.wait_gone()
            self._on_worker_death()

        if not worker.leaving:
            self._deaths += 1
            if worker.loaded:  # Or whoever started it is told why it does not serve.
                logger.warning("worker %s (%s) died: %s", worker.pid, worker.lane, worker.killed_because)
        self._spawn(reap())

    async def _replace(self, generation: Generation, lane: Lane) -> None:
        """Starts one worker in place of a dead one; if it cannot start, again and again, ever slower."""
        while generation is self._active and not self._closing:
            try:
                await self._start_worker(generation, lane)
            except Exception:
                generation.failures += 1
                logger.exception("a worker could not be started")
                await asyncio.sleep(min(0.1 * 2**generation.failures, RESTART_S_MAX))
            else:
                return

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
