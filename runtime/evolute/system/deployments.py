"""The active deployment: which code runs, its sources, and the tables that its schema declares.

    DEPLOYMENT ──► hash          read by every execution, so a change invalidates exactly what ran the old code
    _deployments                 one row: hash, package, root
    _deployment_sources          one row for each file, as it was read

The rows are kept while nothing is active, because what does not load now may load at the next start.
Activating is one transaction. Tables and indexes that the schema is the first to name are made here; an index that it
no longer names stays as it is. A new index on a table that has rows would have to be built first, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from evolute.clock import NS_PER_MS
from evolute.database.catalog import TableDefinition, table_definition
from evolute.database.transaction import Transaction
from evolute.errors import DefinitionError
from evolute.storage.keyspace import DEPLOYMENT
from evolute.system.tables import DEPLOYMENTS, SOURCES
from evolute.values.schema import IndexDefinition

SchemaWire = Mapping[str, Mapping[str, list[str]]]
"""Each table's indexes with their fields: `Schema.to_wire()`."""


class RawReader(Protocol):
    """A snapshot or a reader of the store."""

    def get(self, key: bytes) -> bytes | None: ...


class Deployment(Protocol):
    """One reading of a functions folder: `sources` are its files by their paths below `root`, `hash` names them."""

    @property
    def hash(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def sources(self) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class KeptDeployment:
    """A deployment as the store keeps it."""

    hash: str
    package: str
    root: str
    sources: Mapping[str, bytes]


def active(source: Transaction | RawReader) -> str | None:
    """The hash of the active deployment. A transaction remembers that it was read."""
    data = source.get_raw(DEPLOYMENT) if isinstance(source, Transaction) else source.get(DEPLOYMENT)
    return data.decode() if data is not None else None


def kept(transaction: Transaction) -> KeptDeployment | None:
    """The deployment that was active last, with its sources, or None if there has never been one."""
    with transaction.uncounted():
        row = transaction.query(DEPLOYMENTS).first()
        if row is None:
            return None
        files = {file["path"]: file["source"] for file in transaction.query(SOURCES)}
    return KeptDeployment(row["hash"], row["package"], row["root"], files)


def activate(transaction: Transaction, deployment: Deployment, schema: SchemaWire) -> None:
    """Make it the active deployment. Writes nothing if it is that already.

    Raises DefinitionError naming every index that cannot be made; then nothing may be committed.
    """
    _adapt_tables(transaction, schema)
    if active(transaction) != deployment.hash:
        transaction.put_raw(DEPLOYMENT, deployment.hash.encode())
    with transaction.uncounted():
        _put_record(transaction, deployment)
        _put_sources(transaction, deployment.sources)


def deactivate(transaction: Transaction, nothing: str) -> None:
    """From now on nothing is active, under the hash `nothing`. What was active last is kept."""
    if active(transaction) != nothing:
        transaction.put_raw(DEPLOYMENT, nothing.encode())


def _put_record(transaction: Transaction, deployment: Deployment) -> None:
    fields = {"hash": deployment.hash, "package": deployment.package, "root": deployment.root}
    row = transaction.query(DEPLOYMENTS).first()
    if row is None:
        transaction.insert(DEPLOYMENTS, {**fields, "activatedTime": transaction.now_ns / NS_PER_MS})
    elif row["hash"] != deployment.hash:
        transaction.replace(row["_id"], {**fields, "activatedTime": transaction.now_ns / NS_PER_MS})
    else:
        transaction.patch(row["_id"], fields)


def _put_sources(transaction: Transaction, files: Mapping[str, bytes]) -> None:
    """Rows of files that are as they were are left alone."""
    kept_paths = set()
    for row in transaction.query(SOURCES):
        source = files.get(row["path"])
        if source is None:
            transaction.delete(row["_id"])
            continue
        kept_paths.add(row["path"])
        transaction.patch(row["_id"], {"source": source})
    for path, source in files.items():
        if path not in kept_paths:
            transaction.insert(SOURCES, {"path": path, "source": source})


# --- tables and indexes ----------------------------------------------------------------------------------------------


def _adapt_tables(transaction: Transaction, schema: SchemaWire) -> None:
    faults: list[str] = []
    for table, indexes in schema.items():
        declared = [IndexDefinition(name, tuple(fields)) for name, fields in indexes.items()]
        definition = transaction.table(table)
        if definition is None:
            transaction.create_table(table, declared)
        else:
            faults += _adapt_indexes(transaction, definition, declared)
    if faults:
        raise DefinitionError("\n".join(faults))


def _adapt_indexes(transaction: Transaction, definition: TableDefinition, declared: list[IndexDefinition]) -> list[str]:
    """Give an empty table the indexes that are new or have other fields. What is wrong if it has rows."""
    changed = [index for index in declared if not _has_index(definition, index)]
    if not changed:
        return []
    with transaction.uncounted():
        is_empty = transaction.query(definition.name).first() is None
    if not is_empty:
        return [_refusal(definition, index) for index in changed]
    names = {index.name for index in changed}
    entries = [index for index in definition.indexes.values() if index.name not in names]
    entries += [transaction.new_index(index) for index in changed]
    transaction.put_table(table_definition(definition.number, definition.name, entries))
    return []


def _has_index(definition: TableDefinition, index: IndexDefinition) -> bool:
    existing = definition.indexes.get(index.name)
    return existing is not None and existing.fields == index.fields


def _refusal(definition: TableDefinition, index: IndexDefinition) -> str:
    name, table, fields = index.name, definition.name, list(index.fields)
    existing = definition.indexes.get(name)
    if existing is None:
        return (
            f'The index "{name}" on {fields} cannot be added to the table "{table}", because the table has rows. '
            f"Indexes can be added to empty tables; declare it before the first row is inserted, or use another table."
        )
    return (
        f'The index "{name}" of the table "{table}" cannot be changed from {list(existing.fields)} to {fields}, '
        f"because the table has rows. Keep its fields, or use another table."
    )
