"""Transactions: what they read, write, refuse and remember. Interleavings are in tests/scripts/transactions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NotRequired

import pytest

from evolute.clock import NS_PER_MS
from evolute.database.session_record import unstamped_record
from evolute.database.transaction import Transaction
from evolute.errors import (
    ContextClosed,
    InvalidId,
    InvalidValue,
    LimitReached,
    NonexistentDocument,
    SystemTableError,
    ValidationFailed,
)
from evolute.storage.keyspace import document_key, session_record_key, table_key
from evolute.values.document_id import decode_id, encode_id
from evolute.values.schema import IndexDefinition, Schema, define_schema, define_table
from evolute.values.value import COMMIT_TS, UNSET, Document, Int64
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER
from tests.open_store import LIMITS, OpenStore


class Account(Document):
    owner: str
    balance: int
    note: NotRequired[str]


@dataclass
class Place:
    x: float
    y: float


class Town(Document):
    name: str
    place: Place


SCHEMA = define_schema(accounts=define_table(Account).index("by_owner", ["owner"]), towns=define_table(Town))


def key_of(document_id: str) -> bytes:
    return document_key(*decode_id(document_id))


def insert(store: OpenStore, table: str = "items", /, **fields: object) -> str:
    return store.run(lambda transaction: transaction.insert(table, fields))


# --- documents --------------------------------------------------------------------------------------------------------


def test_an_inserted_document_is_read_back_by_itself_and_by_later_transactions(store: OpenStore) -> None:
    transaction = store.begin()
    document_id = transaction.insert("items", {"name": "a", "size": 3, "big": Int64(2**60), "raw": b"\0\xff"})
    row = transaction.get(document_id)
    assert row is not None
    assert (row["_id"], row["name"], row["size"], row["big"], row["raw"]) == (document_id, "a", 3, 2**60, b"\0\xff")
    assert type(row["big"]) is Int64
    store.commit(transaction)
    assert store.begin().get(document_id) == row


def test_a_document_that_was_read_is_the_callers_to_change(store: OpenStore) -> None:
    document_id = insert(store, tags=["a"])
    transaction = store.begin()
    row: Any = transaction.get(document_id)
    row["tags"].append("b")
    assert transaction.get(document_id) != row


def test_creation_times_rise_strictly_and_begin_at_the_time_of_the_transaction(store: OpenStore) -> None:
    transaction = store.begin()
    rows: list[Any] = [transaction.get(transaction.insert("items", {})) for _ in range(3)]
    first = max(transaction.begin_ts + 1, transaction.now_ns) / NS_PER_MS
    expected = [first, math.nextafter(first, math.inf), math.nextafter(math.nextafter(first, math.inf), math.inf)]
    assert [row["_creationTime"] for row in rows] == expected


def test_a_seed_makes_the_same_ids_again_and_a_used_id_is_passed_over(store: OpenStore) -> None:
    first, again = store.begin(seed=b"s" * 32), store.begin(seed=b"s" * 32)
    document_id = first.insert("items", {})
    assert again.insert("items", {}) == document_id
    assert first.insert("items", {}) != document_id
    store.commit(first)
    later = store.begin(seed=b"s" * 32)
    assert later.get(later.insert("items", {})) is not None
    assert later.get(document_id) is not None


def test_get_gives_none_for_what_is_not_there_and_remembers_it(store: OpenStore) -> None:
    transaction = store.begin()
    absent = encode_id(10_001, bytes(16))
    assert transaction.get(absent) is None
    assert transaction.read_set.points == {key_of(absent)}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("nonsense", "Invalid argument `id` for `db.get`: Unable to decode ID: Invalid ID length 8"),
        (3, "Invalid argument `id` for `db.get`, expected string but got 'int': 3"),
    ],
)
def test_get_refuses_what_is_no_id(store: OpenStore, given: Any, text: str) -> None:
    with pytest.raises(InvalidId) as error:
        store.begin().get(given)
    assert str(error.value) == text


def test_patch_is_shallow_and_unset_removes(store: OpenStore) -> None:
    document_id = insert(store, a=1, b={"x": 1, "y": 2}, c=3)
    store.run(lambda transaction: transaction.patch(document_id, {"b": {"x": 5}, "c": UNSET, "d": None}))
    row = store.begin().get(document_id)
    assert row is not None
    assert {name: value for name, value in row.items() if not name.startswith("_")} == {
        "a": 1,
        "b": {"x": 5},
        "d": None,
    }


def test_replace_keeps_only_the_system_fields(store: OpenStore) -> None:
    document_id = insert(store, a=1, b=2)
    before = store.begin().get(document_id)
    store.run(lambda transaction: transaction.replace(document_id, {"b": 3}))
    assert before is not None
    assert store.begin().get(document_id) == {
        "_id": document_id,
        "_creationTime": before["_creationTime"],
        "b": 3,
    }


def test_the_documents_own_system_fields_may_be_given(store: OpenStore) -> None:
    document_id = insert(store, a=1)
    row: Any = store.begin().get(document_id)
    store.run(lambda transaction: transaction.replace(document_id, {**row, "a": 2}))
    store.run(lambda transaction: transaction.patch(document_id, {**row, "b": 2}))
    assert store.begin().get(document_id) == {**row, "b": 2}


def test_other_system_fields_are_refused(store: OpenStore) -> None:
    document_id, other = insert(store, a=1), insert(store, a=2)
    transaction = store.begin()
    with pytest.raises(InvalidId, match=f'Provided document ID "{document_id}" doesn\'t match \'_id\' field "{other}"'):
        transaction.patch(document_id, {"_id": other})
    with pytest.raises(SystemTableError, match="doesn't match '_creationTime' field 1"):
        transaction.replace(document_id, {"_creationTime": 1})
    with pytest.raises(SystemTableError) as error:
        transaction.insert("items", {"_secret": 1})
    assert str(error.value) == (
        "Field '_secret' starts with an underscore, which is only allowed for system fields like '_id'"
    )
    transaction.insert("items", {"nested": {"_fine": 1}})


def test_writes_to_what_does_not_exist(store: OpenStore) -> None:
    document_id = insert(store, a=1)
    store.run(lambda transaction: transaction.delete(document_id))
    transaction = store.begin()
    with pytest.raises(NonexistentDocument) as error:
        transaction.patch(document_id, {})
    assert str(error.value) == f"Update on nonexistent document ID {document_id}"
    with pytest.raises(NonexistentDocument, match=f"Replace on nonexistent document ID {document_id}"):
        transaction.replace(document_id, {})
    with pytest.raises(NonexistentDocument, match=f"Delete on nonexistent document ID {document_id}"):
        transaction.delete(document_id)
    unknown = encode_id(19_999, bytes(16))
    with pytest.raises(InvalidId) as no_table:
        transaction.delete(unknown)
    assert str(no_table.value) == f'Table for ID "{unknown}" not found'
    assert not transaction.write_set(), "errors that can be caught leave the transaction usable"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"a": {1, 2}}, "set is not a value"),
        ({"$a": 1}, "reserved"),
        ({"a": [0] * 8193}, r"Array length is too long \(8193 > maximum length 8192\)"),
        ({f"f{i}": i for i in range(1025)}, r"Object has too many fields \(1027 > maximum number 1024\)"),
        ({"a": "x" * (1 << 20)}, r"Value is too large \(1048\d+ > maximum size 1 MiB\)"),
    ],
)
def test_what_is_no_document_is_refused(store: OpenStore, fields: dict[str, object], text: str) -> None:
    transaction = store.begin()
    with pytest.raises(InvalidValue, match=text):
        transaction.insert("items", fields)
    assert not [key for key in transaction.write_set().puts if key[0] == 4], "no document was buffered"


def test_documents_are_at_most_16_levels_deep(store: OpenStore) -> None:
    def nested(levels: int) -> object:
        return [nested(levels - 1)] if levels else None

    transaction = store.begin()
    transaction.insert("items", {"a": nested(15)})
    with pytest.raises(InvalidValue) as error:
        transaction.insert("items", {"a": nested(16)})
    assert str(error.value).startswith("Document is too nested (nested 17 levels deep > maximum nesting 16)")


def test_fields_must_be_a_mapping(store: OpenStore) -> None:
    wrong: Any = ["a"]
    with pytest.raises(InvalidValue, match=r"Invalid argument `value` for `db\.insert`: expected a dict, but got list"):
        store.begin().insert("items", wrong)


def test_normalize_id(store: OpenStore) -> None:
    document_id = insert(store, a=1)
    insert(store, "others", a=1)
    transaction = store.begin()
    assert transaction.normalize_id("items", document_id) == document_id
    assert transaction.normalize_id("others", document_id) is None
    assert transaction.normalize_id("absent", document_id) is None
    assert transaction.normalize_id("items", "nonsense") is None


# --- the write set ----------------------------------------------------------------------------------------------------


def test_a_write_touches_the_index_entries_that_stay_as_they_are(store: OpenStore) -> None:
    document_id = store.run(lambda tx: tx.insert("accounts", {"owner": "a", "balance": 1}), schema=SCHEMA)
    transaction = store.begin(schema=SCHEMA)
    transaction.patch(document_id, {"balance": 2})
    write_set = transaction.write_set()
    assert set(write_set.puts) == {key_of(document_id)}
    assert len(write_set.touched) == 3, "the document, by_creation_time and by_owner"


def test_a_moved_index_entry_touches_both_places(store: OpenStore) -> None:
    document_id = store.run(lambda tx: tx.insert("accounts", {"owner": "a", "balance": 1}), schema=SCHEMA)
    transaction = store.begin(schema=SCHEMA)
    transaction.patch(document_id, {"owner": "b"})
    write_set = transaction.write_set()
    assert sorted(value is None for key, value in write_set.puts.items() if key != key_of(document_id)) == [False, True]
    assert len(write_set.touched) == 4
    store.commit(transaction)


def test_what_changes_nothing_writes_nothing(store: OpenStore) -> None:
    document_id = insert(store, a=1, b=2.5)
    transaction = store.begin()
    transaction.patch(document_id, {})
    transaction.patch(document_id, {"a": 1.0})
    transaction.replace(document_id, {"b": 2.5, "a": 1})
    assert not transaction.write_set()
    transaction.patch(document_id, {"a": True})
    assert transaction.write_set(), "True is not 1"


def test_a_document_that_comes_and_goes_leaves_nothing(store: OpenStore) -> None:
    document_id = insert(store, a=1)
    transaction = store.begin()
    transaction.delete(transaction.insert("items", {"a": 2}))
    transaction.patch(document_id, {"a": 2})
    transaction.patch(document_id, {"a": 1})
    assert not transaction.write_set()


def test_many_writes_of_one_document_are_one(store: OpenStore) -> None:
    transaction = store.begin(schema=SCHEMA)
    document_id = transaction.insert("accounts", {"owner": "a", "balance": 1})
    transaction.patch(document_id, {"owner": "b"})
    transaction.patch(document_id, {"owner": "c"})
    documents = [key for key in transaction.write_set().puts if key[0] in (4, 5)]
    assert len(documents) == 3, "the document and its two entries"
    store.commit(transaction)


def test_the_commit_timestamp_is_stamped(store: OpenStore) -> None:
    transaction = store.begin()
    document_id = transaction.insert("items", {"at": COMMIT_TS})
    assert transaction.write_set().stamped == {key_of(document_id): 1}
    own: Any = transaction.get(document_id)
    assert own["at"] is COMMIT_TS
    commit_ts = store.commit(transaction)
    row: Any = store.begin().get(document_id)
    assert row["at"] == Int64(commit_ts)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_first_insert_makes_the_table_with_the_declared_indexes(store: OpenStore) -> None:
    first, second = store.begin(schema=SCHEMA), store.begin()
    first.insert("accounts", {"owner": "a", "balance": 1})
    first.insert("plain", {})
    definition, plain = first.table("accounts"), first.table("plain")
    assert definition is not None
    assert plain is not None
    assert list(definition.indexes) == ["by_creation_time", "by_owner"]
    assert list(plain.indexes) == ["by_creation_time"]
    assert (definition.number, plain.number) == (10_001, 10_002)
    assert first.table_name(10_001) == "accounts"
    store.commit(first)
    assert second.table("accounts") is None, "the other snapshot is older"
    assert table_key("accounts") in second.read_set.points
    assert store.begin().table_number("plain") == 10_002


def test_insert_makes_no_system_table_and_no_table_with_a_bad_name(store: OpenStore) -> None:
    transaction = store.begin()
    with pytest.raises(SystemTableError) as error:
        transaction.insert("_mine", {})
    assert str(error.value) == "System tables (prefixed with `_`) are read-only."
    for name in ("", "a b", "1st", "___", "x" * 65, "ä"):
        with pytest.raises(InvalidValue, match="Invalid table name"):
            transaction.insert(name, {})


def test_the_number_of_tables_is_bounded(store: OpenStore) -> None:
    transaction = store.begin(limits=dataclasses.replace(LIMITS, tables_max=2))
    transaction.insert("a", {})
    transaction.insert("b", {})
    with pytest.raises(LimitReached, match=r"Number of tables cannot exceed 2\."):
        transaction.insert("c", {})


def test_an_index_may_be_of_a_nested_field_and_of_any_value(store: OpenStore) -> None:
    transaction = store.begin()
    transaction.create_table("items", [IndexDefinition("by_x", ("place.x",))])
    values: list[object] = [None, Int64(5), 1.0, -0.0, 0.0, math.nan, False, True, "a", b"", [], {}]
    ids = [transaction.insert("items", {"place": {"x": value}}) for value in reversed(values)]
    missing = transaction.insert("items", {"place": 3})
    expected = [missing, *[ids[len(values) - 1 - index] for index in (0, 1, 3, 4, 2, 5, 6, 7, 8, 9, 10, 11)]]
    assert [row["_id"] for row in transaction.query("items").with_index("by_x")] == expected
    store.commit(transaction)
    assert [row["_id"] for row in store.begin().query("items").with_index("by_x")] == expected


# --- the schema -------------------------------------------------------------------------------------------------------


def test_writes_are_checked_against_the_schema(store: OpenStore) -> None:
    transaction = store.begin(schema=SCHEMA)
    with pytest.raises(ValidationFailed) as error:
        transaction.insert("accounts", {"owner": "a"})
    assert str(error.value).startswith(
        'Failed to insert or update a document in table "accounts" because it does not match the schema: '
        "Object is missing the required field `balance`."
    )
    document_id = transaction.insert("accounts", {"owner": "a", "balance": 1})
    with pytest.raises(ValidationFailed, match="Object contains extra field `colour`"):
        transaction.patch(document_id, {"colour": "red"})
    with pytest.raises(ValidationFailed, match="missing the required field `balance`"):
        transaction.patch(document_id, {"balance": UNSET})
    with pytest.raises(ValidationFailed):
        transaction.replace(document_id, {"owner": 3, "balance": 1})
    transaction.patch(document_id, {"note": "fine"})
    transaction.insert("unknown_to_the_schema", {"anything": 1})


def test_a_patch_that_changes_nothing_is_not_checked(store: OpenStore) -> None:
    document_id = insert(store, "accounts", colour="red")
    transaction = store.begin(schema=SCHEMA)
    transaction.patch(document_id, {"colour": "red"})
    assert not transaction.write_set()


def test_a_dataclass_in_a_row_is_stored_as_an_object(store: OpenStore) -> None:
    transaction = store.begin(schema=SCHEMA)
    document_id = transaction.insert("towns", {"name": "a", "place": Place(1.0, 2.5)})
    row: Any = transaction.get(document_id)
    assert row["place"] == {"x": 1, "y": 2.5}
    with pytest.raises(ValidationFailed, match="does not match the schema"):
        transaction.insert("towns", {"name": "a", "place": {1, 2}})


def test_a_row_type_may_be_a_dataclass(store: OpenStore) -> None:
    schema = Schema({"places": define_table(Place)})
    transaction = store.begin(schema=schema)
    place: Any = Place(1.0, 2.0)
    row: Any = transaction.get(transaction.insert("places", place))
    assert (row["x"], row["y"]) == (1, 2)


# --- limits and poison ------------------------------------------------------------------------------------------------


def written(limits: dict[str, int], store: OpenStore) -> Transaction:
    return store.begin(limits=dataclasses.replace(LIMITS, **limits))


def test_read_limits_are_met_again_and_poison(store: OpenStore) -> None:
    ids = [insert(store, a=index) for index in range(3)]
    transaction = written({"documents_read_max": 2}, store)
    transaction.get(ids[0])
    transaction.get(ids[1])
    with pytest.raises(LimitReached) as error:
        transaction.get(ids[2])
    assert str(error.value).startswith(
        "Too many documents read in a single function execution (limit: 2). Consider using smaller limits"
    )
    assert "`documents_read_max`" in str(error.value)
    with pytest.raises(LimitReached):
        transaction.get(ids[0])
    with pytest.raises(LimitReached, match="documents_read_max"):
        transaction.write_set()


def test_bytes_read_are_limited_in_scans(store: OpenStore) -> None:
    for _ in range(3):
        insert(store, a="x" * 1000)
    transaction = written({"bytes_read_max": 2500}, store)
    with pytest.raises(LimitReached, match=r"Too many bytes read in a single function execution \(limit: 2500 bytes\)"):
        transaction.query("items").collect()
    assert isinstance(transaction.poisoned, LimitReached)


def test_read_intervals_are_limited(store: OpenStore) -> None:
    insert(store, a=1)
    transaction = written({"read_set_intervals_max": 64}, store)
    transaction.query("items").first()
    for internal_id in range(62):
        transaction.get(encode_id(10_001, internal_id.to_bytes(16, "big")))
    with pytest.raises(LimitReached, match="read_set_intervals_max"):
        transaction.get(encode_id(10_001, bytes([9] * 16)))
    with pytest.raises(LimitReached, match="read_set_intervals_max"):
        transaction.query("items").first()
    with pytest.raises(LimitReached):
        transaction.write_set()


def test_write_limits_count_every_operation(store: OpenStore) -> None:
    transaction = written({"documents_written_max": 2}, store)
    document_id = transaction.insert("items", {"a": 1})
    transaction.patch(document_id, {"a": 2})
    with pytest.raises(LimitReached) as error:
        transaction.patch(document_id, {"a": 3})
    assert str(error.value) == (
        "Too many writes in a single function execution (limit: 2). The setting is `documents_written_max`."
    )
    with pytest.raises(LimitReached):
        transaction.write_set()


def test_bytes_written_are_limited(store: OpenStore) -> None:
    transaction = written({"bytes_written_max": 1 << 20}, store)
    transaction.insert("items", {"a": "x" * 600_000})
    with pytest.raises(LimitReached, match=r"Too many bytes written in a single function execution \(limit: 1 MiB\)"):
        transaction.insert("items", {"a": "x" * 600_000})


def test_the_first_poison_is_the_one_that_is_raised(store: OpenStore) -> None:
    transaction = store.begin()
    first, second = RuntimeError("first"), RuntimeError("second")
    assert transaction.poison(first) is first
    transaction.poison(second)
    with pytest.raises(RuntimeError, match="first"):
        transaction.write_set()


# --- nested mutations -------------------------------------------------------------------------------------------------


def test_a_rollback_undoes_writes_and_keeps_reads_creation_times_and_ids(store: OpenStore) -> None:
    document_id, other = insert(store, a=1), insert(store, a=2)
    transaction = written({"documents_written_max": 3}, store)
    outer: Any = transaction.get(transaction.insert("items", {"a": 3}))
    savepoint = transaction.savepoint()
    inner: Any = transaction.get(transaction.insert("items", {"a": 4}))
    transaction.patch(document_id, {"a": 9})
    transaction.get(other)
    transaction.rollback(savepoint)
    assert transaction.get(inner["_id"]) is None
    assert key_of(other) in transaction.read_set.points
    assert [row["a"] for row in transaction.query("items")] == [1, 2, 3]
    later: Any = transaction.get(transaction.insert("items", {"a": 5}))
    assert later["_creationTime"] > inner["_creationTime"] > outer["_creationTime"]
    assert later["_id"] != inner["_id"]
    transaction.delete(other)
    store.commit(transaction)
    assert [row["a"] for row in store.begin().query("items")] == [1, 3, 5]


def test_rollback_restores_the_state_between_two_savepoints(store: OpenStore) -> None:
    document_id = store.run(lambda tx: tx.insert("accounts", {"owner": "a", "balance": 1}), schema=SCHEMA)
    transaction = store.begin(schema=SCHEMA)
    transaction.patch(document_id, {"owner": "b"})
    savepoint = transaction.savepoint()
    transaction.patch(document_id, {"owner": "c"})
    transaction.delete(document_id)
    inner = transaction.savepoint()
    transaction.insert("accounts", {"owner": "d", "balance": 2})
    transaction.rollback(inner)
    transaction.rollback(savepoint)
    owners = [row["owner"] for row in transaction.query("accounts").with_index("by_owner")]
    assert owners == ["b"]
    store.commit(transaction)


def test_a_rollback_takes_back_a_new_table(store: OpenStore) -> None:
    transaction = store.begin()
    savepoint = transaction.savepoint()
    transaction.insert("items", {})
    transaction.rollback(savepoint)
    assert transaction.table("items") is None
    assert transaction.query("items").collect() == []
    assert not transaction.write_set()
    transaction.insert("others", {})
    assert transaction.table_number("others") == 10_001


# --- the end ----------------------------------------------------------------------------------------------------------


def test_after_close_every_use_raises(store: OpenStore) -> None:
    document_id = insert(store, a=1)
    insert(store, a=2)
    transaction = store.begin()
    query, rows = transaction.query("items"), iter(transaction.query("items"))
    raw_rows = transaction.scan_raw(b"\x01", b"\x02")
    next(rows)
    next(raw_rows)
    transaction.close()
    uses: list[Callable[[], object]] = [
        lambda: transaction.get(document_id),
        lambda: transaction.insert("items", {}),
        lambda: transaction.patch(document_id, {}),
        lambda: transaction.replace(document_id, {}),
        lambda: transaction.delete(document_id),
        lambda: transaction.query("items"),
        lambda: transaction.normalize_id("items", document_id),
        lambda: transaction.table("items"),
        lambda: transaction.savepoint(),
        lambda: transaction.get_raw(b"\x01x"),
        lambda: transaction.put_raw(b"\x01x", b""),
        lambda: next(raw_rows),
        lambda: next(transaction.scan_raw(b"\x01", b"\x02")),
        lambda: query.collect(),
        lambda: next(rows),
    ]
    for use in uses:
        with pytest.raises(ContextClosed):
            use()
    assert not transaction.write_set()
    assert transaction.read_set.points


def test_a_transaction_for_reading_cannot_write(store: OpenStore) -> None:
    with pytest.raises(AssertionError, match="opened for reading"):
        store.begin(writable=False).insert("items", {})


def test_raw_keys_are_read_written_and_remembered(store: OpenStore) -> None:
    key = table_key("raw")
    transaction = store.begin()
    assert transaction.get_raw(key) is None
    savepoint = transaction.savepoint()
    transaction.put_raw(key, b"1")
    assert transaction.get_raw(key) == b"1"
    transaction.put_raw(key, b"2")
    transaction.rollback(savepoint)
    assert transaction.get_raw(key) is None
    assert transaction.read_set.points == {key}


def test_a_raw_scan_sees_own_writes_and_remembers_how_far_it_went(store: OpenStore) -> None:
    key = [session_record_key("session", request) for request in range(6)]
    bounds = (key[1], key[5])
    begun = store.begin()
    for request in (0, 2, 3, 5):
        begun.put_raw(key[request], unstamped_record(b"1", []), stamped=1)
    assert [found for found, _ in begun.scan_raw(*bounds)] == [key[2], key[3]]
    store.commit(begun)
    transaction = store.begin()
    transaction.put_raw(key[1], b"own")
    transaction.put_raw(key[3], None)
    transaction.put_raw(key[4], b"own")
    assert [found for found, _ in transaction.scan_raw(*bounds)] == [key[1], key[2], key[4]]
    assert [found for found, _ in transaction.scan_raw(*bounds, reverse=True)] == [key[4], key[2], key[1]]
    assert transaction.read_set.ranges == [bounds]
    assert list(transaction.scan_raw(key[4], key[1])) == []
    for reverse, read in ((False, (key[1], key[2] + b"\0")), (True, (key[3], key[5]))):
        transaction = store.begin(limits=dataclasses.replace(LIMITS, documents_read_max=0, bytes_read_max=0))
        next(transaction.scan_raw(*bounds, reverse=reverse))
        assert transaction.read_set.ranges == [read]
        assert not transaction.read_set.points
        transaction.write_set()  # and no limit was reached


def test_what_was_stamped_is_undone_with_its_write(store: OpenStore) -> None:
    key = table_key("raw")
    transaction = store.begin()
    transaction.put_raw(key, COMMIT_TS_PLACEHOLDER, stamped=1)
    assert transaction.write_set().stamped == {key: 1}
    savepoint = transaction.savepoint()
    transaction.put_raw(key, b"2")
    assert transaction.write_set().stamped == {}
    transaction.rollback(savepoint)
    assert transaction.get_raw(key) == COMMIT_TS_PLACEHOLDER
    assert transaction.write_set().stamped == {key: 1}
