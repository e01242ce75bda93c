"""A transaction: one snapshot, everything that is read from it, and the writes that wait to be committed.

    snapshot ──► get, query ──► documents ──► insert, patch, … ──► overlay ──► write_set() ──► committer
                     │              ▲                                 │
                     ▼              ╰───────── own writes ────────────╯
                 read_set

It never writes to the store. What breaks a rule of transactions (a limit, a query used wrongly) poisons it: even if the
function swallows the error, there is nothing to commit. Functions use it through `ctx.db`, which keeps them from the
runtime's tables; the server's own transactions use it directly.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from evolute.clock import NS_PER_MS
from evolute.database.budget import Budget, WriteCounts
from evolute.database.catalog import IndexEntry, IndexState, TableDefinition
from evolute.database.deferred_write import Deferral
from evolute.database.document import (
    checked_fields,
    decode_document,
    decoded_id,
    encode_document,
    is_user_table,
    with_system_fields,
    without_system_fields,
)
from evolute.database.new_ids import NewIds
from evolute.database.overlay import DocumentWrite, Overlay
from evolute.database.query import Query
from evolute.database.read_set import ReadSet
from evolute.database.reads import Reads
from evolute.database.snapshot import Snapshot
from evolute.database.tables import Tables
from evolute.database.write_set import WriteSet
from evolute.errors import InvalidId, InvalidValue, NonexistentDocument, SystemTableError, ValidationFailed
from evolute.limits import Limits
from evolute.storage.keyspace import document_key
from evolute.values.document_id import decode_id, encode_id
from evolute.values.row_types import row_type
from evolute.values.schema import IndexDefinition, Schema
from evolute.values.validators import Validator
from evolute.values.value import SYSTEM_FIELDS, UNSET, Value
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER

E = TypeVar("E", bound=BaseException)


class Savepoint(NamedTuple):
    """A moment of a transaction to which its writes can be rolled back."""

    undo_length: int
    written: WriteCounts
    deferred: Deferral | None


class _Found(NamedTuple):
    """A document that a write names."""

    definition: TableDefinition
    key: bytes
    internal_id: bytes
    data: bytes


class Transaction:
    """Reads of one snapshot and writes on top of it. Used by one function at a time, on one thread.

    The snapshot stays its opener's: it must be open for as long as the transaction is used, and `close` leaves it open.
    `seed` (random bytes, new for each attempt) makes the document ids; `now_ns` makes the creation times. Without
    `writable` every write is a programming error. `schema` is what user tables are checked against, if anything.
    `scheduled_count` and `scheduled_bytes` are `jobs.schedule`'s counters of what it has scheduled; `reads_left` and
    `uncounted` are those of its budget.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        limits: Limits,
        now_ns: int,
        seed: bytes,
        writable: bool,
        schema: Schema | None = None,
    ) -> None:
        self.begin_ts = snapshot.begin_ts
        self.now_ns = now_ns
        self.limits = limits
        self.scheduled_count = 0
        self.scheduled_bytes = 0
        self._new_ids = NewIds(seed, now_ns)
        self._writable = writable
        self._schema = schema
        self._budget = Budget(limits)
        self._overlay = Overlay()
        self._reads = Reads(snapshot, self._overlay, self._budget, limits)
        self.deferred = self._reads.deferred
        self.reads_left, self.uncounted = self._budget.reads_left, self._budget.uncounted
        self._tables = Tables(self._reads, self._overlay, limits)
        self._poison: BaseException | None = None
        self._next_creation_time = max(self.begin_ts + 1, now_ns) / NS_PER_MS

    # --- reads -------------------------------------------------------------------------------------------------------

    def get(self, document_id: str) -> dict[str, Value] | None:
        """The document, or None if there is none (semantics D5). Raises InvalidId, LimitReached."""
        number, internal_id = decoded_id(document_id, "get")
        self._reads.check_open()
        if (data := self._reads.document(document_key(number, internal_id))) is None:
            return None
        self._budget.count_read(len(data))
        return decode_document(data)

    def query(self, table: str) -> Query[dict[str, Any]]:
        """The documents of a table; nothing is read before the query is used."""
        self._reads.check_open()
        return Query(self, table)

    def normalize_id(self, table: str, text: str) -> str | None:
        """`text` if it is an id of this table, whether or not there is such a document; else None."""
        self._reads.check_open()
        try:
            number, _ = decode_id(text)
        except InvalidId:
            return None
        return text if number == self.table_number(table) else None

    def scan(
        self, table_number: int, start: bytes, end: bytes, *, reverse: bool, walked: list[bytes] | None = None
    ) -> Generator[dict[str, Value], None, None]:
        """What `Query` reads: the documents of an interval of one of the table's indexes. See `Reads.scan`."""
        return self._reads.scan(table_number, start, end, reverse=reverse, walked=walked)

    # --- writes ------------------------------------------------------------------------------------------------------

    def insert(self, table: str, fields: Mapping[str, object], *, internal_id: bytes | None = None) -> str:
        """A new document; returns its id. A table that does not exist is made, with the indexes the schema declares.

        `internal_id` is for rows whose id is derived from what they hold; there must be no such document. Raises
        InvalidValue, ValidationFailed, SystemTableError, InvalidId, LimitReached.
        """
        self._check_writable()
        definition = self._tables.definition(table) or self._create_named(table)
        number = definition.number
        if internal_id is None:
            internal_id = self._new_internal_id(number)
        else:
            assert self._reads.document(document_key(number, internal_id)) is None, f"{internal_id.hex()} exists"
        creation_time = self._next_creation_time
        self._next_creation_time = math.nextafter(creation_time, math.inf)
        document_id = encode_id(number, internal_id)
        given = self._plain_fields(definition, fields, "insert")
        document = with_system_fields(given, document_id, creation_time, user_table=is_user_table(number))
        self._put(definition, document_key(number, internal_id), internal_id, None, None, document)
        return document_id

    def patch(self, document_id: str, fields: Mapping[str, object]) -> None:
        """Replaces the given top-level fields; UNSET removes one. A patch that changes nothing is no write.

        Raises NonexistentDocument, and what `insert` raises.
        """
        self._check_writable()
        found = self._existing(document_id, "patch", "Update on")
        old = decode_document(found.data)
        merged = {**old, **checked_fields(fields, "patch")}
        if UNSET in fields.values():
            merged = {name: value for name, value in merged.items() if value is not UNSET or name in SYSTEM_FIELDS}
        self._put_changed(document_id, found, old, merged)

    def replace(self, document_id: str, fields: Mapping[str, object]) -> None:
        """Replaces every field but the system fields. Raises what `patch` raises."""
        self._check_writable()
        found = self._existing(document_id, "replace", "Replace on")
        old = decode_document(found.data)
        self._put_changed(document_id, found, old, self._plain_fields(found.definition, fields, "replace"))

    def delete(self, document_id: str) -> None:
        """Raises NonexistentDocument, InvalidId, LimitReached."""
        self._check_writable()
        definition, key, internal_id, data = self._existing(document_id, "delete", "Delete on")
        self._budget.count_write(0, user_table=is_user_table(definition.number))
        before, before_keys, _ = self._in_snapshot(definition, key, internal_id, data, None)
        self._overlay.put_document(key, DocumentWrite(internal_id, before, before_keys, None, ()))

    def _put_changed(
        self, document_id: str, found: _Found, old: dict[str, Value], fields: Mapping[str, object]
    ) -> None:
        creation_time = cast(float, old["_creationTime"])
        user_table = is_user_table(found.definition.number)
        document = with_system_fields(fields, document_id, creation_time, user_table=user_table)
        self._put(found.definition, found.key, found.internal_id, found.data, old, document)

    def _put(
        self,
        definition: TableDefinition,
        key: bytes,
        internal_id: bytes,
        current: bytes | None,
        old: dict[str, Value] | None,
        document: dict[str, object],
    ) -> None:
        """Check and buffer `document`, which stands under `key` with the bytes `current` (decoded: `old`)."""
        user_table = is_user_table(definition.number)
        validator = self._validator(definition)
        try:
            data = encode_document(document, self.limits, user_table=user_table)
        except InvalidValue:
            if validator is None:
                raise
            # A row type may hold what is no value but has one: a dataclass.
            document = {**document, **self._dumped(validator, definition, without_system_fields(document))}
            data = encode_document(document, self.limits, user_table=user_table)
            validator = None
        if data == current:
            return
        if validator is not None:
            self._dumped(validator, definition, without_system_fields(document))
        self._budget.count_write(len(data), user_table=user_table)
        before, before_keys, keys = self._in_snapshot(definition, key, internal_id, current, old)
        if old is None or not definition.have_same_keys(old, document):
            values = cast("dict[str, Value]", document)
            keys = tuple(definition.entry_keys(values, internal_id, self.limits.key_bytes_max))
        stamped = data.count(COMMIT_TS_PLACEHOLDER)
        self._overlay.put_document(key, DocumentWrite(internal_id, before, before_keys, data, keys, stamped))

    def _in_snapshot(
        self,
        definition: TableDefinition,
        key: bytes,
        internal_id: bytes,
        current: bytes | None,
        old: dict[str, Value] | None,
    ) -> tuple[bytes | None, tuple[bytes, ...], tuple[bytes, ...]]:
        """The snapshot's bytes under `key`, their index keys, and those of `current` (decoded: `old`), seen now."""
        write = self._overlay.documents.get(key)
        if write is not None:
            return write.old, write.old_keys, write.new_keys
        if current is None:
            return None, (), ()
        keys = tuple(definition.entry_keys(old or decode_document(current), internal_id))
        return current, keys, keys

    def _existing(self, document_id: str, method: str, text: str) -> _Found:
        number, internal_id = decoded_id(document_id, method)
        name = self._tables.name(number)
        definition = self._tables.definition(name) if name is not None else None
        if definition is None:
            raise InvalidId(f'Table for ID "{document_id}" not found')
        key = document_key(number, internal_id)
        if (data := self._reads.document(key)) is None:
            raise NonexistentDocument(f"{text} nonexistent document ID {document_id}")
        self._budget.count_read(len(data))
        return _Found(definition, key, internal_id, data)

    def _new_internal_id(self, number: int) -> bytes:
        """An id that exists already, because a seed was used again, is passed over."""
        while True:
            internal_id = self._new_ids.next()
            if self._reads.document(document_key(number, internal_id)) is None:
                return internal_id

    # --- the schema --------------------------------------------------------------------------------------------------

    def declared_index(self, table: str, index: str) -> IndexDefinition | None:
        """The index that the schema declares for a table, which may not exist yet."""
        declared = self._schema.tables.get(table) if self._schema is not None else None
        return next((one for one in declared.indexes if one.name == index), None) if declared is not None else None

    def _validator(self, definition: TableDefinition) -> Validator | None:
        if self._schema is None or not is_user_table(definition.number):
            return None
        return self._schema.validators.get(definition.name)

    def _dumped(self, validator: Validator, definition: TableDefinition, fields: object) -> dict[str, Value]:
        """`fields` as a plain dict that the schema accepts. Raises ValidationFailed with the text of semantics E4."""
        try:
            return cast("dict[str, Value]", validator.dump(fields, self))
        except ValidationFailed as error:
            raise ValidationFailed(
                f'Failed to insert or update a document in table "{definition.name}" '
                f"because it does not match the schema: {error}"
            ) from None

    def _plain_fields(self, definition: TableDefinition, fields: object, method: str) -> Mapping[str, object]:
        """The fields of a new value, which may be given as an instance of the table's row type."""
        validator = self._validator(definition)
        if validator is not None and not isinstance(fields, Mapping) and row_type(type(fields)) is not None:
            return self._dumped(validator, definition, fields)
        return checked_fields(fields, method)

    # --- tables and raw keys -----------------------------------------------------------------------------------------

    def table(self, name: str) -> TableDefinition | None:
        """The table as this transaction sees it, or None. Raises InvalidValue for what cannot be a table's name."""
        self._reads.check_open()
        return self._tables.definition(name)

    def table_number(self, name: str) -> int | None:
        return None if (definition := self.table(name)) is None else definition.number

    def table_name(self, number: int) -> str | None:
        self._reads.check_open()
        return self._tables.name(number)

    def create_table(
        self, name: str, indexes: Iterable[IndexDefinition], *, number: int | None = None
    ) -> TableDefinition:
        """A new table, which must not exist; the runtime's own tables bring their numbers. Raises LimitReached."""
        self._check_writable()
        return self._tables.create(name, indexes, number)

    def new_index(self, index: IndexDefinition, state: IndexState) -> IndexEntry:
        """An index with a new id, to be put into a definition."""
        self._check_writable()
        return self._tables.new_index(index, state)

    def put_table(self, definition: TableDefinition) -> None:
        """Replace a table's definition. A table with rows must have no new index that is not backfilling."""
        self._check_writable()
        self._tables.put(definition)

    def get_raw(self, key: bytes) -> bytes | None:
        """The value of a key outside of tables."""
        self._reads.check_open()
        return self._reads.raw(key)

    def scan_raw(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The keys with start <= key < end, outside of tables, and their values; each is read when it is asked for."""
        return self._reads.scan_raw(start, end, reverse=reverse)

    def put_raw(self, key: bytes, value: bytes | None, *, stamped: int = 0) -> None:
        """None deletes. The first `stamped` placeholders of the commit timestamp in `value` are filled in."""
        self._check_writable()
        self._overlay.put_raw(key, value, stamped=stamped)

    def _create_named(self, table: str) -> TableDefinition:
        if table.startswith("_"):
            raise SystemTableError("System tables (prefixed with `_`) are read-only.")
        declared = self._schema.tables.get(table) if self._schema is not None else None
        return self._tables.create(table, declared.indexes if declared is not None else ())

    def used(self) -> dict[str, int]:
        """How much of each limit was used, by the name of its setting; scheduling counts its own."""
        used = self._budget.used()
        used["read_set_intervals_max"] = len(self.read_set)
        return used

    # --- life --------------------------------------------------------------------------------------------------------

    @property
    def read_set(self) -> ReadSet:
        """Everything read so far, by queries that are still being iterated too. May be taken after `close`."""
        return self._reads.read_set

    def write_set(self) -> WriteSet:
        """What to commit. Raises the poison. May be taken after `close`."""
        if self.poisoned is not None:
            raise self.poisoned
        self.deferred.make()
        return self._overlay.write_set()

    def savepoint(self) -> Savepoint:
        """Before a nested mutation."""
        self._reads.check_open()
        return Savepoint(self._overlay.savepoint(), self._budget.written(), self.deferred.waiting)

    def rollback(self, savepoint: Savepoint) -> None:
        """Undo the writes since then; the reads, the creation times and what was scheduled stay counted (C7)."""
        self._reads.check_open()
        if self._overlay.rollback(savepoint.undo_length):
            self._tables.forget()
        self._budget.give_back(savepoint.written)
        self.deferred.waiting = savepoint.deferred

    @property
    def poisoned(self) -> BaseException | None:
        """Why the transaction can never commit, or None."""
        return self._poison or self._budget.exceeded

    def poison(self, error: E) -> E:
        """The transaction can never commit, whatever becomes of `error`, which is returned to be raised."""
        self._poison = self._poison or error
        return error

    def close(self) -> None:
        """The function has returned: from now on every use raises ContextClosed, that of a query kept from it too."""
        self._reads.closed = True

    def _check_writable(self) -> None:
        self._reads.check_open()
        assert self._writable, "a transaction that was opened for reading cannot write"
