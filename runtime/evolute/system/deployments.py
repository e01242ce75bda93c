"""The active deployment: which code runs, its sources, and the tables that its schema declares.

    DEPLOYMENT ──► hash          read by every execution, so a change invalidates exactly what ran the old code
    _deployments                 one row: hash, package, root, the shapes that its schema gives to rows
    _deployment_sources          one row for each file, as it was read

The rows are kept while nothing is active, because what does not load now may load at the next start.
Activating is one transaction, in which the schema takes its place too (`schema_changes`). What has to be done before
to the tables that have rows, `prepare` says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from evolute.clock import NS_PER_MS
from evolute.database.transaction import Transaction
from evolute.storage.keyspace import DEPLOYMENT
from evolute.system import schema_changes
from evolute.system.schema_changes import SchemaWire, TableWork
from evolute.system.tables import DEPLOYMENTS, SOURCES
from evolute.values.shapes import ANY, accepts_all


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


def prepare(transaction: Transaction, deployment: Deployment, schema: SchemaWire) -> list[TableWork]:
    """What has to be done before the deployment can be activated; new indexes are kept up to date from now on."""
    return schema_changes.begin(transaction, schema, _unproven(transaction, deployment, schema))


def activate(
    transaction: Transaction, deployment: Deployment, schema: SchemaWire | None, validated: Collection[str] = ()
) -> None:
    """Make it the active deployment, with its schema; None leaves tables and indexes as they are.

    Writes nothing if it is active already. The rows of the tables `validated` match the schema. Raises SchemaNotReady
    if a table has rows and is not prepared; then nothing may be committed.
    """
    if schema is not None:
        unproven = _unproven(transaction, deployment, schema).difference(validated)
        schema_changes.finish(transaction, schema, unproven)
    if active(transaction) != deployment.hash:
        transaction.put_raw(DEPLOYMENT, deployment.hash.encode())
    with transaction.uncounted():
        _put_record(transaction, deployment, schema)
        _put_sources(transaction, deployment.sources)


def deactivate(transaction: Transaction, nothing: str) -> None:
    """From now on nothing is active, under the hash `nothing`. What was active last is kept."""
    if active(transaction) != nothing:
        transaction.put_raw(DEPLOYMENT, nothing.encode())


def _unproven(transaction: Transaction, deployment: Deployment, schema: SchemaWire) -> set[str]:
    """The tables whose rows may not be what the schema says: it is not certain that it accepts what the last one did.

    A class that checks more than the types of its fields is not certain to accept what it did in other sources.
    """
    with transaction.uncounted():
        row = transaction.query(DEPLOYMENTS).first()
    if row is not None and row["hash"] == deployment.hash:
        return set()
    last: dict[str, Any] = {} if row is None else orjson.loads(row["shapes"])
    shapes = {name: table["shape"] for name, table in schema.items() if table["shape"] is not None}
    return {name for name, shape in shapes.items() if not accepts_all(shape, last.get(name) or ANY)}


def _put_record(transaction: Transaction, deployment: Deployment, schema: SchemaWire | None) -> None:
    row = transaction.query(DEPLOYMENTS).first()
    fields = {"hash": deployment.hash, "package": deployment.package, "root": deployment.root}
    if schema is not None:
        fields["shapes"] = orjson.dumps({name: table["shape"] for name, table in schema.items()}).decode()
    else:
        assert row is not None, "what is kept was active once"
        fields["shapes"] = row["shapes"]
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
