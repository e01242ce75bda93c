"""A table's definition survives its bytes, and names the index entries that a document must have."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from evolute.database.catalog import (
    BY_CREATION_TIME,
    IndexEntry,
    TableDefinition,
    definition_from,
    name_from,
    name_to_bytes,
    table_definition,
)
from evolute.errors import LimitReached, StoreCorrupt
from evolute.storage.keyspace import index_prefix
from evolute.values.field_path import value_at
from evolute.values.key_codec import encode_key
from evolute.values.value import UNDEFINED, Value
from evolute.values.wire_codec import encode

MESSAGES = table_definition(
    10_001, "messages", [IndexEntry(1, BY_CREATION_TIME, ()), IndexEntry(2, "by_author", ("author.name", "rank"))]
)
BUILDING = table_definition(
    10_001,
    "messages",
    [
        *MESSAGES.indexes.values(),
        IndexEntry(3, "by_author", ("author",), "backfilling"),
        IndexEntry(4, "by_rank", ("rank",), "backfilled", staged=True),
    ],
)
INTERNAL_ID = bytes(range(16))


def test_a_definition_survives_its_bytes_and_is_parsed_once() -> None:
    assert definition_from(MESSAGES.to_bytes()) == MESSAGES
    assert definition_from(MESSAGES.to_bytes()) is definition_from(MESSAGES.to_bytes())
    assert name_from(name_to_bytes("messages")) == "messages"


INDEX: dict[str, Value] = {
    "fields": [],
    "id": 1,
    "name": BY_CREATION_TIME,
    "sparse": False,
    "staged": False,
    "state": "enabled",
}


def definition_of(index: Mapping[str, Value]) -> bytes:
    """A table with this one index, as the catalog would hold it."""
    return encode({"indexes": [dict(index)], "name": "m", "number": 1})


def test_the_definition_that_the_corrupt_ones_differ_from_is_sound() -> None:
    assert definition_from(definition_of(INDEX)) == table_definition(1, "m", [IndexEntry(1, BY_CREATION_TIME, ())])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"indexes":[],"name":"m","number":1}',
        definition_of({**INDEX, "fields": [1]}),
        definition_of({name: INDEX[name] for name in INDEX if name != "id"}),
        definition_of({**INDEX, "state": "new"}),
        definition_of({**INDEX, "state": "backfilling"}),
        definition_of({**INDEX, "sparse": 1}),
    ],
)
def test_what_is_no_definition_is_said_to_be_corrupt(data: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="catalog entry"):
        definition_from(data)
    with pytest.raises(StoreCorrupt, match="catalog entry"):
        name_from(data)


def test_a_document_has_one_entry_in_each_index() -> None:
    document: dict[str, Value] = {"_id": "x", "_creationTime": 5.5, "author": {"name": "Ada"}}
    assert MESSAGES.entry_keys(document, INTERNAL_ID) == [
        index_prefix(1, encode_key([5.5])) + INTERNAL_ID,
        index_prefix(2, encode_key(["Ada", UNDEFINED, 5.5])) + INTERNAL_ID,
    ]


def test_a_sparse_index_has_only_the_documents_with_all_of_its_fields() -> None:
    by_due = IndexEntry(2, "by_due", ("pool", "due"), sparse=True)
    jobs = table_definition(513, "jobs", [IndexEntry(1, BY_CREATION_TIME, ()), by_due])
    assert definition_from(jobs.to_bytes()) == jobs
    done: dict[str, Value] = {"_id": "x", "_creationTime": 5.5, "due": 1.0}
    waiting: dict[str, Value] = {**done, "pool": "default"}
    assert by_due.has(waiting)
    assert not by_due.has(done)
    assert [key[:5] for key in jobs.entry_keys(done, INTERNAL_ID)] == [index_prefix(1)]
    assert [key[:5] for key in jobs.entry_keys(waiting, INTERNAL_ID)] == [index_prefix(1), index_prefix(2)]


def test_an_index_that_is_being_built_has_entries_and_is_not_among_those_of_queries() -> None:
    """One that is to take the place of another has the same name."""
    assert definition_from(BUILDING.to_bytes()) == BUILDING
    assert set(BUILDING.indexes) == {BY_CREATION_TIME, "by_author"}
    assert BUILDING.indexes["by_author"].id == 2
    assert [index.id for index in BUILDING.building] == [3, 4]
    document: dict[str, Value] = {"_id": "x", "_creationTime": 5.5, "author": {"name": "Ada"}, "rank": 1}
    entries = BUILDING.entry_keys(document, INTERNAL_ID)
    assert [index_prefix(id) == key[:5] for id, key in enumerate(entries, 1)] == [True] * 4
    assert not BUILDING.have_same_keys(document, {**document, "author": {"name": "Ada"}})


def test_a_key_that_is_too_long_is_a_limit() -> None:
    document: dict[str, Value] = {"_creationTime": 5.5, "author": {"name": "A" * 100}}
    longest = max(map(len, MESSAGES.entry_keys(document, INTERNAL_ID)))
    assert MESSAGES.entry_keys(document, INTERNAL_ID, key_bytes_max=longest)
    with pytest.raises(LimitReached, match=f'index "by_author" of table "messages" has a key of {longest} bytes'):
        MESSAGES.entry_keys(document, INTERNAL_ID, key_bytes_max=longest - 1)


def test_a_path_that_leads_nowhere_is_undefined() -> None:
    document: dict[str, Value] = {"a": {"b": {"c": None}}, "n": 1, "list": [{"b": 1}]}
    assert value_at(document, ("a", "b")) == {"c": None}
    assert value_at(document, ("a", "b", "c")) is None
    for path in [("x",), ("a", "x"), ("a", "b", "c", "d"), ("n", "b"), ("list", "b"), ("list", "0")]:
        assert value_at(document, path) is UNDEFINED


def test_every_table_has_by_creation_time() -> None:
    with pytest.raises(AssertionError, match="messages has no by_creation_time"):
        table_definition(10_001, "messages", [])
    assert TableDefinition(1, "t", {}).entry_keys({}, INTERNAL_ID) == []
