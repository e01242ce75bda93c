"""Deployments: activating is one commit, which keeps the sources, makes tables and touches what ran the old code."""

from __future__ import annotations

import dataclasses

import pytest

from evolute.database.transaction import Transaction
from evolute.errors import Conflict
from evolute.storage.keyspace import DEPLOYMENT
from evolute.system import deployments, tables
from evolute.system.deployments import KeptDeployment
from evolute.system.schema_changes import SchemaWire
from evolute.system.tables import SOURCES, TABLES
from tests.open_store import LIMITS, OpenStore

FIRST = KeptDeployment("h1", "functions", "/app/functions", {"a.py": b"1", "dir/b.py": b"\xff\0"})
SECOND = KeptDeployment("h2", "functions", "/app/functions", {"a.py": b"1", "c.py": b"3"})


def activate(store: OpenStore, deployment: KeptDeployment = FIRST, schema: SchemaWire | None = None) -> None:
    store.run(lambda transaction: deployments.activate(transaction, deployment, schema or {}))


def wire(**tables: dict[str, list[str]]) -> SchemaWire:
    """A schema of these tables with these indexes, which accepts any row."""
    return {name: {"indexes": indexes, "staged": [], "shape": None} for name, indexes in tables.items()}


def indexes(transaction: Transaction, table: str) -> dict[str, tuple[str, ...]]:
    definition = transaction.table(table)
    assert definition is not None
    return {index.name: index.fields for index in definition.indexes.values()}


def test_system_tables_have_fixed_numbers_and_are_made_once(store: OpenStore) -> None:
    transaction = store.begin()
    for table in TABLES:
        assert transaction.table_number(table.name) == table.number
        assert 513 <= table.number < 10_001
    tables.bootstrap(transaction)
    assert not transaction.write_set()


def test_there_is_no_deployment_at_first(store: OpenStore) -> None:
    transaction = store.begin()
    assert deployments.active(transaction) is None
    assert deployments.kept(transaction) is None


def test_what_is_active_is_kept_with_its_sources(store: OpenStore) -> None:
    activate(store)
    transaction = store.begin()
    assert deployments.active(transaction) == "h1"
    assert transaction.read_set.points == {DEPLOYMENT}
    assert deployments.kept(transaction) == FIRST
    with store.database.snapshot() as snapshot:
        assert deployments.active(snapshot) == "h1"


def test_a_new_deployment_replaces_the_old_one_and_leaves_unchanged_files_alone(store: OpenStore) -> None:
    activate(store)
    kept = {row["path"]: row["_id"] for row in store.begin().query(SOURCES)}
    activate(store, SECOND)
    assert deployments.kept(store.begin()) == SECOND
    assert {row["path"]: row["_id"] for row in store.begin().query(SOURCES)}["a.py"] == kept["a.py"]


def test_the_same_deployment_again_writes_nothing(store: OpenStore) -> None:
    activate(store, schema=wire(items={"by_n": ["n"]}))
    transaction = store.begin()
    deployments.activate(transaction, FIRST, wire(items={"by_n": ["n"]}))
    assert not transaction.write_set()


def test_what_was_active_last_is_kept_while_nothing_is_active(store: OpenStore) -> None:
    activate(store)
    for writes in (True, False):
        transaction = store.begin()
        deployments.deactivate(transaction, "none")
        assert bool(transaction.write_set()) == writes
        store.commit(transaction)
        assert deployments.active(store.begin()) == "none"
        assert deployments.kept(store.begin()) == FIRST
    activate(store)
    assert deployments.active(store.begin()) == "h1"


def test_sources_are_not_held_against_the_limits_of_functions(store: OpenStore) -> None:
    limits = dataclasses.replace(LIMITS, documents_read_max=0, bytes_read_max=0, documents_written_max=0)
    transaction = store.begin(limits=limits)
    deployments.activate(transaction, FIRST, {})
    store.commit(transaction)
    assert deployments.kept(store.begin(limits=limits)) == FIRST


def test_who_ran_the_old_code_conflicts(store: OpenStore) -> None:
    activate(store)
    running = store.begin()
    assert deployments.active(running) == "h1"
    running.insert("items", {})
    activate(store, SECOND)
    with pytest.raises(Conflict) as conflict:
        store.commit(running)
    assert conflict.value.key == DEPLOYMENT
