"""The lane of blocking actions: a process for each running call, started when there is no idle one.

    call ──► a place (`places`) ──► a process: an idle one, or a new one ──► the action ──► the process idle, or ended
              N at a time            as many as calls run                                    two are kept

A call that is cancelled is ended with its process, and with the processes that the action has started in its group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from evolute.errors import Overloaded, ShuttingDown
from evolute.execution.generation import Generation
from evolute.execution.pending_request import Callbacks, Pending
from evolute.execution.places import ROOM_DEPTH, Places
from evolute.execution.request import Call, FunctionOutcome
from evolute.execution.worker_process import WorkerProcess
from evolute.limits import Limits


class BlockingLane:
    """Lives on the event loop, as a part of the pool, which starts, buries and ends the processes.

    `active` is the generation that serves now. `start` begins to start one more process of it, and calls `dispatch`
    when that is ready, and when it has given it up. `submit` sends a request.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        active: Callable[[], Generation | None],
        start: Callable[[Generation], None],
        submit: Callable[[WorkerProcess, Pending], None],
    ) -> None:
        self._limits = limits
        self._active = active
        self._start = start
        self._submit = submit
        self._places = Places(limits.blocking_workers_max)
        self._takers: deque[asyncio.Future[WorkerProcess]] = deque()
        self._kept: dict[int, WorkerProcess] = {}  # by place, what a room keeps for the call in it
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many calls and rooms wait for a place or a process."""
        return self._places.waiting + len(self._takers)

    async def run(self, call: Call, callbacks: Callbacks) -> FunctionOutcome:
        """Runs the action, at most once. If the task is cancelled, returns when the process is gone.

        Raises Overloaded, and as `Pool.run` does.
        """
        length_max = self._limits.blocking_queue_length_max
        if call.place is None and self._places.queued >= length_max:
            raise Overloaded(
                f"{length_max} blocking actions wait for a process; the setting is blocking_queue_length_max"
            )
        async with self._places.taken(call.place, call.depth) as place, self._process(place.number) as worker:
            future: asyncio.Future[FunctionOutcome] = asyncio.get_running_loop().create_future()
            pending = Pending("action", (call._replace(place=place.number),), future, callbacks)
            self._submit(worker, pending)
            try:
                return await future
            except asyncio.CancelledError:
                if pending in worker.pending.values():  # it has not ended at the same moment
                    worker.cancel(pending)
                    await worker.wait_gone()
                raise

    @asynccontextmanager
    async def room(self) -> AsyncIterator[int]:
        """Waits for a place and a process, and keeps both while the block runs: the number of the place."""
        async with self._places.taken(None, ROOM_DEPTH) as place, self._process(place.number) as worker:
            self._kept[place.number] = worker
            try:
                yield place.number
            finally:
                del self._kept[place.number]

    def dispatch(self) -> None:
        """Gives processes to those who wait for one, starts what is missing and ends what is not needed."""
        generation = self._active()
        if generation is None or self._closed:
            return
        self._takers = deque(taker for taker in self._takers if not taker.done())
        idle = [worker for worker in generation.workers["blocking"] if worker.is_idle]
        while self._takers and idle:
            worker = idle.pop()
            worker.rooms += 1
            self._takers.popleft().set_result(worker)
        for _ in range(len(self._takers) - generation.starting):
            self._start(generation)
        for worker in idle[self._limits.blocking_workers_idle_max :]:
            worker.retire()

    def close(self) -> None:
        """Whoever waits is told that the server is shutting down."""
        self._closed = True
        self._places.fail_waiting(ShuttingDown())
        for taker in self._takers:
            if not taker.done():
                taker.set_exception(ShuttingDown())

    @asynccontextmanager
    async def _process(self, place: int) -> AsyncIterator[WorkerProcess]:
        """A process that is ready for a call, while the block runs: the one that is kept for the place, or another."""
        kept = self._kept.get(place)
        if kept is not None and kept.is_ready_for_next:
            yield kept
            return
        while not (worker := await self._take()).is_ready_for_next:
            worker.rooms -= 1  # it has died or was retired a moment ago
        try:
            yield worker
        finally:
            worker.rooms -= 1
            self.dispatch()

    async def _take(self) -> WorkerProcess:
        if self._closed:
            raise ShuttingDown
        taker: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        self.dispatch()
        try:
            return await taker
        except asyncio.CancelledError:
            if not taker.cancelled() and taker.exception() is None:  # it was given one at the same moment
                taker.result().rooms -= 1
                self.dispatch()
            raise
