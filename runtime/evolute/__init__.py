"""The function author's whole API.

    from evolute import Document, Id, QueryCtx, define_schema, define_table, query

Names are imported when they are first asked for: every `import evolute.anything` runs this file first, and a client or
a server needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evolute.database.index_range import Range
    from evolute.errors import (
        BadRequest,
        ContextClosed,
        ConvexError,
        DefinitionError,
        DiskFault,
        EvoluteError,
        FunctionFault,
        FunctionNotFound,
        IndexNotFound,
        IndexNotReady,
        InvalidCursor,
        InvalidId,
        InvalidQuery,
        InvalidSchedule,
        InvalidValue,
        LimitReached,
        NonexistentDocument,
        NotUnique,
        Overloaded,
        SideEffectRefused,
        SystemTableError,
        ValidationFailed,
        WrongKind,
    )
    from evolute.registry.auth_providers import CustomJwtProvider, OidcProvider
    from evolute.registry.contexts import ActionCtx, BlockingActionCtx, MutationCtx, QueryCtx
    from evolute.registry.crons import Crons
    from evolute.registry.decorators import (
        action,
        internal_action,
        internal_mutation,
        internal_query,
        mutation,
        query,
    )
    from evolute.registry.definition import Function
    from evolute.registry.job_options import JobOutcome, Pool, Retry
    from evolute.values import q, v
    from evolute.values.cron_schedule import Schedule, cron, daily, hourly, interval, monthly, weekly
    from evolute.values.pagination import PaginationOptions, PaginationResult
    from evolute.values.schema import define_schema, define_table
    from evolute.values.value import COMMIT_TS, UNSET, Document, Id, Int64

__all__ = [
    "COMMIT_TS",
    "UNSET",
    "ActionCtx",
    "BadRequest",
    "BlockingActionCtx",
    "ContextClosed",
    "ConvexError",
    "Crons",
    "CustomJwtProvider",
    "DefinitionError",
    "DiskFault",
    "Document",
    "EvoluteError",
    "Function",
    "FunctionFault",
    "FunctionNotFound",
    "Id",
    "IndexNotFound",
    "IndexNotReady",
    "Int64",
    "InvalidCursor",
    "InvalidId",
    "InvalidQuery",
    "InvalidSchedule",
    "InvalidValue",
    "JobOutcome",
    "LimitReached",
    "MutationCtx",
    "NonexistentDocument",
    "NotUnique",
    "OidcProvider",
    "Overloaded",
    "PaginationOptions",
    "PaginationResult",
    "Pool",
    "QueryCtx",
    "Range",
    "Retry",
    "Schedule",
    "SideEffectRefused",
    "SystemTableError",
    "ValidationFailed",
    "WrongKind",
    "action",
    "cron",
    "daily",
    "define_schema",
    "define_table",
    "hourly",
    "internal_action",
    "internal_mutation",
    "internal_query",
    "interval",
    "monthly",
    "mutation",
    "q",
    "query",
    "v",
    "weekly",
]

# Where a name is looked for, from the lowest layer up, so that it is found where it is defined.
_HOMES = (
    "evolute.registry.job_options",  # first, because the errors have a branch that is called Retry too
    "evolute.errors",
    "evolute.values.value",
    "evolute.values.schema",
    "evolute.values.pagination",
    "evolute.values.cron_schedule",
    "evolute.registry.definition",
    "evolute.registry.contexts",
    "evolute.registry.crons",
    "evolute.registry.auth_providers",
    "evolute.registry.decorators",
    "evolute.database.index_range",
)

if not TYPE_CHECKING:  # a type checker would take it for a promise that every name exists

    def __getattr__(name):
        if name in ("q", "v"):  # modules, whose functions have names like `field`, `any` and `object`
            globals()[name] = import_module(f"evolute.values.{name}")
            return globals()[name]
        if name in __all__:
            for home in _HOMES:
                module = import_module(home)
                if hasattr(module, name):
                    globals()[name] = getattr(module, name)
                    return globals()[name]
        raise AttributeError(f"module 'evolute' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
