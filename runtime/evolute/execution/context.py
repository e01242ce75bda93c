"""The contexts of queries and mutations: what `registry.contexts` promises, over one transaction.

    Attempt ── one run of one call: transaction, frozen time, seed, identity, clock
       ├── QueryContext       db (read)
       └── MutationContext    db (read, write)   scheduler   run_mutation
              └── nested calls get contexts of their own, over the same attempt

A context is the function's for as long as its scope is open.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NoReturn, Protocol, TypeAlias

from evolute.clock import NS_PER_MS
from evolute.database.transaction import Transaction
from evolute.execution.context_crons import ContextCrons
from evolute.execution.context_db import ContextReader, ContextWriter
from evolute.execution.journal import Journal, Pages
from evolute.execution.request import Call, Kind
from evolute.execution.schedule_options import NO_OPTIONS, Options, options_of
from evolute.execution.scheduling import Due, due_after, due_at, target_of
from evolute.execution.scope import Scope
from evolute.execution.time_limits import CallClock
from evolute.limits import Limits
from evolute.registry.definition import Function
from evolute.registry.registry import Registry
from evolute.system import jobs
from evolute.values import wire_codec

Reference: TypeAlias = Function[..., Any] | str
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def datetime_of(now_ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=now_ns // 1000)


@dataclass
class Attempt:
    """One run of one call, shared by the functions it is nested of.

    `saw_identity` is set as soon as one of them has asked who is calling.
    """

    registry: Registry
    limits: Limits
    clock: CallClock
    transaction: Transaction
    call: Call
    now_ns: int
    seed: bytes
    calls_made: int = 0
    journal: Journal = field(default_factory=lambda: Journal(None))
    saw_identity: bool = False


class NestedCalls(Protocol):
    """Runs a function inside the function that asks for it."""

    def nested(
        self,
        caller: QueryContext,
        kind: Kind,
        reference: Reference,
        positional: tuple[object, ...],
        named: Mapping[str, object],
    ) -> object: ...


class ContextAuth:
    """`ctx.auth`."""

    __slots__ = ("_attempt", "_identity")

    def __init__(self, identity: bytes | None, attempt: Attempt | None = None) -> None:
        self._identity = identity
        self._attempt = attempt

    def get_user_identity(self) -> dict[str, Any] | None:
        if self._attempt is not None:
            self._attempt.saw_identity = True
        if self._identity is None:
            return None
        identity = wire_codec.decode_canonical(self._identity)
        return identity if isinstance(identity, dict) else None


class QueryContext:
    """`ctx` of a query."""

    kind: Kind = "query"
    _db: type[ContextReader] = ContextReader

    def __init__(self, attempt: Attempt, calls: NestedCalls, scope: Scope, depth: int) -> None:
        self._attempt = attempt
        self._calls = calls
        self._scope = scope
        self._random: Random | None = None
        self._number = attempt.calls_made
        attempt.calls_made += 1
        self.depth = depth
        pages = Pages(attempt.transaction, attempt.journal, depth)
        self.db = self._db(attempt.transaction, scope, attempt.registry.schema, pages)

    @functools.cached_property
    def auth(self) -> ContextAuth:
        return ContextAuth(self._attempt.call.identity, self._attempt)

    @property
    def now(self) -> datetime:
        return datetime_of(self._attempt.now_ns)

    @property
    def now_ms(self) -> float:
        return self._attempt.now_ns / NS_PER_MS

    @property
    def random(self) -> Random:
        if self._random is None:
            # The document ids come from the same seed, so it is told apart; nested functions have their own.
            self._random = Random(self._attempt.seed + b"ctx.random" + self._number.to_bytes(4, "big"))
        return self._random

    def run_query(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        with self._scope:
            return self._calls.nested(self, "query", function, args, kwargs)

    def __getattr__(self, name: str) -> NoReturn:
        hints = {
            "scheduler": ": only mutations and actions schedule",
            "crons": ": only a mutation makes and removes crons",
            "run_mutation": ": a query cannot call a mutation, because it cannot write",
            "run_action": ": only an action runs an action; a mutation can schedule one with ctx.scheduler.run_after",
        }
        raise AttributeError(f"`ctx` of a {self.kind} has no {name!r}{hints.get(name, '')}")


class MutationContext(QueryContext):
    """`ctx` of a mutation."""

    kind: Kind = "mutation"
    _db = ContextWriter

    @functools.cached_property
    def scheduler(self) -> ContextScheduler:
        return ContextScheduler(self._attempt, self._scope)

    @functools.cached_property
    def crons(self) -> ContextCrons:
        attempt = self._attempt
        return ContextCrons(attempt.registry, attempt.transaction, attempt.limits, self._scope)

    def run_mutation(self, function: Reference, /, *args: object, **kwargs: object) -> object:
        with self._scope:
            return self._calls.nested(self, "mutation", function, args, kwargs)


class ContextScheduler:
    """`ctx.scheduler` of a mutation: jobs are rows of the same transaction."""

    __slots__ = ("_attempt", "_options", "_scope")

    def __init__(self, attempt: Attempt, scope: Scope, options: Options = NO_OPTIONS) -> None:
        self._attempt = attempt
        self._scope = scope
        self._options = options

    def options(self, **given: object) -> ContextScheduler:
        with self._scope:
            return ContextScheduler(self._attempt, self._scope, options_of(self._attempt.registry, given))

    def run_after(self, delay: object, function: Reference, /, *args: object, **kwargs: object) -> str:
        with self._scope:
            due = due_after(delay, self._attempt.now_ns, self._attempt.limits)
            return self._schedule(due, function, args, kwargs)

    def run_at(self, time: object, function: Reference, /, *args: object, **kwargs: object) -> str:
        with self._scope:
            return self._schedule(due_at(time, self._attempt.now_ns, self._attempt.limits), function, args, kwargs)

    def cancel(self, id: str, /) -> None:
        with self._scope:
            call = self._attempt.call
            jobs.cancel(self._attempt.transaction, id, own_job=call.job or call.parent_job)

    def _schedule(
        self, due: Due, reference: Reference, positional: tuple[object, ...], named: Mapping[str, object]
    ) -> str:
        attempt = self._attempt
        transaction, limits = attempt.transaction, attempt.limits
        target = target_of(attempt.registry, reference, positional, named, transaction, limits, self._options)
        return jobs.schedule(
            transaction,
            path=target.path,
            arguments=wire_codec.decode_canonical(target.arguments),
            due_ns=due.due_ns,
            scheduled_ms=due.scheduled_ms,
            parent_job=attempt.call.job or attempt.call.parent_job,
            options=target.options,
            arguments_bytes=len(target.arguments),
        )
