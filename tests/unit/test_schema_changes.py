"""From one schema to the next, as transactions: what is made, found, enabled, dropped, and what is not ready."""

from __future__ import annotations

from typing import Any

import pytest

from evolute.database.catalog import IndexEntry, IndexState
from evolute.database.index_work import IndexWork, work_from
from evolute.database.transaction import Transaction
from evolute.errors import Conflict, IndexNotReady, SchemaNotReady, StoreCorrupt
from evolute.storage.keyspace import INDEX_WORK_RANGE, index_work_key, parse
from evolute.system import deployments, schema_changes
from evolute.system.deployments import KeptDeployment
from evolute.system.schema_changes import SchemaWire, TableWork
from evolute.values import v
from evolute.values.document_id import decode_id
from evolute.values.schema import Schema, define_schema, define_table
from tests.open_store import OpenStore

OLD, NEW, NEWEST = (KeptDeployment(name, "functions", "", {}) for name in ("old", "new", "newest"))


def wire(**indexes: list[str]) -> SchemaWire:
    """The schema of the table `items`, which accepts any row; an index whose name begins with s is staged."""
    staged = [name for name in indexes if name.startswith("s")]
    return {"items": {"indexes": dict(indexes), "staged": staged, "shape": None}}


def activate(store: OpenStore, deployment: KeptDeployment, schema: SchemaWire) -> None:
    store.run(lambda transaction: deployments.activate(transaction, deployment, schema))


def prepare(store: OpenStore, deployment: KeptDeployment, schema: SchemaWire) -> list[TableWork]:
    return store.run(lambda transaction: deployments.prepare(transaction, deployment, schema))


def complete(store: OpenStore, work: list[TableWork]) -> None:
    """As if every row had got its entries: the store has none but one whose fields are missing."""
    for table in work:

        def entries(transaction: Transaction, table: TableWork = table) -> None:
            definition = transaction.table(table.name)
            assert definition is not None
            for row in transaction.query(table.name):
                internal_id = internal_id_of(row["_id"])
                for fill in table.fills:
                    transaction.put_raw(fill.entry.key_of(row, internal_id), internal_id)
            schema_changes.complete(transaction, table.name, table.fills)

        store.run(entries)


def internal_id_of(document_id: str) -> bytes:
    return decode_id(document_id)[1]


def indexes(store: OpenStore, table: str = "items") -> dict[tuple[str, tuple[str, ...]], tuple[IndexState, bool]]:
    definition = store.begin().table(table)
    assert definition is not None
    return {(index.name, index.fields): (index.state, index.staged) for index in definition.maintained[1:]}


def entry(store: OpenStore, name: str) -> IndexEntry:
    definition = store.begin().table("items")
    assert definition is not None
    return next(index for index in definition.maintained if index.name == name)


def dropping(store: OpenStore) -> set[int]:
    rows = store.begin().scan_raw(*INDEX_WORK_RANGE)
    return {parse(key).number for key, value in rows if work_from(value).dropping}


def insert(store: OpenStore, **fields: Any) -> str:
    return store.run(lambda transaction: transaction.insert("items", fields))


def drop_all(store: OpenStore) -> None:
    """What the upkeep does, for a table so small that one transaction is enough."""
    while (index_id := schema_changes.next_drop(store.begin())) is not None:
        prefix = b"\x05" + index_id.to_bytes(4, "big")

        def remove(transaction: Transaction, index_id: int = index_id, prefix: bytes = prefix) -> None:
            for key, _ in list(transaction.scan_raw(prefix, prefix + b"\xff")):
                transaction.put_raw(key, None)
            schema_changes.note_drop(transaction, index_id, removed=1, is_last=True)

        store.run(remove)


def test_an_empty_table_takes_everything_at_once(store: OpenStore) -> None:
    activate(store, OLD, wire(by_n=["n"]))
    before = entry(store, "by_n").id
    assert prepare(store, NEW, wire(by_n=["m"], by_x=["x"], s=["y"])) == []
    activate(store, NEW, wire(by_n=["m"], by_x=["x"], s=["y"]))
    assert indexes(store) == {
        ("by_n", ("m",)): ("enabled", False),
        ("by_x", ("x",)): ("enabled", False),
        ("s", ("y",)): ("backfilled", True),
    }
    assert entry(store, "by_n").id != before
    insert(store, m=1)
    assert len(store.begin().query("items").with_index("by_n", m=1).collect()) == 1
    drop_all(store)


def test_a_table_with_rows_is_prepared_and_the_old_index_of_the_name_serves_until_then(store: OpenStore) -> None:
    activate(store, OLD, wire(by_n=["n"]))
    insert(store, n=1, m=2)
    schema = wire(by_n=["m"], by_x=["x"])
    with pytest.raises(SchemaNotReady, match='the index "by_n" of table "items" has not been filled'):
        activate(store, NEW, schema)
    (work,) = prepare(store, NEW, schema)
    assert (work.name, work.validate) == ("items", False)
    assert [(fill.entry.name, fill.entry.fields, fill.position) for fill in work.fills] == [
        ("by_n", ("m",), b""),
        ("by_x", ("x",), b""),
    ]
    with pytest.raises(SchemaNotReady):
        activate(store, NEW, schema)
    insert(store, n=2, m=1)
    assert [row["n"] for row in store.begin().query("items").with_index("by_n", n=2)] == [2]
    old = entry(store, "by_n").id
    complete(store, [work])
    assert [row["n"] for row in store.begin().query("items").with_index("by_n", n=2)] == [2]
    activate(store, NEW, schema)
    assert [row["m"] for row in store.begin().query("items").with_index("by_n")] == [1, 2]
    assert dropping(store) == {old}
    drop_all(store)
    assert dropping(store) == set()


def test_sv4_an_index_cannot_be_queried_before_the_finish(store: OpenStore) -> None:
    activate(store, OLD, wire())
    insert(store, n=1)
    work = prepare(store, NEW, wire(by_n=["n"]))
    text = "Index items.by_n is currently backfilling and not available to query yet."
    for _ in ("backfilling", "backfilled"):
        transaction = store.begin()
        with pytest.raises(IndexNotReady) as error:
            transaction.query("items").with_index("by_n", n=1).collect()
        assert str(error.value) == text
        assert transaction.poisoned is None
        if work:
            complete(store, work)
            work = []
    assert indexes(store) == {("by_n", ("n",)): ("backfilled", False)}
    activate(store, NEW, wire(by_n=["n"]))
    assert len(store.begin().query("items").with_index("by_n", n=1).collect()) == 1


def test_a_staged_index_holds_nothing_up_and_is_enabled_later(store: OpenStore) -> None:
    activate(store, OLD, wire())
    insert(store, n=1)
    assert prepare(store, NEW, wire(s=["n"])) == []
    activate(store, NEW, wire(s=["n"]))
    assert indexes(store) == {("s", ("n",)): ("backfilling", True)}
    with pytest.raises(IndexNotReady) as error:
        store.begin().query("items").with_index("s").collect()
    assert str(error.value) == "Index items.s is currently staged and not available to query until it is enabled."
    unstaged: SchemaWire = {"items": {**wire(s=["n"])["items"], "staged": []}}
    (work,) = prepare(store, NEWEST, unstaged)  # not filled yet: now somebody waits for it
    assert schema_changes.staged_work(store.begin()) == [work]
    complete(store, [work])
    assert schema_changes.staged_work(store.begin()) == []
    assert indexes(store) == {("s", ("n",)): ("backfilled", True)}
    assert prepare(store, NEWEST, unstaged) == []
    activate(store, NEWEST, unstaged)
    assert indexes(store) == {("s", ("n",)): ("enabled", False)}
    activate(store, NEW, wire(s=["n"]))
    assert indexes(store) == {("s", ("n",)): ("backfilled", True)}


def test_a_staged_index_of_a_table_that_is_not_there_is_not_queried(store: OpenStore) -> None:
    schema = define_schema(items=define_table().index("s", ["n"], staged=True))
    with pytest.raises(IndexNotReady, match="currently staged"):
        store.begin(schema=schema).query("items").with_index("s").collect()


def test_what_the_schema_forgets_is_dropped_and_rows_never_are(store: OpenStore) -> None:
    activate(store, OLD, wire(by_n=["n"], s=["m"]))
    insert(store, n=1)
    ids = {entry(store, "by_n").id, entry(store, "s").id}
    assert prepare(store, NEW, {}) == []
    assert indexes(store).keys() == {("by_n", ("n",)), ("s", ("m",))}
    activate(store, NEW, {})
    assert indexes(store) == {}
    assert dropping(store) == ids
    assert [row["n"] for row in store.begin().query("items")] == [1]
    insert(store, n=2)
    drop_all(store)


def test_a_change_that_was_given_up_is_gone_on_with_or_dropped(store: OpenStore) -> None:
    activate(store, OLD, wire())
    insert(store, n=1)
    (work,) = prepare(store, NEW, wire(by_n=["n"], by_m=["m"]))
    far = [fill._replace(position=b"p" * 16, rows=7) for fill in work.fills]
    store.run(lambda transaction: schema_changes.advance(transaction, far))
    (again,) = prepare(store, NEWEST, wire(by_n=["n"]))
    assert again.fills == (far[0],)
    assert dropping(store) == {far[1].entry.id}
    with pytest.raises(SchemaNotReady, match='"by_m" is not being built any more'):
        store.run(lambda transaction: schema_changes.advance(transaction, far))
    assert prepare(store, OLD, wire()) == []
    activate(store, OLD, wire())
    assert dropping(store) == {fill.entry.id for fill in far}
    drop_all(store)


def test_a_staged_index_outlives_the_preparation_of_a_schema_without_it(store: OpenStore) -> None:
    """The change may yet be given up."""
    activate(store, OLD, wire(s=["n"]))
    insert(store, n=1)
    prepare(store, NEW, wire(by_m=["m"]))
    assert indexes(store) == {("s", ("n",)): ("backfilled", True), ("by_m", ("m",)): ("backfilling", False)}


def test_a_table_that_gets_rows_after_it_was_found_empty_is_not_ready(store: OpenStore) -> None:
    activate(store, OLD, wire())
    assert prepare(store, NEW, wire(by_n=["n"])) == []
    inserting, deploying = store.begin(), store.begin()
    inserting.insert("items", {"n": 1})
    deployments.activate(deploying, NEW, wire(by_n=["n"]))
    outcomes = store.commit_together([inserting, deploying])
    assert isinstance(outcomes[0], int)
    assert isinstance(outcomes[1], Conflict)
    with pytest.raises(SchemaNotReady):
        activate(store, NEW, wire(by_n=["n"]))
    (work,) = prepare(store, NEW, wire(by_n=["n"]))
    assert len(work.fills) == 1


# --- validation -------------------------------------------------------------------------------------------------------


def typed(**fields: Any) -> Schema:
    return define_schema(items=define_table(v.object(fields)))


def needs_validation(store: OpenStore, deployment: KeptDeployment, schema: Schema) -> bool:
    return [work.validate for work in prepare(store, deployment, schema.to_wire())] == [True]


def test_rows_are_validated_unless_the_new_schema_accepts_whatever_the_old_one_did(store: OpenStore) -> None:
    n, s = v.number(), v.string()
    activate(store, OLD, typed(n=n).to_wire())
    assert not needs_validation(store, NEW, typed(n=s))  # there are no rows
    insert(store, n=1)
    assert not needs_validation(store, NEW, typed(n=n))
    assert not needs_validation(store, OLD, typed(n=s))  # it is the code that is served
    assert not needs_validation(store, NEW, define_schema(items=define_table()))
    assert not needs_validation(store, NEW, define_schema(schema_validation=False, items=define_table(v.object({}))))
    assert needs_validation(store, NEW, typed(n=s))
    with pytest.raises(SchemaNotReady, match='the rows of table "items" have not been validated'):
        activate(store, NEW, typed(n=s).to_wire())


def test_rows_that_nobody_checked_are_validated(store: OpenStore) -> None:
    strict = typed(n=v.number())
    loose = define_schema(schema_validation=False, items=define_table(v.object({"n": v.number()})))
    activate(store, OLD, loose.to_wire())
    insert(store, n=1)
    assert needs_validation(store, NEW, strict)
    store.run(lambda transaction: deployments.activate(transaction, NEW, strict.to_wire(), validated=["items"]))
    assert not needs_validation(store, NEWEST, strict)
    activate(store, OLD, {})
    assert needs_validation(store, NEWEST, strict)


def test_a_kept_deployment_is_activated_with_the_tables_as_they_are(store: OpenStore) -> None:
    activate(store, OLD, typed(n=v.number()).to_wire())
    insert(store, n=1)
    work = prepare(store, NEW, wire(by_n=["n"]))
    store.run(lambda transaction: deployments.deactivate(transaction, "none"))
    kept = deployments.kept(store.begin())
    assert kept is not None
    store.run(lambda transaction: deployments.activate(transaction, kept, None))
    assert prepare(store, NEW, wire(by_n=["n"])) == work
    assert not needs_validation(store, NEWEST, typed(n=v.number()))


def test_work_on_an_index_survives_its_bytes() -> None:
    for work in (IndexWork(), IndexWork(True, b"", 3), IndexWork(False, bytes(range(16)), 10**9)):
        assert work_from(work.to_bytes()) == work
    for data in (b"", b"[]", b"{}", b'{"dropping":false,"position":"ab","rows":1}', b'{"dropping":1}'):
        with pytest.raises(StoreCorrupt, match="work on an index"):
            work_from(data)


def test_the_check_knows_what_is_being_built_and_dropped(store: OpenStore) -> None:
    activate(store, OLD, wire(by_n=["n"]))
    insert(store, n=1)
    (work,) = prepare(store, NEW, wire(by_m=["m"]))
    assert store.check() == []  # the row has no entry yet
    gone = index_work_key(work.fills[0].entry.id)
    kept = store.begin().get_raw(gone)
    store.run(lambda transaction: transaction.put_raw(gone, IndexWork(dropping=True).to_bytes()))
    assert store.check() == [f"Index {work.fills[0].entry.id} is being dropped, but table 'items' has it."]
    store.run(lambda transaction: transaction.put_raw(gone, kept))
    stray = index_work_key(4_000)
    store.run(lambda transaction: transaction.put_raw(stray, IndexWork().to_bytes()))
    assert store.check() == ["what is being done to index 4000 is a backfill, but no index of that id is backfilling."]
    store.run(lambda transaction: transaction.put_raw(stray, b"[]"))
    assert "cannot be read" in store.check()[0]
    store.run(lambda transaction: transaction.put_raw(stray, None))
