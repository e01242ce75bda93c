"""The queries that one session watches, and the result that each of them holds.

    Add ──► stale ── accept(T) ──► good ── a commit touches it ──► stale ── accept(T) ──► … ──► Remove

A query is *stale* while it has no result that is good. `accept` takes the results of one computation and names the
queries whose client must hear of it: those whose answer differs from what this session was told last, and always those
that were never told. Holding a result keeps it live in the query cache, so every way out of here releases it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from evolute.database.read_set import ReadSet
from evolute.errors import (
    DiskFault,
    EvoluteError,
    FunctionCrashed,
    FunctionTimedOut,
    Overloaded,
    StoreCorrupt,
    WorkerDied,
)
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallError, CallResult
from evolute.limits import Limits
from evolute.sync.effects import RetryLater
from evolute.sync.identity import Identity

RUN_BROKE_OFF = frozenset(
    error.code
    for error in (DiskFault, EvoluteError, FunctionCrashed, FunctionTimedOut, Overloaded, StoreCorrupt, WorkerDied)
)
"""Failures that say nothing about what the query read, so that it is run again after a while."""


_NO_CALL = Call("", b"{}", kind="query")


def _standing_failure(error: CallError) -> QueryResult:
    """The answer of a query that can never run: it read nothing, so it is good at every timestamp."""
    return QueryResult(_NO_CALL, CallResult(None, error, (), ReadSet()), 0, 0)


class LiveQuery:
    """One subscribed query: `held` is its newest result, `told` the one that the client knows, if any.

    `call` is None for one that can never run; it holds its failure from the start. A result that brings a journal
    changes it: the next run is of the same page.
    """

    __slots__ = ("_on_broken", "attempts", "call", "held", "query_id", "stale", "told")

    def __init__(self, query_id: int, call: Call | CallError, on_broken: Callable[[], None]) -> None:
        self.query_id = query_id
        self.call = call if isinstance(call, Call) else None
        self.held: QueryResult | None = None
        self.told: QueryResult | None = None
        self.stale = True
        self.attempts = 0
        self._on_broken = on_broken
        if isinstance(call, CallError):
            self.hold(_standing_failure(call))

    def hold(self, result: QueryResult) -> None:
        """Replaces the held result. One that is broken by now leaves the query stale."""
        self.release()
        self.held = result
        self.call = self.call and result.call
        self.stale = result.broken_at is not None
        result.hold(self._break)
        if self.stale:
            self._on_broken()

    def release(self) -> None:
        if self.held is not None:
            self.held.release(self._break)
        self.held, self.stale = None, True

    def run_again(self) -> None:
        """Makes the query stale although nothing that it read has changed."""
        self._break()

    def _break(self) -> None:
        self.stale = True
        self._on_broken()


class QuerySet:
    """`on_broken` is called, synchronously and often, when a query becomes stale."""

    def __init__(self, on_broken: Callable[[], None]) -> None:
        self._queries: dict[int, LiveQuery] = {}
        self._broke_off: list[tuple[LiveQuery, QueryResult]] = []
        self._on_broken = on_broken

    def __len__(self) -> int:
        return len(self._queries)

    def __iter__(self) -> Iterator[LiveQuery]:
        return iter(self._queries.values())

    def add(self, query_id: int, call: Call | CallError) -> None:
        assert query_id not in self._queries
        self._queries[query_id] = LiveQuery(query_id, call, self._on_broken)

    def remove(self, query_id: int) -> None:
        self._queries.pop(query_id).release()

    def run_again(self, query_id: int, broken_off: QueryResult) -> None:
        """Makes the query stale if it still has the result of the run that broke off."""
        query = self._queries.get(query_id)
        if query is not None and query.held is broken_off:
            query.run_again()

    def ask_as(self, identity: Identity) -> None:
        """From now on the queries are asked by `identity`; results that another identity got are given up."""
        for query in self._queries.values():
            if query.call is None:
                continue
            call = query.call._replace(identity=identity.attributes, public_only=not identity.is_admin)
            if call != query.call:
                query.call = call
                query.release()

    def wanted(self) -> tuple[tuple[Call, ...], tuple[QueryResult, ...]]:
        """The calls of stale queries, each once, and the results that are held and, as far as is known, good now.

        Failures of what is no call are good for ever and left out.
        """
        stale: list[Call] = []
        held: list[QueryResult] = []
        for query in self._queries.values():
            if query.call is None:
                continue
            if query.stale:
                stale.append(query.call)
            elif query.held is not None:
                held.append(query.held)
        return tuple(stale) if len(stale) < 2 else tuple(dict.fromkeys(stale)), tuple(held)

    def accept(self, results: Mapping[Call, QueryResult]) -> list[LiveQuery]:
        """Holds the new results; returns the queries whose client must be told of `held`, and counts them as told."""
        changed: list[LiveQuery] = []
        for query in self._queries.values():
            result = None if query.call is None else results.get(query.call)
            if result is not None and result is not query.held:
                query.hold(result)
                if result.error is not None or query.attempts:
                    self._note_failure(query, result)
            held, told = query.held, query.told
            assert held is not None, "every query has a result once a computation is over"
            if told is held:
                continue
            if told is None or not told.same_answer(held):
                changed.append(query)
            query.told = held
        return changed

    def _note_failure(self, query: LiveQuery, result: QueryResult) -> None:
        if result.error is not None and result.error.code in RUN_BROKE_OFF:
            query.attempts += 1
            self._broke_off.append((query, result))
        else:
            query.attempts = 0

    def retries(self, limits: Limits) -> list[RetryLater]:
        """Whose new result is of a run that broke off is run again: the more such runs in a row, the later."""
        found: list[RetryLater] = []
        for query, result in self._broke_off:
            delay_ms = min(limits.query_retry_ms_min << min(query.attempts - 1, 32), limits.query_retry_ms_max)
            found.append(RetryLater(query.query_id, result, delay_ms))
        self._broke_off = []
        return found

    def close(self) -> None:
        """Releases every result. The set is empty afterwards."""
        for query in self._queries.values():
            query.release()
        self._queries.clear()
        self._on_broken = lambda: None  # whose set it was is let go
