"""Every error the runtime raises, grouped by what the caller should do about it.

    EvoluteError
     ├── Retry          nothing happened; the same call may succeed when it is made again
     ├── BadRequest     the caller must change the request
     ├── FunctionFault  the author must change the function
     ├── DiskFault      the operator must look at the disk or the data folder
     └── FateUnknown    a write may or may not have happened: the process stops

`ConvexError` stands beside the tree: it is the application's own error and carries the application's data.
`TimeLimit` and `Conflict` derive from BaseException, so that `except Exception` in a function cannot swallow them.

A class's docstring is its default message; `code` is the short name that goes over the wire.
"""

from __future__ import annotations

from typing import ClassVar


class EvoluteError(Exception):
    """An error of the runtime."""

    code: ClassVar[str] = "InternalServerError"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else (type(self).__doc__ or type(self).__name__).strip())


class ConvexError(Exception):
    """An application's error; `data` is any value and reaches the client as it is.

    Raised in a mutation it rolls the mutation back. It passes unchanged through `ctx.run_*`, HTTP and websocket.
    """

    data: object = None  # of a subclass that forgets to call __init__

    def __init__(self, data: object) -> None:
        super().__init__(data)
        self.data = data


# --- Retry: nothing happened ---------------------------------------------------------------------------------------


class Retry(EvoluteError):
    """Nothing happened. Make the same call again."""

    code = "Overloaded"


class WrongDeployment(Retry):
    """The snapshot belongs to another deployment than the code that this worker has loaded."""

    code = "WrongDeployment"


class OutOfRetention(Retry):
    """The transaction began before the oldest commit that the write log remembers."""

    code = "OutOfRetention"


class Withdrawn(Retry):
    """The transaction was run on a commit that was pending then and that the disk has refused since."""

    code = "Withdrawn"


class Overloaded(Retry):
    """A queue of the server is full. The message names the limit."""

    code = "Overloaded"


class TooManyWrites(Overloaded):
    """More is written than `write_bytes_per_s_max` allows. The code is the one for which clients wait longer."""

    code = "TooManyWritesInTimePeriod"


class Overtaken(Retry):
    """A batch was sent behind a request that runs long, and may still be run there. Its calls are run one by one."""


class Contended(Retry):
    """The data of this call changed in each of its runs, and run alone it did not end in time."""

    code = "OptimisticConcurrencyControlFailure"


class SchemaNotReady(Retry):
    """A table got rows before its new schema was prepared for them, or the preparation was given up."""

    code = "SchemaNotReady"


class IssuerUnavailable(Retry):
    """The keys of a token's issuer cannot be had at the moment, so nobody knows whether the token is good."""

    code = "AuthIssuerUnavailable"


class ShuttingDown(Retry):
    """The server is shutting down and takes no more calls."""

    code = "ShuttingDown"


# --- BadRequest: the caller must change the request -----------------------------------------------------------------


class BadRequest(EvoluteError):
    """The request cannot be served as it is."""

    code = "BadRequest"


class MalformedMessage(BadRequest):
    """A frame or body is not a message of the protocol."""

    code = "BadJsonBody"


class FunctionNotFound(BadRequest):
    """There is no such function."""

    code = "FunctionPathNotFound"


class WrongKind(BadRequest):
    """The function exists, but is of another kind."""

    code = "WrongFunctionType"


class InvalidValue(BadRequest):
    """Something is not a value, or too large or too deep for one."""

    code = "InvalidValue"


class ValidationFailed(BadRequest):
    """A value does not match its validator. The message names the field."""

    code = "ValidationFailed"


class InvalidId(BadRequest):
    """A string is not a document id, or an id of another table."""

    code = "InvalidId"


class NonexistentDocument(BadRequest):
    """A write names a document that does not exist."""

    code = "NonexistentDocument"


class SystemTableError(BadRequest):
    """A system table or system field was used where only the runtime may."""

    code = "SystemTableError"


class InvalidQuery(BadRequest):
    """A query was built or used wrongly."""

    code = "InvalidQuery"


class IndexNotFound(InvalidQuery):
    """The table has no index of that name."""

    code = "IndexNotFoundError"


class IndexNotReady(InvalidQuery):
    """The index is being built, or it is staged."""

    code = "IndexNotReady"


class NotUnique(InvalidQuery):
    """`unique()` found more than one document."""

    code = "NotUnique"


class MultiplePaginatedQueries(InvalidQuery):
    """A function paginated more than one query."""

    code = "MultiplePaginatedDatabaseQueries"


class InvalidPaginationLimit(InvalidQuery):
    """A page of which nothing may be read."""

    code = "InvalidPaginationLimit"


class InvalidCursor(InvalidQuery, ConvexError):
    """InvalidCursor: Tried to run a query starting from a cursor, but it looks like this cursor is from a different
    query."""

    code = "InvalidCursor"

    def __init__(self, message: str | None = None) -> None:
        Exception.__init__(self, " ".join((message or self.__doc__ or "").split()))
        # What the React hooks look for: they start again with the first page.
        self.data = {"isConvexSystemError": True, "paginationError": "InvalidCursor"}


class InvalidSchedule(BadRequest):
    """A delay, a time or a target cannot be scheduled."""

    code = "InvalidScheduledFunction"


class LimitReached(BadRequest):
    """A limit was reached. The message names the setting."""

    code = "LimitReached"


class Unauthorized(BadRequest):
    """The credentials are missing, malformed or wrong."""

    code = "Unauthenticated"


class BadAdminKey(Unauthorized):
    """The admin key is not this server's. It is in the data folder, in the file admin_key."""

    code = "BadAdminKey"


class KeyIsReadOnly(Unauthorized):
    """The admin key is read-only: it may run queries and look at lists."""

    code = "ReadOnlyAdminKey"


class InvalidAuthHeader(Unauthorized):
    """What should be a token is none."""

    code = "InvalidAuthHeader"


class NoAuthProvider(Unauthorized):
    """No auth provider is configured, so no user token can be valid here."""

    code = "NoAuthProvider"


# --- FunctionFault: the author must change the function ---------------------------------------------------------------


class FunctionFault(EvoluteError):
    """The function is at fault."""

    code = "FunctionFault"


class DefinitionError(FunctionFault):
    """A functions folder cannot be loaded. The message names every fault found, with file and line."""

    code = "InvalidModules"


class ContextClosed(FunctionFault):
    """`ctx` was used after its function returned."""

    code = "ContextClosed"


class SideEffectRefused(FunctionFault):
    """A query or mutation tried something that only an action may do."""

    code = "SideEffectRefused"


class CalledFunctionFailed(FunctionFault):
    """A function that an action called has failed. The message is the text of its error."""

    code = "CalledFunctionFailed"


class FunctionCrashed(FunctionFault):
    """The worker process died twice while it ran this call."""

    code = "FunctionCrashed"


class WorkerDied(FunctionFault):
    """The worker process died while this action ran. It may have acted."""

    code = "WorkerDied"


class FunctionTimedOut(FunctionFault):
    """The call ran past its time limit. The message names the setting."""

    code = "FunctionTimedOut"


# --- DiskFault: the operator must look at the disk --------------------------------------------------------------------


class DiskFault(EvoluteError):
    """The data folder or its disk needs attention."""

    code = "DiskFault"


class StorageFull(DiskFault):
    """The disk or the map of the store is full. Nothing was lost; writes fail until there is room."""

    code = "StorageFull"


class StorageFailed(DiskFault):
    """The store refused a write. It did not happen, and nothing was lost."""

    code = "StorageFailed"


class FormatMismatch(DiskFault):
    """The data folder was written by another version of the format."""

    code = "FormatMismatch"


class DataFolderInUse(DiskFault):
    """Another server has this data folder open."""

    code = "DataFolderInUse"


class StoreCorrupt(DiskFault):
    """The store breaks one of its own invariants."""

    code = "StoreCorrupt"


class FateUnknown(EvoluteError):
    """It is unknown whether a write happened. The process stops rather than guess; on restart the store decides."""

    code = "FateUnknown"


# --- Not for functions to catch ---------------------------------------------------------------------------------------


class TimeLimit(BaseException):
    """The call ran past its time limit; raised inside the function, at the line that was running."""


class Conflict(BaseException):
    """A commit after `begin_ts` touched `key`, which this transaction has read.

    Never seen by functions: the executor waits for `commit_ts` to be published and runs the call again.
    """

    def __init__(self, key: bytes, commit_ts: int) -> None:
        super().__init__(f"key {key.hex()} was touched by the commit at {commit_ts}")
        self.key = key
        self.commit_ts = commit_ts
