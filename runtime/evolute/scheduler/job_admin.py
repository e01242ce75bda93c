"""What those who operate the server do with jobs: list and show them with the reason why they wait, and change them.

Everything goes through the one door, a bounded transaction each. What is shown is plain data whose names are those of
the admin API; the fields of a job are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from evolute.clock import NS_PER_MS, Clock
from evolute.database.transaction import Transaction
from evolute.errors import BadRequest
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.scheduler.job_reason import Reason, reason_of
from evolute.scheduler.scheduler import Scheduler
from evolute.system import job_list, job_queue, job_sweep, jobs, pauses
from evolute.system.job_backlog import PoolBacklog, backlog
from evolute.system.job_list import Order, Page, Position, Wanted, pool_of
from evolute.system.job_sweep import Ended
from evolute.system.jobs import CANCELED, DEFAULT_POOL, FAILED, IN_PROGRESS, PENDING, Row, options_of
from evolute.values.wire_codec import encode

T = TypeVar("T")
Shown = dict[str, Any]


class JobPage(NamedTuple):
    """`next` is the `after` of the next page, None after the last. `paused`: None stands for everything."""

    jobs: list[Shown]
    next: str | None
    paused: frozenset[str | None]


class ShownJob(NamedTuple):
    """`arguments` is the canonical JSON of an object; None if it is too long to be shown."""

    fields: Shown
    arguments: bytes | None


class Done(NamedTuple):
    """A page of what is done to many: to how many `jobs`, and the `after` of the next page, None after the last."""

    jobs: int
    next: str | None


class JobAdmin:
    """Lives on the event loop, beside the scheduler."""

    def __init__(self, executor: Executor, scheduler: Scheduler, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._scheduler = scheduler
        self._clock = clock
        self._limits = limits

    # --- Looking ------------------------------------------------------------------------------------------------------

    async def find(
        self,
        *,
        state: str | None = None,
        function: str | None = None,
        pool: str | None = None,
        stuck: bool = False,
        order: str = "newest",
        after: str | None = None,
        limit: int,
    ) -> JobPage:
        """A page of at most `limit` jobs. It may be short before the last one: a page reads a bounded number of rows.

        `stuck`: only those that wait, or run, longer than they should; best in the order of their turns, "due". Raises
        BadRequest for what is no state, order or `after`.
        """
        in_order = _order(order)
        start = None if after is None else Position.of(after)
        if state not in (None, *job_list.STATES):
            raise BadRequest(f"There is no state {state!r}. There are: {', '.join(job_list.STATES)}.")
        wanted = Wanted(state, None if function is None else jobs.name_of(function), pool)

        def read(transaction: Transaction) -> tuple[Page, frozenset[str | None]]:
            paused = pauses.paused(transaction)

            def is_stuck(row: Row) -> bool:
                reason = self._reason(row, paused)
                return reason is not None and reason.is_stuck

            page = job_list.page(
                transaction,
                wanted,
                in_order,
                after=start,
                limit=min(limit, self._limits.admin_page_rows_max),
                rows_max=self._limits.system_rows_per_run_max,
                also=is_stuck if stuck else lambda row: True,
            )
            return page, paused

        page, paused = await self._run(read)
        return JobPage([self._summary(row, paused) for row in page.rows], _text(page.next), paused)

    async def show(self, job_id: str) -> ShownJob | None:
        """All there is to know of one job; None if there is none. Raises InvalidId."""
        jobs.check_job_id(job_id)

        def read(transaction: Transaction) -> tuple[Row | None, frozenset[str | None]]:
            return jobs.read(transaction, job_id), pauses.paused(transaction)

        row, paused = await self._run(read)
        if row is None:
            return None
        options = options_of(row)
        fields = self._summary(row, paused)
        fields |= {
            "error": row["state"].get("error"),
            "completionError": row.get("completionError"),
            "attempts": row.get("attempts", []),
            "workerDeaths": int(row.get("_deaths", 0)),
            "retry": options.get("retry"),
            "onComplete": options.get("onComplete"),
        }
        return ShownJob(fields, encode(row["args"][0]) if "args" in row else None)

    async def paused(self) -> frozenset[str | None]:
        return await self._run(pauses.paused)

    async def backlog(self) -> Mapping[str, PoolBacklog]:
        """By pool, what is due and has not been started; counts no more than `system_rows_per_run_max` jobs."""
        now_ns, rows_max = self._clock.now_ns(), self._limits.system_rows_per_run_max

        def read(transaction: Transaction) -> Mapping[str, PoolBacklog]:
            return backlog(transaction, now_ns=now_ns, begun=self._scheduler.taken, rows_max=rows_max)

        return await self._run(read)

    # --- Changing -----------------------------------------------------------------------------------------------------

    async def cancel(self, job_id: str) -> str | None:
        """The state in which it was found, None if there is none. One that had ended stays so. Raises InvalidId."""
        jobs.check_job_id(job_id)

        def cancel(transaction: Transaction) -> str | None:
            row = jobs.read(transaction, job_id)
            if row is None:
                return None
            if row["state"]["kind"] in (PENDING, IN_PROGRESS):
                jobs.cancel(transaction, job_id)
            return str(row["state"]["kind"])

        return await self._run(cancel)

    async def retry(self, job_id: str) -> str | None:
        """A failed job is pending again. Answers and raises as `cancel` does; one that has not failed stays so."""
        jobs.check_job_id(job_id)

        def retry(transaction: Transaction) -> str | None:
            row = jobs.read(transaction, job_id)
            if row is None:
                return None
            jobs.retry(transaction, job_id)
            return str(row["state"]["kind"])

        return await self._run(retry)

    async def retry_failed(self, *, function: str | None, after: str | None, before_ms: float) -> Done:
        """A page of those that failed before `before_ms`, of one function or all, is pending again."""
        name = None if function is None else jobs.name_of(function)
        start, limit = None if after is None else Position.of(after), self._limits.system_rows_per_run_max
        swept = await self._run(
            lambda transaction: job_sweep.retry(transaction, name=name, after=start, before_ms=before_ms, limit=limit)
        )
        return Done(swept.jobs, _text(swept.next))

    async def purge(self, which: str, *, after: str | None, before_ms: float) -> Done:
        """Deletes a page of those that ended before `before_ms`: which have "failed", or "finished" in another way.

        Raises BadRequest for any other word.
        """
        ended: Ended
        match which:
            case "failed" | "finished":
                ended = which
            case _:
                raise BadRequest(f"Jobs are purged that have failed, or finished, got {which!r}.")
        start, limit = None if after is None else Position.of(after), self._limits.system_rows_per_run_max
        swept = await self._run(
            lambda transaction: job_sweep.purge(transaction, ended, after=start, before_ms=before_ms, limit=limit)
        )
        return Done(swept.jobs, _text(swept.next))

    async def pause(self, pool: str | None) -> frozenset[str | None]:
        """Starts no more jobs of a pool, or no more jobs and crons at all. Raises BadRequest for no pool of ours."""
        known = {DEFAULT_POOL, *self._executor.report.pools, *await self._run(job_queue.pools)}
        if pool is not None and pool not in known:
            raise BadRequest(f"There is no pool {pool!r}. There are: {', '.join(sorted(known))}.")

        def pause(transaction: Transaction) -> frozenset[str | None]:
            pauses.pause(transaction, pool)
            return pauses.paused(transaction)

        return await self._run(pause)

    async def resume(self, pool: str | None) -> frozenset[str | None]:
        """Takes back one `pause`, and answers what is still paused. Raises BadRequest if there was none."""

        def resume(transaction: Transaction) -> frozenset[str | None]:
            paused = pauses.paused(transaction)
            if pool not in paused:
                held = ", ".join(sorted("everything" if one is None else f"the pool {one}" for one in paused))
                what = "Not everything" if pool is None else f"The pool {pool!r}"
                raise BadRequest(f"{what} is{' not' if pool else ''} paused. Paused: {held or 'nothing'}.")
            pauses.resume(transaction, pool)
            return pauses.paused(transaction)

        return await self._run(resume)

    # --- Inside -------------------------------------------------------------------------------------------------------

    async def _run(self, function: Callable[[Transaction], T]) -> T:
        return (await self._executor.run_system(function)).value

    def _reason(self, row: Row, paused: frozenset[str | None]) -> Reason | None:
        pool = pool_of(row)
        standing = self._scheduler.standing(row["_id"], jobs.path_of(row["name"]), pool)
        now_ns = self._clock.now_ns()
        return reason_of(row, standing, pool=pool, paused=paused, now_ns=now_ns, limits=self._limits)

    def _summary(self, row: Row, paused: frozenset[str | None]) -> Shown:
        state, reason = row["state"], self._reason(row, paused)
        error = state.get("error") if state["kind"] == FAILED else None
        return {
            "id": row["_id"],
            "function": jobs.path_of(row["name"]),
            "state": state["kind"],
            "pool": pool_of(row),
            "key": options_of(row).get("key"),
            "createdTime": row["_creationTime"],
            "scheduledTime": row["scheduledTime"],
            "dueTime": self._due_ms(row),
            "startedTime": row.get("_started"),
            "completedTime": row.get("completedTime"),
            "tries": int(row.get("_tries", 0)),
            "error": self._cut(error),
            "completionError": self._cut(row.get("completionError")),
            "why": None if reason is None else self._cut(reason.text),
            "stuck": reason is not None and reason.is_stuck,
        }

    @staticmethod
    def _due_ms(row: Row) -> float | None:
        """When its turn is or was: that of a job that is due at once is when it was scheduled."""
        if row["state"]["kind"] in (PENDING, CANCELED) and "_due" in row:
            return int(row["_due"]) / NS_PER_MS or float(row["_creationTime"])
        return None

    def _cut(self, text: str | None) -> str | None:
        return None if text is None else text[: self._limits.admin_text_characters_max]


def _order(order: str) -> Order:
    match order:
        case "newest" | "due":
            return order
        case _:
            raise BadRequest(f"There is no order {order!r}. There are: {', '.join(job_list.ORDERS)}.")


def _text(position: Position | None) -> str | None:
    return None if position is None else str(position)
