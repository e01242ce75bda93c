"""A table's definition survives its bytes, and names the index entries that a document must have."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"indexes":[],"name":"m","number":1}',
        b'{"indexes":[{"fields":[1],"id":1,"name":"by_creation_time","staged":false,"state":"enabled"}],"name":"m","number":1}',
        b'{"indexes":[{"fields":[],"name":"by_creation_time","staged":false,"state":"enabled"}],"name":"m","number":1}',
        b'{"indexes":[{"fields":[],"id":1,"name":"by_creation_time","staged":false,"state":"new"}],"name":"m","number":1}',
        b'{"indexes":[{"fields":[],"id":1,"name":"by_creation_time","staged":false,"state":"backfilling"}],'
        b'"name":"m","number":1}',
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
