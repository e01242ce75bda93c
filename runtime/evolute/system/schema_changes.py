"""From the tables and indexes that there are to those that a schema declares, while both are in use.

    begin     new indexes of tables with rows ──► backfilling: every write keeps them up to date from here on
                  the rows that are there get their entries, and are validated, by `execution.schema_change`
    finish    one transaction, that of the deployment: backfilled ──► enabled, a new one takes the place of one of its
              name, and what is no longer declared is dropped; tables that are empty are adapted here and now

Whatever happens in between, the indexes of the code that is served stay as they are. An index that is dropped leaves
the catalog at once, and its entries later, a few at a time; rows are never dropped, not even those of a table that the
schema no longer names: they are the only copy, and a name may be a slip. A change that is given up leaves its indexes
as they are, for the next one to go on with, or to drop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from evolute.database.catalog import BY_CREATION_TIME, IndexEntry, TableDefinition, definition_from, table_definition
from evolute.database.document import is_user_table
from evolute.database.index_work import IndexWork, work_from
from evolute.database.transaction import Transaction
from evolute.errors import SchemaNotReady
from evolute.storage.keyspace import CATALOG_RANGE, INDEX_WORK_RANGE, index_work_key, parse
from evolute.values.schema import IndexDefinition, TableWire

SchemaWire = Mapping[str, TableWire]
"""`Schema.to_wire()`."""


class IndexFill(NamedTuple):
    """A backfill to be gone on with after the document `position`; `rows` have been done."""

    entry: IndexEntry
    position: bytes
    rows: int


class TableWork(NamedTuple):
    """What has to be done to the rows of a table."""

    name: str
    number: int
    validate: bool
    fills: tuple[IndexFill, ...]


def begin(transaction: Transaction, schema: SchemaWire, unproven: Collection[str]) -> list[TableWork]:
    """The work that has to be done before `finish`. The rows of the tables `unproven` are to be validated.

    New indexes of tables that have rows are made, or found as an earlier change has left them; what is left of an
    earlier change and no longer wanted is dropped.
    """
    work: list[TableWork] = []
    for definition in list(_user_tables(transaction)):
        declared = _declared(schema, definition.name)
        definition = _begun(transaction, definition, declared)
        wanted = {(index.name, index.fields) for index in declared if not index.staged}
        fills = [
            _fill(transaction, index)
            for index in definition.building
            if index.state == "backfilling" and (index.name, index.fields) in wanted
        ]
        validate = definition.name in unproven
        if (fills or validate) and not _is_empty(transaction, definition.name):
            work.append(TableWork(definition.name, definition.number, validate, tuple(fills)))
    return work


def finish(transaction: Transaction, schema: SchemaWire, unproven: Collection[str]) -> None:
    """Make the tables what the schema declares. Of `unproven` ones it is not known that their rows match.

    Raises SchemaNotReady if one of these has rows, or an index has not been filled.
    """
    for table in schema:
        if transaction.table(table) is None:
            transaction.create_table(table, _declared(schema, table))
        elif table in unproven and not _is_empty(transaction, table):
            raise SchemaNotReady(f'the rows of table "{table}" have not been validated')
    for definition in list(_user_tables(transaction)):
        declared = _declared(schema, definition.name)
        kept = [definition.indexes[BY_CREATION_TIME]]
        kept += [_finished(transaction, definition, index) for index in declared]
        _replace(transaction, definition, kept)


def staged_work(transaction: Transaction) -> list[TableWork]:
    """The staged indexes that have not been filled, by tables."""
    work: list[TableWork] = []
    for definition in _user_tables(transaction):
        staged = [index for index in definition.building if index.staged and index.state == "backfilling"]
        if staged:
            fills = tuple(_fill(transaction, index) for index in staged)
            work.append(TableWork(definition.name, definition.number, False, fills))
    return work


def advance(transaction: Transaction, fills: Collection[IndexFill]) -> None:
    """Put on record how far these fills have come. Raises SchemaNotReady if one of them has been given up."""
    for fill in fills:
        data = transaction.get_raw(index_work_key(fill.entry.id))
        if data is None or work_from(data).dropping:
            raise SchemaNotReady(f'the index "{fill.entry.name}" is not being built any more')
        work = IndexWork(False, fill.position, fill.rows)
        transaction.put_raw(index_work_key(fill.entry.id), work.to_bytes())


def complete(transaction: Transaction, table: str, fills: Collection[IndexFill]) -> None:
    """Every document has its entry: the indexes are backfilled. Raises SchemaNotReady if one has been given up."""
    advance(transaction, fills)
    definition = transaction.table(table)
    assert definition is not None, "tables are never removed"
    done = {fill.entry.id for fill in fills}
    assert done <= {index.id for index in definition.building}
    entries = [
        dataclasses.replace(index, state="backfilled") if index.id in done else index for index in definition.maintained
    ]
    transaction.put_table(table_definition(definition.number, table, entries))
    for index_id in done:
        transaction.put_raw(index_work_key(index_id), None)


def next_drop(transaction: Transaction) -> int | None:
    """The id of an index whose entries are to be removed, or None."""
    for key, value in transaction.scan_raw(*INDEX_WORK_RANGE):
        if work_from(value).dropping:
            return parse(key).number
    return None


def note_drop(transaction: Transaction, index_id: int, *, removed: int, is_last: bool) -> None:
    """Put on record that so many entries of a dropped index are gone; with the last of them the record goes too."""
    data = transaction.get_raw(index_work_key(index_id))
    if data is not None:
        work = IndexWork(True, b"", work_from(data).rows + removed)
        transaction.put_raw(index_work_key(index_id), None if is_last else work.to_bytes())


# --- Inside -----------------------------------------------------------------------------------------------------------


def _user_tables(transaction: Transaction) -> Iterator[TableDefinition]:
    for _, value in transaction.scan_raw(*CATALOG_RANGE):
        definition = definition_from(value)
        if is_user_table(definition.number):
            yield definition


def _declared(schema: SchemaWire, table: str) -> list[IndexDefinition]:
    wire = schema.get(table)
    if wire is None:
        return []
    return [IndexDefinition(name, tuple(fields), name in wire["staged"]) for name, fields in wire["indexes"].items()]


def _is_empty(transaction: Transaction, table: str) -> bool:
    with transaction.uncounted():
        return transaction.query(table).first() is None


def _fill(transaction: Transaction, index: IndexEntry) -> IndexFill:
    data = transaction.get_raw(index_work_key(index.id))
    work = IndexWork() if data is None else work_from(data)
    return IndexFill(index, work.position, work.rows)


def _begun(transaction: Transaction, definition: TableDefinition, declared: list[IndexDefinition]) -> TableDefinition:
    """The table with the new indexes that it needs, and without those that an earlier change has left."""
    known = {(index.name, index.fields) for index in definition.maintained}
    wanted = {(index.name, index.fields) for index in declared}
    entries = [
        index
        for index in definition.maintained
        if index.state == "enabled" or index.staged or (index.name, index.fields) in wanted
    ]
    missing = [index for index in declared if not index.staged and (index.name, index.fields) not in known]
    if missing and not _is_empty(transaction, definition.name):
        entries += [_backfilling(transaction, index) for index in missing]
    return _replace(transaction, definition, entries)


def _backfilling(transaction: Transaction, index: IndexDefinition) -> IndexEntry:
    entry = transaction.new_index(index, "backfilling")
    transaction.put_raw(index_work_key(entry.id), IndexWork().to_bytes())
    return entry


def _finished(transaction: Transaction, definition: TableDefinition, index: IndexDefinition) -> IndexEntry:
    """The index as the schema declares it."""
    entry = next((one for one in definition.maintained if (one.name, one.fields) == index[:2]), None)
    if (entry is None or entry.state == "backfilling") and not _is_empty(transaction, definition.name):
        if not index.staged:
            raise SchemaNotReady(f'the index "{index.name}" of table "{definition.name}" has not been filled')
        entry = entry or _backfilling(transaction, index)
        return dataclasses.replace(entry, staged=True)
    entry = entry or transaction.new_index(index, "enabled")
    if entry.state == "backfilling":
        transaction.put_raw(index_work_key(entry.id), None)
    return dataclasses.replace(entry, state="backfilled" if index.staged else "enabled", staged=index.staged)


def _replace(transaction: Transaction, definition: TableDefinition, entries: list[IndexEntry]) -> TableDefinition:
    """The table with these indexes. Those that it has lost are to be dropped."""
    if set(entries) == set(definition.maintained):
        return definition
    kept = {index.id for index in entries}
    for index in definition.maintained:
        if index.id not in kept:
            transaction.put_raw(index_work_key(index.id), IndexWork(dropping=True).to_bytes())
    replaced = table_definition(definition.number, definition.name, entries)
    transaction.put_table(replaced)
    return replaced
