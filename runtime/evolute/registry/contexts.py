"""What a function sees: the author's API as types.

    QueryCtx     db (read)          auth  now  random  run_query
    MutationCtx  db (read, write)   auth  now  random  run_query  run_mutation              scheduler  crons
    ActionCtx                       auth  now  random  run_query  run_mutation  run_action  scheduler   (all awaited)
    BlockingActionCtx               auth  now  random  run_query  run_mutation  run_action  scheduler   (each waits)

These are protocols: a function names one of the contexts, an editor completes and checks its calls, and the
implementations live in the execution layer. A mutation's context is also a query's, so a helper that takes a `QueryCtx`
serves both. A function reference is the decorated function, whose arguments are then checked by name and type, or the
string "module:function", whose arguments are not. The runtime's own parameters are given by position only, so that no
argument name is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from evolute.registry.definition import ActionFunction, MutationFunction, QueryFunction, SchedulableFunction
from evolute.registry.job_options import KeyPolicy, Retry
from evolute.values.cron_schedule import Schedule
from evolute.values.pagination import PaginationOptions, PaginationResult
from evolute.values.q import Expression
from evolute.values.value import Id

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")


class IndexRange(Protocol):
    """Builds the range of an index query: equal leading fields, then bounds on the next one (D7). For people who port;
    `with_index(name, field=value, last=Range(gt=…))` says the same."""

    def eq(self, field: str, value: object, /) -> IndexRange: ...
    def gt(self, field: str, value: object, /) -> IndexRange: ...
    def gte(self, field: str, value: object, /) -> IndexRange: ...
    def lt(self, field: str, value: object, /) -> IndexRange: ...
    def lte(self, field: str, value: object, /) -> IndexRange: ...


class Query(Protocol[D]):
    """Documents of one table in an index's order. Nothing is read before the last call; it is used once (D6)."""

    def with_index(
        self, name: str, fn: Callable[[IndexRange], IndexRange] | None = None, /, **fields: object
    ) -> Query[D]:
        """The documents whose leading index fields equal `fields`; the last may be a `Range`."""
        ...

    def full_table_scan(self) -> Query[D]:
        """All documents, by creation time, as without any index."""
        ...

    def order(self, order: Literal["asc", "desc"], /) -> Query[D]: ...

    def filter(self, predicate: Callable[[D], bool] | Expression[bool], /) -> Query[D]:
        """Those for which a function of the document, or an expression of `q`, is true. The others are read too."""
        ...

    def first(self) -> D | None: ...

    def unique(self) -> D | None:
        """The only document, or None. Raises NotUnique for two."""
        ...

    def take(self, n: int, /) -> list[D]: ...
    def collect(self) -> list[D]: ...

    def paginate(
        self,
        options: PaginationOptions | Mapping[str, Any] = ...,
        /,
        *,
        num_items: int = ...,
        cursor: str | None = ...,
        end_cursor: str | None = ...,
        maximum_rows_read: int | None = ...,
        maximum_bytes_read: int | None = ...,
    ) -> PaginationResult[D]:
        """One page of the documents, which goes on where `cursor` says; once in a function. What is given by name takes
        the place of what the options say. A subscription's page keeps its end, so pages side by side stay gapless.

        Raises InvalidCursor, which is a ConvexError too, for a cursor of another query.
        """
        ...

    def __iter__(self) -> Iterator[D]: ...


class SystemReader(Protocol):
    """The runtime's own tables `_scheduled_functions`, `_crons` and `_cron_runs`. Only for reading."""

    @overload
    def get(self, id: Id[D], /) -> D | None: ...
    @overload
    def get(self, table: str, id: str, /) -> dict[str, Any] | None: ...

    def query(self, table: str, /) -> Query[dict[str, Any]]: ...
    def normalize_id(self, table: str, text: str, /) -> Id[Any] | None: ...


class Reader(Protocol):
    """`ctx.db` of a query. Tables are named by row type or by string; every read is remembered, absences too."""

    @property
    def system(self) -> SystemReader: ...

    @overload
    def query(self, table: type[D], /) -> Query[D]: ...
    @overload
    def query(self, table: str, /) -> Query[dict[str, Any]]: ...

    @overload
    def get(self, id: Id[D], /) -> D | None: ...
    @overload
    def get(self, table: type[D], id: Id[D], /) -> D | None: ...
    @overload
    def get(self, table: str, id: str, /) -> dict[str, Any] | None:
        """None if there is no such document. Raises InvalidId for a string that is no id, or one of another table."""
        ...

    @overload
    def normalize_id(self, table: type[D], text: str, /) -> Id[D] | None: ...
    @overload
    def normalize_id(self, table: str, text: str, /) -> Id[Any] | None: ...


class Writer(Reader, Protocol):
    """`ctx.db` of a mutation. Its own writes are seen by its later reads, and by others when it commits."""

    @overload
    def insert(self, table: type[D], fields: Mapping[str, object], /) -> Id[D]: ...
    @overload
    def insert(self, table: str, fields: Mapping[str, object], /) -> Id[Any]: ...

    @overload
    def patch(self, id: Id[Any], fields: Mapping[str, object], /) -> None: ...
    @overload
    def patch(self, table: type[D], id: Id[D], fields: Mapping[str, object], /) -> None: ...
    @overload
    def patch(self, table: str, id: str, fields: Mapping[str, object], /) -> None:
        """Replaces the given top-level fields; `UNSET` removes one. Raises NonexistentDocument, as do the other two.

        Naming the table as well makes an id of another one an error.
        """
        ...

    @overload
    def replace(self, id: Id[Any], fields: Mapping[str, object], /) -> None: ...
    @overload
    def replace(self, table: type[D], id: Id[D], fields: Mapping[str, object], /) -> None: ...
    @overload
    def replace(self, table: str, id: str, fields: Mapping[str, object], /) -> None: ...

    @overload
    def delete(self, id: Id[Any], /) -> None: ...
    @overload
    def delete(self, table: type[D], id: Id[D], /) -> None: ...
    @overload
    def delete(self, table: str, id: str, /) -> None: ...


class Scheduler(Protocol):
    """`ctx.scheduler` of a mutation: a job exists if and only if the mutation commits. In a blocking action each
    call is a transaction of its own, committed when it returns.

    The id names a row of `_scheduled_functions`. A bare number is milliseconds, since the epoch for `run_at`.
    Raises InvalidSchedule for a time or target that cannot be, ValidationFailed for arguments the target refuses.
    """

    @overload
    def run_after(
        self, delay: float | timedelta, function: SchedulableFunction[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Id[Any]: ...
    @overload
    def run_after(self, delay: float | timedelta, function: str, /, **args: object) -> Id[Any]: ...

    @overload
    def run_at(
        self, time: float | datetime, function: SchedulableFunction[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Id[Any]: ...
    @overload
    def run_at(self, time: float | datetime, function: str, /, **args: object) -> Id[Any]: ...

    def options(
        self,
        *,
        key: str | None = None,
        key_policy: KeyPolicy = "replace",
        pool: str | None = None,
        retry: Retry | None = None,
        on_complete: MutationFunction[..., object] | str | None = None,
    ) -> Scheduler:
        """A scheduler whose jobs are run in this way; what is not given here the function's decorator says.

        `key`: at most one job with it is pending at any time. "replace" cancels the one that is and schedules the new
        one (debounce), "keep" leaves it alone and returns its id (dedupe); a key is free as soon as its job starts, and
        a job that would be tried again while a newer one holds its key is not. `pool` is one of `functions/pools.py`.
        `retry` is for actions; one that is retried may run more than once. `on_complete(ctx, job: JobOutcome)` is a
        mutation that runs exactly once with the job's outcome, in the commit that ends the job; if it raises, the job
        ends all the same, and its row records `completionError`. Of a canceled job it runs after the commit that
        cancels, as soon as its pool has room, or after the interrupted action has stopped.

        Raises InvalidSchedule, here or where the job is scheduled.
        """
        ...

    def cancel(self, id: Id[Any], /) -> None:
        """A job that has not started never will; a running action is interrupted at its next await, a blocking one by
        the end of its process; one that has ended stays as it is."""
        ...


class ActionScheduler(Protocol):
    """`ctx.scheduler` of an action: each call is a transaction of its own, and stays when the action fails later."""

    @overload
    async def run_after(
        self, delay: float | timedelta, function: SchedulableFunction[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Id[Any]: ...
    @overload
    async def run_after(self, delay: float | timedelta, function: str, /, **args: object) -> Id[Any]: ...

    @overload
    async def run_at(
        self, time: float | datetime, function: SchedulableFunction[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Id[Any]: ...
    @overload
    async def run_at(self, time: float | datetime, function: str, /, **args: object) -> Id[Any]: ...

    def options(
        self,
        *,
        key: str | None = None,
        key_policy: KeyPolicy = "replace",
        pool: str | None = None,
        retry: Retry | None = None,
        on_complete: MutationFunction[..., object] | str | None = None,
    ) -> ActionScheduler:
        """As of a mutation's scheduler."""
        ...

    async def cancel(self, id: Id[Any], /) -> None: ...


class CronTable(Protocol):
    """`ctx.crons` of a mutation: crons that come and go with data, made and removed when the mutation commits.

    What there is, is read in `ctx.db.system.query("_crons")`, and the latest runs in "_cron_runs".
    """

    @overload
    def set(
        self,
        name: str,
        schedule: Schedule,
        function: SchedulableFunction[P, object],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    def set(self, name: str, schedule: Schedule, function: str, /, **args: object) -> None:
        """Makes the cron of this name, or changes it; with the schedule it has it keeps its cadence.

        Raises InvalidSchedule for what is wrong with name, schedule or function, and for the name of a cron that
        crons.py declares; ValidationFailed for arguments the target refuses.
        """
        ...

    def remove(self, name: str, /) -> None:
        """A run that has begun goes on, and there is no next. Nothing happens if there is no such cron."""
        ...


class Auth(Protocol):
    def get_user_identity(self) -> dict[str, Any] | None:
        """The claims of the caller's token (`subject`, `issuer`, `tokenIdentifier`, …), or None. Jobs have none."""
        ...


class _Ctx(Protocol):
    """What all of them have."""

    @property
    def auth(self) -> Auth: ...

    @property
    def now(self) -> datetime:
        """The time, in UTC. It stands still during a query or mutation."""
        ...

    @property
    def now_ms(self) -> float:
        """`now` in milliseconds since the epoch, as `_creationTime` counts."""
        ...

    @property
    def random(self) -> Random:
        """Seeded anew for each attempt."""
        ...


class QueryCtx(_Ctx, Protocol):
    """The first parameter of a query: one snapshot, only for reading."""

    @property
    def db(self) -> Reader: ...

    @overload
    def run_query(self, function: QueryFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run_query(self, function: str, /, **args: object) -> Any: ...


class MutationCtx(QueryCtx, Protocol):
    """The first parameter of a mutation: one transaction. It may run more than once; it commits at most once."""

    @property
    def db(self) -> Writer: ...

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def crons(self) -> CronTable: ...

    @overload
    def run_mutation(self, function: MutationFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run_mutation(self, function: str, /, **args: object) -> Any: ...


class ActionCtx(_Ctx, Protocol):
    """The first parameter of an action: no transaction of its own, but the world outside. Runs at most once."""

    @property
    def scheduler(self) -> ActionScheduler: ...

    @overload
    async def run_query(self, function: QueryFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run_query(self, function: str, /, **args: object) -> Any: ...

    @overload
    async def run_mutation(self, function: MutationFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run_mutation(self, function: str, /, **args: object) -> Any: ...

    @overload
    async def run_action(self, function: ActionFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run_action(self, function: str, /, **args: object) -> Any: ...


class BlockingActionCtx(_Ctx, Protocol):
    """The first parameter of an action that is a plain `def`: it runs in a process of its own and may block.

    Each call returns when it has been answered. `ctx` is for the thread that runs the action; others get ContextClosed.
    """

    @property
    def scheduler(self) -> Scheduler: ...

    @overload
    def run_query(self, function: QueryFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run_query(self, function: str, /, **args: object) -> Any: ...

    @overload
    def run_mutation(self, function: MutationFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run_mutation(self, function: str, /, **args: object) -> Any: ...

    @overload
    def run_action(self, function: ActionFunction[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run_action(self, function: str, /, **args: object) -> Any: ...
