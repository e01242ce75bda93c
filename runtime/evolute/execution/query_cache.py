"""One result per distinct query, good until a commit touches what it read.

A result (`query_result.py`) may be used at T exactly if ``begin_ts <= T < broken_at``: it has the snapshot that it was
read at and, once known, the commit that broke it.

        begin_ts                          broken_at
    ───────●══════════ good here ═════════════○──────────► time

Each live result holds one subscription; sessions share the result and its encoded bytes. Callers that ask for the same
query at the same time wait for one run. A session asks for several queries *at one timestamp*: what is cached or
already running is shared first; what then turns out not to be good at the common timestamp joins a batch that is run in
one snapshot. The batch only grows, so this ends, however fast commits arrive.

A run of a paginated query notes in its journal where the page ends, and the same subscription asks with it from then
on. The result serves both calls, the one that was asked and the one with the journal: who comes back with the journal
finds what is there.

A run that did not ask who is calling has the answer for everybody. Who asks the same as somebody else gets a result of
his own, with what that run returned and read.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from evolute.clock import NS_PER_MS, Clock
from evolute.database.subscriptions import Subscriptions, Token
from evolute.database.write_log import LogReader
from evolute.errors import Overloaded
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallResult
from evolute.limits import Limits


@dataclass(frozen=True)
class QueryBatch:
    """What one run of a batch gave: one result per call, all read in the snapshot at `begin_ts`, which is published."""

    begin_ts: int
    results: tuple[CallResult, ...]


class Wanted(NamedTuple):
    """Good results of `stale`, at one timestamp of at least `at_least_ts` at which those that are `held` are good too.

    It is a key, by which those who want the same find each other.
    """

    stale: tuple[Call, ...]
    held: tuple[QueryResult, ...]
    at_least_ts: int


# That timestamp and the results of `stale`; None if more must be run; or what the run raised.
Found: TypeAlias = tuple[int, dict[Call, QueryResult]] | BaseException | None
Then: TypeAlias = Callable[[Wanted, Found], None]

# Sends the calls on their way at once; what it returns waits for their results.
Run = asyncio.Task[dict[Call, QueryResult]]
BeginBatch = Callable[[tuple[Call, ...]], Callable[[], Awaitable[QueryBatch]]]


@dataclass(frozen=True)
class QueryCacheStatistics:
    """`held` results are watched by at least one session; `idle_bytes` is about what the rest keep in memory."""

    results: int
    held: int
    idle_bytes: int
    running: int
    hits: int
    runs: int


class QueryCache:
    """Owns the live results. Lives on the event loop; nothing here is safe to call from another thread."""

    def __init__(
        self, begin_batch: BeginBatch, log: LogReader, subscriptions: Subscriptions, clock: Clock, limits: Limits
    ) -> None:
        self._begin_batch = begin_batch
        self._log = log
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._live: dict[Call, QueryResult] = {}
        # Those of runs that did not ask who is calling, by the call without its identity.
        self._of_anyone: dict[Call, QueryResult] = {}
        # The live results that nobody holds, the one used longest ago first; these are what the limit bounds.
        self._idle: OrderedDict[Call, QueryResult] = OrderedDict()
        self._idle_bytes = 0
        # How many callers are choosing among results of a call, which they may be about to hold.
        self._interested: Counter[Call] = Counter()
        self._running: dict[Call, Run] = {}
        # Who is told when a run has ended: those who want the same are looked up as one, in one turn of the loop.
        self._waiting: dict[Wanted, list[Then]] = {}
        self._wanted: dict[Run, list[Wanted]] = {}
        self._hits = 0
        self._runs = 0

    async def latest(self, call: Call) -> QueryResult:
        """The query's answer now: every commit published before this call is in it.

        Errors are never served from the cache, and a result serves for at most `query_cache_age_ms_max`.
        """
        cached = self._find(call)
        if cached is not None and self._serves_one_shot(cached):
            self._use(cached)
            return cached
        at_least_ts = self._log.published_ts
        while True:
            # A run that began before this call may have missed a commit; one that began after it has not.
            run = self._running.get(call)
            if run is None or run.done():
                run = self._start((call,))
            shared = (await asyncio.shield(run))[call]
            if shared.good_at(max(at_least_ts, shared.begin_ts)):
                return shared

    async def latest_together(self, calls: Collection[Call]) -> dict[Call, QueryResult]:
        """The answers of several queries at one time, each as `latest` gives it."""
        for call in calls:
            cached = self._find(call)
            if cached is not None and not self._serves_one_shot(cached):
                self.discard(cached)
        return (await self.results_at(tuple(calls), (), at_least_ts=self._log.published_ts))[1]

    def begin(self, wanted: Wanted, then: Then) -> bool:
        """Sets out to run those of the stale calls that have no live result and are not being run.

        Whether there is one run that all who lack a result wait for: `then` is called when it has ended, with what has
        been found, which is to be held in that very turn, or it may be evicted. False if there is none, or more than
        one, or if they are too many for one.
        """
        if (others := self._waiting.get(wanted)) is not None:
            others.append(then)
            return True
        runs: set[Run] = set()
        missing: dict[Call, None] = {}
        for call in wanted.stale:
            if (running := self._running.get(call)) is not None:
                runs.add(running)
            elif self._find(call) is None:
                missing[call] = None
        if len(missing) > self._limits.queries_per_run_max:
            return False
        if missing:
            runs.add(self._start(tuple(missing)))
        if len(runs) != 1:
            return False
        self._waiting[wanted] = [then]
        self._wanted[runs.pop()].append(wanted)
        return True

    def _find_for(self, wanted: Wanted) -> Found:
        """What `results_at` would give, if it would have to wait for nothing."""
        results: dict[Call, QueryResult] = {}
        try:
            for call in wanted.stale:
                if (result := self._find(call)) is None:
                    return None
                results[call] = result
        except Overloaded as error:
            return error
        if (ts := self._common_ts((*wanted.held, *results.values()), wanted.at_least_ts)) is None:
            return None
        for result in results.values():
            self._use(result)
        return ts, results

    async def results_at(
        self, stale: Sequence[Call], held: Collection[QueryResult], *, at_least_ts: int
    ) -> tuple[int, dict[Call, QueryResult]]:
        """One timestamp T >= `at_least_ts` and the results of `stale` at it.

        Every result in `held` is good at T too; those that were not have been run again and are in the answer.
        `at_least_ts` must be published. The caller holds what it gets in the same turn of the event loop, or it may be
        evicted. Raises what the run raises for faults that are not the functions' own.
        """
        calls = {*stale, *(result.call for result in held)}
        self._interested.update(calls)
        try:
            return await self._choose(stale, held, at_least_ts)
        finally:
            self._interested.subtract(calls)
            for call in calls:
                if not self._interested[call]:
                    del self._interested[call]

    async def _choose(
        self, stale: Sequence[Call], held: Collection[QueryResult], at_least_ts: int
    ) -> tuple[int, dict[Call, QueryResult]]:
        given = {result.call: result for result in held}
        chosen = given | await self._shared(stale)
        batch: dict[Call, None] = {}
        while (ts := self._common_ts(chosen.values(), at_least_ts)) is None:
            low_ts = max(at_least_ts, max(result.begin_ts for result in chosen.values()))
            batch |= dict.fromkeys(call for call, result in chosen.items() if not result.good_at(low_ts))
            chosen |= await asyncio.shield(self._start(tuple(batch)))
        wanted = set(stale)  # A call may be both: the same query, asked for by one who does not hold its result yet.
        return ts, {call: chosen[call] for call in chosen if call in wanted or chosen[call] is not given.get(call)}

    def discard(self, result: QueryResult) -> None:
        """Forgets the result, so that whoever asks next runs the query again; those who hold it keep it."""
        if self._live.get(result.call) is result:
            self._remove(result)
            self.keep_or_drop(result)

    def statistics(self) -> QueryCacheStatistics:
        results = set(self._live.values())
        return QueryCacheStatistics(
            results=len(results),
            held=sum(result.held for result in results),
            idle_bytes=self._idle_bytes,
            running=len(self._running),
            hits=self._hits,
            runs=self._runs,
        )

    async def close(self) -> None:
        """Ends the runs that are under way and every subscription."""
        for task in set(self._running.values()):
            task.cancel()
        await asyncio.gather(*set(self._running.values()), return_exceptions=True)
        for result in set(self._live.values()):
            self._remove(result)
            self._unsubscribe(result)

    def _find(self, call: Call) -> QueryResult | None:
        """The live result of the call; if it has none, one made of what somebody else has been answered."""
        if (own := self._live.get(call)) is not None:
            return own
        if (other := self._of_anyone.get(call.of_anyone())) is None:
            return None
        result = other.of(call)
        # The log is asked: a commit that breaks the other one may be about to tell it.
        return result if self._admit(result).broken_at is None else None

    # --- For the results -------------------------------------------------------------------------------------------

    def keep_or_drop(self, result: QueryResult) -> None:
        """A result is kept while it is held, and while it is the live one of its call and there is room for it."""
        is_live = self._live.get(result.call) is result
        is_idle = is_live and self._idle.get(result.call) is result
        if result.held and is_idle:
            self._leave_idle(result)
        elif not result.held and not is_live:
            self._unsubscribe(result)
        elif not result.held and not is_idle:
            self._idle[result.call] = result
            self._idle_bytes += result.size_bytes
            self._evict()

    def give_up(self, result: QueryResult) -> None:
        """A commit has broken it."""
        if self._live.get(result.call) is result:
            self._remove(result)
        self._unsubscribe(result)

    # --- Choosing -------------------------------------------------------------------------------------------------

    def _serves_one_shot(self, result: QueryResult) -> bool:
        age_ns = self._clock.now_ns() - result.made_ns
        return result.error is None and 0 <= age_ns <= self._limits.query_cache_age_ms_max * NS_PER_MS

    async def _shared(self, stale: Sequence[Call]) -> dict[Call, QueryResult]:
        """Results of all, a part after the other: who asks for thousands is to leave workers to others between them."""
        chosen: dict[Call, QueryResult] = {}
        length = self._limits.queries_per_run_max
        for first in range(0, len(stale), length):
            chosen |= await self._shared_part(stale[first : first + length])
        return chosen

    async def _shared_part(self, stale: Sequence[Call]) -> dict[Call, QueryResult]:
        """The live result of each call, or that of a run under way, or else of one new run for all the others."""
        chosen: dict[Call, QueryResult] = {}
        runs: dict[Run, None] = {}
        missing: dict[Call, None] = {}
        for call in stale:
            if (cached := self._find(call)) is not None:
                self._use(cached)
                chosen[call] = cached
            elif (running := self._running.get(call)) is not None:
                runs[running] = None
            else:
                missing[call] = None
        if missing:
            runs[self._start(tuple(missing))] = None
        wanted = set(stale)
        for run in runs:
            results = await asyncio.shield(run)
            chosen |= {call: result for call, result in results.items() if call in wanted}
        return chosen

    def _common_ts(self, results: Iterable[QueryResult], at_least_ts: int) -> int | None:
        """The latest published timestamp at which all are good, if there is one that is late enough."""
        low_ts, high_ts = at_least_ts, self._log.published_ts
        for result in results:
            low_ts = max(low_ts, result.begin_ts)
            if result.broken_at is not None:
                high_ts = min(high_ts, result.broken_at - 1)
        return high_ts if low_ts <= high_ts else None

    # --- Running ---------------------------------------------------------------------------------------------------

    def _start(self, calls: tuple[Call, ...]) -> Run:
        task = asyncio.get_running_loop().create_task(self._run(calls, self._begin_batch(calls)))
        self._wanted[task] = []
        for call in calls:
            self._running[call] = task
        task.add_done_callback(lambda done: self._forget(calls, done))
        return task

    def _forget(self, calls: tuple[Call, ...], task: Run) -> None:
        for call in calls:
            if self._running.get(call) is task:
                del self._running[call]
        error = None if task.cancelled() else task.exception()  # one whose waiters have all gone is nobody's
        for wanted in self._wanted.pop(task):
            waiting = self._waiting.pop(wanted)
            if not task.cancelled():
                found = error or self._find_for(wanted)
                for then in waiting:
                    then(wanted, found)

    async def _run(
        self, calls: tuple[Call, ...], finish: Callable[[], Awaitable[QueryBatch]]
    ) -> dict[Call, QueryResult]:
        self._runs += 1
        batch = await finish()
        now_ns = self._clock.now_ns()
        return {
            call: self._admit(QueryResult(call, result, batch.begin_ts, now_ns))
            for call, result in zip(calls, batch.results, strict=True)
        }

    def _admit(self, result: QueryResult) -> QueryResult:
        """Subscribes the result and makes it the live one of its call, unless it is broken already."""
        token = Token(result.read_set, result.begin_ts)
        subscription = self._subscriptions.subscribe(token, result.become_broken)
        if subscription.broken_at is not None:
            result.broken_at = subscription.broken_at
            return result
        result._subscription = subscription
        result._keeper = self
        for call in result.calls:
            if (earlier := self._live.get(call)) is not None:
                self._remove(earlier)
                self.keep_or_drop(earlier)
        self._live |= dict.fromkeys(result.calls, result)
        if not result.saw_identity and result.error is None:
            self._of_anyone |= dict.fromkeys(map(Call.of_anyone, result.calls), result)
        self.keep_or_drop(result)
        return result

    def _use(self, result: QueryResult) -> None:
        self._hits += 1
        if not result.held and result.call in self._idle:
            self._idle.move_to_end(result.call)

    def _evict(self) -> None:
        """Drops the results used longest ago until the rest fits, but none that a caller may be about to hold."""
        while self._idle_bytes > self._limits.query_cache_bytes_max:
            unwanted = (one for one in self._idle.values() if not any(call in self._interested for call in one.calls))
            result = next(unwanted, None)
            if result is None:
                return
            self._remove(result)
            self._unsubscribe(result)

    def _remove(self, result: QueryResult) -> None:
        """It is no longer the live one of its calls."""
        for call in result.calls:
            del self._live[call]
            if self._of_anyone.get(call.of_anyone()) is result:
                del self._of_anyone[call.of_anyone()]
        if self._idle.get(result.call) is result:
            self._leave_idle(result)

    def _leave_idle(self, result: QueryResult) -> None:
        del self._idle[result.call]
        self._idle_bytes -= result.size_bytes

    def _unsubscribe(self, result: QueryResult) -> None:
        """Nobody will say when it breaks, so it is known good only up to what is published now."""
        if result.broken_at is None:
            result.broken_at = self._log.published_ts + 1
        if result._subscription is not None:
            result._subscription.close()
            result._subscription = None
