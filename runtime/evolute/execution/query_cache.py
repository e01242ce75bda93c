"""One result per distinct query, good until a commit touches what it read.

A result is an immutable value with two timestamps: the snapshot it was read at and, once known, the commit that broke
it. It may be used at T exactly if ``begin_ts <= T < broken_at``.

        begin_ts                          broken_at
    ───────●══════════ good here ═════════════○──────────► time

Each live result holds one subscription; sessions share the result and its encoded bytes. Callers that ask for the same
query at the same time wait for one run. A session asks for several queries *at one timestamp*: what is cached or
already running is shared first; what then turns out not to be good at the common timestamp joins a batch that is run in
one snapshot. The batch only grows, so this ends, however fast commits arrive.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from evolute.clock import NS_PER_MS, Clock
from evolute.database.subscriptions import Subscription, Subscriptions, Token
from evolute.database.write_log import LogReader
from evolute.execution.request import Call, CallError, CallResult
from evolute.limits import Limits


@dataclass(frozen=True)
class QueryBatch:
    """What one run of a batch gave: one result per call, all read in the snapshot at `begin_ts`, which is published."""

    begin_ts: int
    results: tuple[CallResult, ...]


RunBatch = Callable[[tuple[Call, ...]], Awaitable[QueryBatch]]
Listener = Callable[[], None]

_OVERHEAD_BYTES = 512


class QueryResult:
    """A query's answer at `begin_ts`, and for as long as `broken_at` is None.

    `encoded` is a place for the session layer: the answer as it goes over the wire, made once and shared.
    """

    __slots__ = (
        "_listeners",
        "_on_idle",
        "_subscription",
        "begin_ts",
        "broken_at",
        "call",
        "encoded",
        "error",
        "log_lines",
        "made_ns",
        "value",
    )

    def __init__(self, call: Call, result: CallResult, begin_ts: int, made_ns: int) -> None:
        self.call = call
        self.value: bytes | None = result.value
        self.error: CallError | None = result.error
        self.log_lines = result.log_lines
        self.begin_ts = begin_ts
        self.made_ns = made_ns
        self.broken_at: int | None = None
        self.encoded: bytes | None = None
        self._subscription: Subscription | None = None
        self._listeners: dict[Listener, None] = {}
        self._on_idle: Callable[[QueryResult], None] | None = None

    def good_at(self, ts: int) -> bool:
        return self.begin_ts <= ts and (self.broken_at is None or ts < self.broken_at)

    def same_answer(self, other: QueryResult) -> bool:
        """Whether a client that has `other` needs to hear of this one. Decided on bytes."""
        return (self.value, self.error, self.log_lines) == (other.value, other.error, other.log_lines)

    def hold(self, listener: Listener) -> None:
        """Keep the result live; `listener` is called once, synchronously, when it breaks. Look at `broken_at` first."""
        self._listeners[listener] = None

    def release(self, listener: Listener) -> None:
        """Undo `hold`. Releasing twice does nothing."""
        self._listeners.pop(listener, None)
        if not self._listeners and self._on_idle is not None:
            self._on_idle(self)

    @property
    def held(self) -> bool:
        return bool(self._listeners)

    @property
    def size_bytes(self) -> int:
        return _OVERHEAD_BYTES + len(self.value or b"") + len(self.call.arguments)


@dataclass(frozen=True)
class QueryCacheStatistics:
    """`held` results are watched by at least one session; `bytes` counts answers and arguments."""

    results: int
    held: int
    bytes: int
    running: int
    hits: int
    runs: int


class QueryCache:
    """Owns the live results. Lives on the event loop; nothing here is safe to call from another thread."""

    def __init__(
        self, run_batch: RunBatch, log: LogReader, subscriptions: Subscriptions, clock: Clock, limits: Limits
    ) -> None:
        self._run_batch = run_batch
        self._log = log
        self._subscriptions = subscriptions
        self._clock = clock
        self._limits = limits
        self._live: OrderedDict[Call, QueryResult] = OrderedDict()
        self._running: dict[Call, asyncio.Task[dict[Call, QueryResult]]] = {}
        self._bytes = 0
        self._hits = 0
        self._runs = 0

    async def latest(self, call: Call) -> QueryResult:
        """The query's answer now: every commit published before this call is in it.

        Errors are never served from the cache, and a result serves for at most `query_cache_age_ms_max`.
        """
        cached = self._live.get(call)
        if cached is not None and self._serves_one_shot(cached):
            self._live.move_to_end(call)
            self._hits += 1
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

    async def results_at(
        self, stale: Sequence[Call], held: Collection[QueryResult], *, at_least_ts: int
    ) -> tuple[int, dict[Call, QueryResult]]:
        """One timestamp T >= `at_least_ts` and the results of `stale` at it.

        Every result in `held` is good at T too; those that were not have been run again and are in the answer.
        `at_least_ts` must be published. Raises what the run raises for faults that are not the functions' own.
        """
        given = {result.call: result for result in held}
        chosen = given | await self._shared(stale)
        batch: dict[Call, None] = {}
        while (ts := self._common_ts(chosen.values(), at_least_ts)) is None:
            low_ts = max(at_least_ts, max(result.begin_ts for result in chosen.values()))
            batch |= dict.fromkeys(call for call, result in chosen.items() if not result.good_at(low_ts))
            chosen |= await asyncio.shield(self._start(tuple(batch)))
        return ts, {call: result for call, result in chosen.items() if result is not given.get(call)}

    def discard(self, result: QueryResult) -> None:
        """Forgets the result, so that whoever asks next runs the query again; those who hold it keep it."""
        if self._live.get(result.call) is result:
            del self._live[result.call]
            self._bytes -= result.size_bytes
            self._retire(result)

    def statistics(self) -> QueryCacheStatistics:
        return QueryCacheStatistics(
            results=len(self._live),
            held=sum(result.held for result in self._live.values()),
            bytes=self._bytes,
            running=len(self._running),
            hits=self._hits,
            runs=self._runs,
        )

    async def close(self) -> None:
        """Ends the runs that are under way and every subscription."""
        for task in set(self._running.values()):
            task.cancel()
        await asyncio.gather(*set(self._running.values()), return_exceptions=True)
        for result in list(self._live.values()):
            self._drop(result)

    # --- Choosing -------------------------------------------------------------------------------------------------

    def _serves_one_shot(self, result: QueryResult) -> bool:
        age_ns = self._clock.now_ns() - result.made_ns
        return result.error is None and 0 <= age_ns <= self._limits.query_cache_age_ms_max * NS_PER_MS

    async def _shared(self, stale: Sequence[Call]) -> dict[Call, QueryResult]:
        """The live result of each call, or that of a run under way, or else of one new run for all the others."""
        chosen: dict[Call, QueryResult] = {}
        runs: dict[asyncio.Task[dict[Call, QueryResult]], None] = {}
        missing: dict[Call, None] = {}
        for call in stale:
            if (cached := self._live.get(call)) is not None:
                self._live.move_to_end(call)
                self._hits += 1
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

    def _start(self, calls: tuple[Call, ...]) -> asyncio.Task[dict[Call, QueryResult]]:
        task = asyncio.get_running_loop().create_task(self._run(calls))
        for call in calls:
            self._running[call] = task
        task.add_done_callback(lambda done: self._forget(calls, done))
        return task

    def _forget(self, calls: tuple[Call, ...], task: asyncio.Task[dict[Call, QueryResult]]) -> None:
        for call in calls:
            if self._running.get(call) is task:
                del self._running[call]
        if not task.cancelled():
            task.exception()  # Every waiter has it; a run whose waiters have all gone is nobody's error.

    async def _run(self, calls: tuple[Call, ...]) -> dict[Call, QueryResult]:
        self._runs += 1
        batch = await self._run_batch(calls)
        return {
            call: self._admit(QueryResult(call, result, batch.begin_ts, self._clock.now_ns()), result)
            for call, result in zip(calls, batch.results, strict=True)
        }

    def _admit(self, result: QueryResult, run: CallResult) -> QueryResult:
        """Subscribes the result and makes it the live one of its call, unless it is broken already."""

        def on_broken(commit_ts: int) -> None:
            result.broken_at = commit_ts
            self._drop(result)
            listeners, result._listeners = list(result._listeners), {}
            for listener in listeners:
                listener()

        subscription = self._subscriptions.subscribe(Token(run.read_set, result.begin_ts), on_broken)
        if subscription.broken_at is not None:
            result.broken_at = subscription.broken_at
            return result
        result._subscription = subscription
        result._on_idle = self._retire
        earlier = self._live.pop(result.call, None)
        if earlier is not None:
            self._bytes -= earlier.size_bytes
            self._retire(earlier)
        self._live[result.call] = result
        self._bytes += result.size_bytes
        self._evict()
        return result

    def _evict(self) -> None:
        """Drops the results used longest ago that no session holds, until the rest fits."""
        if self._bytes <= self._limits.query_cache_bytes_max:
            return
        for result in [result for result in self._live.values() if not result.held]:
            if self._bytes <= self._limits.query_cache_bytes_max:
                return
            self._drop(result)

    def _drop(self, result: QueryResult) -> None:
        if self._live.get(result.call) is result:
            del self._live[result.call]
            self._bytes -= result.size_bytes
        self._unsubscribe(result)

    def _retire(self, result: QueryResult) -> None:
        """A result that is neither held nor the live one of its call needs no subscription any more."""
        if not result.held and self._live.get(result.call) is not result:
            self._unsubscribe(result)

    def _unsubscribe(self, result: QueryResult) -> None:
        """Nobody will say when it breaks, so it is known good only up to what is published now."""
        if result.broken_at is None:
            result.broken_at = self._log.published_ts + 1
        if result._subscription is not None:
            result._subscription.close()
            result._subscription = None
