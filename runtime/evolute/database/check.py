"""Is the store sound? Every invariant that the stored bytes must keep, checked by reading all of them once.

    a table's name ◄──► its number          each leads to the other
    a document ◄──► its index entries       it has exactly the entries that its fields ask for; of an index whose
                                            backfill goes on some may be missing, of one that is being dropped all
    the key of a document ──► its `_id`     and `_creationTime` is there
    the counters                            are beyond everything that was given out
    LAST_TS                                 is a timestamp
    a session's record                      can be read, and was committed, at LAST_TS or before
    what is being done to an index          can be read; there is such a backfill, or there is no such index
    every key                               belongs to a family of `keyspace`

It runs after every test, after every crash, and on an operator's demand (`evolute check`). It trusts nothing that it
reads, and goes on after each fault it finds. It keeps the catalog in memory and nothing that grows with the rows. What
the rows of the runtime's own tables must keep is `system/check.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from evolute.database.catalog import (
    BY_CREATION_TIME,
    CREATION_TIME,
    IndexEntry,
    TableDefinition,
    definition_from,
    name_from,
)
from evolute.database.document import FIRST_USER_TABLE_NUMBER
from evolute.database.index_work import work_from
from evolute.database.session_record import record_from
from evolute.errors import InvalidId, StoreCorrupt
from evolute.storage.engine import Reader
from evolute.storage.keyspace import (
    CATALOG_RANGE,
    INDEX_WORK_RANGE,
    LAST_TS,
    NEXT_INDEX_ID,
    NEXT_TABLE_NUMBER,
    ParsedKey,
    decode_number,
    document_key,
    parse,
    table_key,
    table_number_key,
)
from evolute.values.document_id import decode_id
from evolute.values.value import Value
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, decode_canonical

TIMESTAMP_MAX = 2**63 - 1
ROWS_PER_REPORT = 1000


def _nobody(rows: int) -> None:
    pass


def check(reader: Reader) -> list[str]:
    """Every broken invariant, as a sentence; none if the store is sound. `reader` should be an unbounded one."""
    return list(faults(reader))


def faults(reader: Reader, on_rows: Callable[[int], None] = _nobody) -> Iterator[str]:
    """The same one by one, as they are found. `on_rows` hears now and then how many rows have been looked at."""
    return _Check(reader, on_rows).run()


class _Check:
    def __init__(self, reader: Reader, on_rows: Callable[[int], None]) -> None:
        self._reader = reader
        self._on_rows = on_rows
        self._last_commit_ts = TIMESTAMP_MAX
        self._tables: dict[int, TableDefinition] = {}
        self._indexes: dict[int, tuple[TableDefinition, IndexEntry]] = {}
        self._dropped: set[int] = set()

    def run(self) -> Iterator[str]:
        yield from self._last_ts()
        yield from self._definitions()
        yield from self._index_work()
        yield from self._counter(NEXT_INDEX_ID, max(self._indexes, default=0))
        user_tables = [number for number in self._tables if number >= FIRST_USER_TABLE_NUMBER]
        yield from self._counter(NEXT_TABLE_NUMBER, max(user_tables, default=0))
        for rows, (key, value) in enumerate(self._reader.scan(b"", None)):
            if rows % ROWS_PER_REPORT == 0:
                self._on_rows(rows)
            parsed = parse(key)
            match parsed.family:
                case "table number":
                    yield from self._table_number(parsed, value)
                case "document":
                    yield from self._document(parsed, value)
                case "index":
                    yield from self._entry(parsed, key, value)
                case "session record":
                    yield from self._session_record(parsed, value)
                case "unknown":
                    yield f"{parsed} belongs to no family of keys."
                case "meta" | "table" | "index work":
                    pass

    # --- Records --------------------------------------------------------------------------------------------------

    def _last_ts(self) -> Iterator[str]:
        data = self._reader.get(LAST_TS)
        if data is None:
            yield "The last timestamp is missing."
        elif len(data) != 8 or not 0 < decode_number(data) <= TIMESTAMP_MAX:
            yield f"The last timestamp is not one: {data.hex()}."
        else:
            self._last_commit_ts = decode_number(data)

    def _session_record(self, parsed: ParsedKey, value: bytes) -> Iterator[str]:
        try:
            commit_ts = record_from(value).commit_ts
        except StoreCorrupt as error:
            yield f"{parsed} cannot be read: {error}."
            return
        if not 0 < commit_ts <= TIMESTAMP_MAX:
            yield f"{parsed} says that it was committed at {commit_ts}, which is no timestamp."
        elif commit_ts > self._last_commit_ts:
            yield f"{parsed} says that it was committed at {commit_ts}, after the last timestamp."

    def _counter(self, key: bytes, given_out_max: int) -> Iterator[str]:
        """`given_out_max` is the largest number that the counter must have given out, 0 if none."""
        data = self._reader.get(key)
        if data is None:
            if given_out_max:
                yield f"{parse(key)} is missing, but {given_out_max} has been given out."
        elif len(data) != 8:
            yield f"{parse(key)} is not a number: {data.hex()}."
        elif decode_number(data) <= given_out_max:
            yield f"{parse(key)} is {decode_number(data)}, but {given_out_max} has been given out."

    # --- Catalog --------------------------------------------------------------------------------------------------

    def _definitions(self) -> Iterator[str]:
        for key, value in self._reader.scan(*CATALOG_RANGE):
            parsed = parse(key)
            try:
                table = definition_from(value)
            except StoreCorrupt as error:
                yield f"{parsed} cannot be read: {error}."
                continue
            if table.name != parsed.name:
                yield f"{parsed} is that of {table.name!r}."
            if self._reader.get(table_number_key(table.number)) is None:
                yield f"Table {table.name!r} has the number {table.number}, but the number has no name."
            if table.number in self._tables:
                yield f"Tables {table.name!r} and {self._tables[table.number].name!r} share the number {table.number}."
            self._tables[table.number] = table
            yield from self._definition_indexes(table)

    def _definition_indexes(self, table: TableDefinition) -> Iterator[str]:
        if table.indexes[BY_CREATION_TIME].fields:
            yield f"Index {BY_CREATION_TIME} of table {table.name!r} has fields of its own."
        for index in table.maintained:
            if index.id in self._indexes:
                other_table, other = self._indexes[index.id]
                yield (
                    f"Index {index.name} of table {table.name!r} and index {other.name} of table {other_table.name!r} "
                    f"share the id {index.id}."
                )
            self._indexes[index.id] = (table, index)

    def _index_work(self) -> Iterator[str]:
        for key, value in self._reader.scan(*INDEX_WORK_RANGE):
            parsed = parse(key)
            try:
                work = work_from(value)
            except StoreCorrupt as error:
                yield f"{parsed} cannot be read: {error}."
                continue
            table, index = self._indexes.get(parsed.number, (None, None))
            if work.dropping:
                self._dropped.add(parsed.number)
                if table is not None:
                    yield f"Index {parsed.number} is being dropped, but table {table.name!r} has it."
            elif index is None or index.state != "backfilling":
                yield f"{parsed} is a backfill, but no index of that id is backfilling."

    def _table_number(self, parsed: ParsedKey, value: bytes) -> Iterator[str]:
        try:
            name = name_from(value)
        except StoreCorrupt as error:
            yield f"{parsed} cannot be read: {error}."
            return
        table = self._tables.get(parsed.number)
        if self._reader.get(table_key(name)) is None:
            yield f"Number {parsed.number} is the table {name!r}, which does not exist."
        elif table is None or table.name != name:
            yield f"Number {parsed.number} is the table {name!r}, which has another number."

    # --- Documents and index entries ------------------------------------------------------------------------------

    def _document(self, parsed: ParsedKey, value: bytes) -> Iterator[str]:
        table = self._tables.get(parsed.number)
        if table is None:
            yield f"{parsed}: there is no such table."
            return
        document = _document_from(value)
        if document is None:
            yield f"{parsed} is not an object in canonical JSON."
            return
        if COMMIT_TS_PLACEHOLDER in value:
            yield f"{parsed} holds a commit timestamp that was never filled in."
            return  # what its index entries should be cannot be told
        if _parts_of(document.get("_id")) != (parsed.number, parsed.internal_id):
            yield f"{parsed} says that its id is {document.get('_id')!r}."
        if type(document.get(CREATION_TIME)) not in (int, float):
            yield f"{parsed} has no {CREATION_TIME}."
        for index in table.maintained:
            if not index.has(document):
                continue
            entry = self._reader.get(index.key_of(document, parsed.internal_id))
            if entry is None and index.state != "backfilling":
                yield f"{parsed} ({table.name!r}) has no entry in index {index.name}."

    def _entry(self, parsed: ParsedKey, key: bytes, value: bytes) -> Iterator[str]:
        if parsed.number in self._dropped:
            return
        if parsed.number not in self._indexes:
            yield f"{parsed}: there is no such index."
            return
        table, index = self._indexes[parsed.number]
        where = f"{parsed} ({index.name} of {table.name!r})"
        if value != parsed.internal_id:
            yield f"{where} leads to {value.hex()}."
        data = self._reader.get(document_key(table.number, parsed.internal_id))
        if data is None:
            yield f"{where} has no document."
            return
        document = _document_from(data)
        if document is None or COMMIT_TS_PLACEHOLDER in data:
            return  # a fault of the document, which says so itself
        if not index.has(document) or index.key_of(document, parsed.internal_id) != key:
            yield f"{where} is not what its document's fields ask for."


def _document_from(data: bytes) -> dict[str, Value] | None:
    try:
        document = decode_canonical(data)
    except Exception:  # the codec trusts its bytes, so there is no one way in which it stumbles over others
        return None
    return document if isinstance(document, dict) else None


def _parts_of(document_id: Value) -> tuple[int, bytes] | None:
    try:
        return decode_id(document_id) if isinstance(document_id, str) else None
    except InvalidId:
        return None
