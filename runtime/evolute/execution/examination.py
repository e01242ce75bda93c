"""Looking at the rows of a table before a schema is activated: in a worker that has loaded it, on one snapshot a time.

    RowsRequest ──► rows after `after`, up to so many ──► RowsExamined: entries of the new indexes, or the first fault
                    and those named in `again`

A row is read and decoded once for both. What crosses the channel are bytes; the server never decodes what a user has
stored, and imports none of the code that may check it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from evolute.database.catalog import IndexEntry
from evolute.database.document import decode_document, without_system_fields
from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.errors import LimitReached, ValidationFailed
from evolute.limits import Limits
from evolute.storage.keyspace import INTERNAL_ID_BYTES, after_prefix, document_key, document_prefix
from evolute.values.schema import Schema
from evolute.values.value import Value

Wire: TypeAlias = tuple[Any, ...]


class Fault(NamedTuple):
    """A row that does not fit. `is_new`: it was written since the examination began."""

    document_id: str
    detail: str
    is_new: bool
    is_key: bool = False
    """Its entry in an index is too long; else it does not match the schema."""


class RowsRequest(NamedTuple):
    """What to look at: at most `rows_max` rows after the internal id `after`, or `bytes_max` bytes of them.

    With `until` it ends with that one. The rows named in `again` are validated again; with `fill_again` it is they that
    get entries, and no others.
    """

    table: str
    number: int
    validate: bool
    indexes: tuple[tuple[int, str, tuple[str, ...]], ...]
    after: bytes
    until: bytes
    rows_max: int
    bytes_max: int
    again: tuple[bytes, ...] = ()
    fill_again: bool = False


class RowsExamined(NamedTuple):
    """What was found at `begin_ts`. `last` is the internal id of the last row; `is_end`: there are no more."""

    begin_ts: int
    rows: int
    last: bytes
    is_end: bool
    entries: dict[bytes, bytes]
    fault: Fault | None

    def to_wire(self) -> Wire:
        """Plain data that `marshal` takes."""
        return (*self[:5], None if self.fault is None else tuple(self.fault))

    @classmethod
    def from_wire(cls, wire: Wire) -> RowsExamined:
        begin_ts, rows, last, is_end, entries, fault = wire
        return cls(begin_ts, rows, last, is_end, entries, None if fault is None else Fault(*fault))


class _Unfit(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


class Examination:
    """One request on one snapshot."""

    def __init__(self, request: RowsRequest, snapshot: Snapshot, schema: Schema, limits: Limits) -> None:
        self._request = request
        self._snapshot = snapshot
        self._limits = limits
        self._validator = schema.validators.get(request.table) if request.validate else None
        self._indexes = [IndexEntry(*index) for index in request.indexes]
        # The validators of ids ask it for the names and numbers of tables.
        self._names = Transaction(snapshot, limits=limits, now_ns=0, seed=b"", writable=False)
        self._entries: dict[bytes, bytes] = {}
        self._rows = 0
        self._last = request.after
        self._is_end = True

    def run(self) -> RowsExamined:
        fault: Fault | None = None
        try:
            self._look_again()
            self._look_on()
        except _Unfit as unfit:
            fault = unfit.fault
        return RowsExamined(self._snapshot.begin_ts, self._rows, self._last, self._is_end, self._entries, fault)

    def _look_again(self) -> None:
        for internal_id in self._request.again:
            data = self._snapshot.get(document_key(self._request.number, internal_id))
            if data is None:
                continue
            document = decode_document(data)
            self._validate(document, is_new=True)
            if self._request.fill_again:
                self._fill(document, internal_id)

    def _look_on(self) -> None:
        request, size = self._request, 0
        validated, filled = self._validator is not None, bool(self._indexes) and not request.fill_again
        for internal_id, data in self._documents():
            if self._rows >= request.rows_max or size >= request.bytes_max:
                self._is_end = False
                return
            size += len(data)
            document = decode_document(data)
            if validated:
                self._validate(document, is_new=False)
            if filled:
                size += self._fill(document, internal_id)
            self._rows += 1
            self._last = internal_id

    def _documents(self) -> Iterator[tuple[bytes, bytes]]:
        after, until = self._request.after, self._request.until
        prefix = document_prefix(self._request.number)
        start = prefix + after + b"\0" if after else prefix
        end = prefix + until + b"\0" if until else after_prefix(prefix)
        for key, data in self._snapshot.scan(start, end):
            yield key[-INTERNAL_ID_BYTES:], data

    def _validate(self, document: dict[str, Value], *, is_new: bool) -> None:
        if self._validator is None:
            return
        try:
            self._validator.dump(without_system_fields(document), self._names)
        except ValidationFailed as error:
            raise _Unfit(Fault(str(document["_id"]), str(error), is_new)) from None

    def _fill(self, document: dict[str, Value], internal_id: bytes) -> int:
        """Adds the entries of a document. Returns their size."""
        size = 0
        for index in self._indexes:
            key = index.key_of(document, internal_id)
            if len(key) > self._limits.key_bytes_max:
                error = LimitReached(
                    f'its entry in the index "{index.name}" has a key of {len(key)} bytes; it may have '
                    f"{self._limits.key_bytes_max} (`key_bytes_max`). Index a shorter field, or a hash of this one."
                )
                raise _Unfit(Fault(str(document["_id"]), str(error), is_new=False, is_key=True))
            self._entries[key] = internal_id
            size += len(key)
        return size


def examine(request: RowsRequest, snapshot: Snapshot, schema: Schema, limits: Limits) -> RowsExamined:
    """Everything that a request asks for, up to the first row at fault."""
    return Examination(request, snapshot, schema, limits).run()
