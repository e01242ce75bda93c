"""A sound store has no faults, and each way to break one is found and said."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from evolute.database.catalog import (
    BY_CREATION_TIME,
    IndexEntry,
    definition_from,
    name_to_bytes,
    table_definition,
)
from evolute.database.check import check
from evolute.database.session_record import unstamped_record
from evolute.storage.keyspace import (
    LAST_TS,
    NEXT_INDEX_ID,
    NEXT_TABLE_NUMBER,
    document_key,
    encode_number,
    index_prefix,
    session_record_key,
    table_key,
    table_number_key,
)
from evolute.values.document_id import encode_id
from evolute.values.key_codec import encode_key
from evolute.values.value import UNDEFINED, Value
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, encode, int64_json
from tests.contracts.model_engine import ModelEngine

USERS = table_definition(10_001, "users", [IndexEntry(1, BY_CREATION_TIME, ()), IndexEntry(2, "by_name", ("name",))])
EMPTY = table_definition(600, "_empty", [IndexEntry(3, BY_CREATION_TIME, ())])
RECORD = session_record_key("session", 3)
UNSTAMPED = unstamped_record(COMMIT_TS_PLACEHOLDER, ["[LOG] 'x'"])
THE_RECORD = f"the record of request 3 of session {RECORD[1:17].hex()}"
ADA, BOB, NOBODY = b"a" * 16, b"b" * 16, b"\xff" * 16


def user(internal_id: bytes, name: str) -> dict[str, Value]:
    return {"_id": encode_id(10_001, internal_id), "_creationTime": 1.5, "name": name}


def sound_rows() -> dict[bytes, bytes | None]:
    rows: dict[bytes, bytes | None] = {
        LAST_TS: encode_number(17),
        NEXT_TABLE_NUMBER: encode_number(10_002),
        NEXT_INDEX_ID: encode_number(4),
        RECORD: UNSTAMPED.replace(COMMIT_TS_PLACEHOLDER, int64_json(17), 1),
    }
    for table in (USERS, EMPTY):
        rows[table_key(table.name)] = table.to_bytes()
        rows[table_number_key(table.number)] = name_to_bytes(table.name)
    for internal_id, name in ((ADA, "Ada"), (BOB, "Bob")):
        document = user(internal_id, name)
        rows[document_key(10_001, internal_id)] = encode(document)
        rows.update(dict.fromkeys(USERS.entry_keys(document, internal_id), internal_id))
    return rows


def faults(changes: Mapping[bytes, bytes | None]) -> list[str]:
    engine = ModelEngine()
    engine.write(sound_rows())
    engine.write(changes)
    return check(engine.reader())


def test_a_sound_store_has_no_faults() -> None:
    assert faults({}) == []


DOCUMENT = document_key(10_001, ADA)
BY_NAME = index_prefix(2, encode_key(["Ada", 1.5])) + ADA


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({LAST_TS: None}, ["The last timestamp is missing."]),
        ({LAST_TS: b"\x00" * 8}, ["The last timestamp is not one: 0000000000000000."]),
        ({LAST_TS: b"\x01"}, ["The last timestamp is not one: 01."]),
        ({NEXT_TABLE_NUMBER: None}, ["the record 'next_table_number' is missing, but 10001 has been given out."]),
        ({NEXT_INDEX_ID: encode_number(3)}, ["the record 'next_index_id' is 3, but 3 has been given out."]),
        ({NEXT_INDEX_ID: b"4"}, ["the record 'next_index_id' is not a number: 34."]),
        ({b"\x09": b""}, ["the unknown key 09 belongs to no family of keys."]),
        ({b"\x01new": b""}, ["the unknown key 016e6577 belongs to no family of keys."]),
        (
            {table_key("_empty"): None},
            ["Number 600 is the table '_empty', which does not exist."],
        ),
        (
            {table_number_key(600): None},
            ["Table '_empty' has the number 600, but the number has no name."],
        ),
        (
            {table_number_key(600): name_to_bytes("users")},
            ["Number 600 is the table 'users', which has another number."],
        ),
        (
            {table_key("other"): EMPTY.to_bytes()},
            [
                "the definition of table 'other' is that of '_empty'.",
                "Tables '_empty' and '_empty' share the number 600.",
                "Index by_creation_time of table '_empty' and index by_creation_time of table '_empty' share the id 3.",
            ],
        ),
        (
            {
                table_key("_empty"): table_definition(
                    600, "_empty", [IndexEntry(3, BY_CREATION_TIME, ("a",))]
                ).to_bytes()
            },
            ["Index by_creation_time of table '_empty' has fields of its own."],
        ),
        ({document_key(700, ADA): b"{}"}, [f"the document {ADA.hex()} of table 700: there is no such table."]),
        (
            {DOCUMENT: b"[]"},
            [f"the document {ADA.hex()} of table 10001 is not an object in canonical JSON."],
        ),
        (
            {DOCUMENT: b"{"},
            [f"the document {ADA.hex()} of table 10001 is not an object in canonical JSON."],
        ),
        (
            {DOCUMENT: encode(user(BOB, "Ada"))},
            [f"the document {ADA.hex()} of table 10001 says that its id is {encode_id(10_001, BOB)!r}."],
        ),
        (
            {DOCUMENT: encode({**user(ADA, "Ada"), "_id": "?"})},
            [f"the document {ADA.hex()} of table 10001 says that its id is '?'."],
        ),
        (
            {DOCUMENT: encode(user(ADA, "Ada")).replace(b'"Ada"', COMMIT_TS_PLACEHOLDER)},
            [
                f"the document {ADA.hex()} of table 10001 holds a commit timestamp that was never filled in.",
            ],
        ),
        ({BY_NAME: None}, [f"the document {ADA.hex()} of table 10001 ('users') has no entry in index by_name."]),
        (
            {index_prefix(2, encode_key(["Eve", 1.5])) + ADA: ADA},
            [f"the entry of {ADA.hex()} in index 2 (by_name of 'users') is not what its document's fields ask for."],
        ),
        (
            {index_prefix(2, encode_key(["Eve", 1.5])) + NOBODY: NOBODY},
            [f"the entry of {NOBODY.hex()} in index 2 (by_name of 'users') has no document."],
        ),
        ({BY_NAME: BOB}, [f"the entry of {ADA.hex()} in index 2 (by_name of 'users') leads to {BOB.hex()}."]),
        (
            {index_prefix(9, b"") + ADA: ADA},
            [f"the entry of {ADA.hex()} in index 9: there is no such index."],
        ),
        (
            {RECORD: UNSTAMPED},
            [f"{THE_RECORD} cannot be read: not the stamped record of a session's mutation: {UNSTAMPED!r}."],
        ),
        ({RECORD: b"{"}, [f"{THE_RECORD} cannot be read: not the stamped record of a session's mutation: b'{{'."]),
        (
            {RECORD: UNSTAMPED.replace(COMMIT_TS_PLACEHOLDER, int64_json(-1), 1)},
            [f"{THE_RECORD} says that it was committed at -1, which is no timestamp."],
        ),
        ({RECORD + b"a": b""}, [f"the unknown key {RECORD.hex()}61 belongs to no family of keys."]),
    ],
)
def test_each_fault_is_found_and_said(changes: dict[bytes, bytes | None], expected: list[str]) -> None:
    assert faults(changes) == expected


def test_a_document_without_a_creation_time_is_found() -> None:
    document = user(ADA, "Ada")
    del document["_creationTime"]
    assert f"the document {ADA.hex()} of table 10001 has no _creationTime." in faults({DOCUMENT: encode(document)})


def test_a_changed_document_breaks_its_old_entry_and_lacks_its_new_one() -> None:
    assert faults({DOCUMENT: encode(user(ADA, "Eve"))}) == [
        f"the document {ADA.hex()} of table 10001 ('users') has no entry in index by_name.",
        f"the entry of {ADA.hex()} in index 2 (by_name of 'users') is not what its document's fields ask for.",
    ]


def test_a_sparse_index_has_no_entry_of_a_document_without_its_fields() -> None:
    by_rank = IndexEntry(3, "by_rank", ("rank",), sparse=True)
    users = table_definition(10_001, "users", [*USERS.maintained, by_rank])
    ranked: dict[str, Value] = {**user(ADA, "Ada"), "rank": 1.0}
    sound: dict[bytes, bytes | None] = {table_key("users"): users.to_bytes(), DOCUMENT: encode(ranked)}
    entry = by_rank.key_of(ranked, ADA)
    needless = index_prefix(3, encode_key([UNDEFINED, 1.5])) + BOB
    sound |= {table_key("_empty"): None, table_number_key(600): None, entry: ADA}  # the id 3 was that of its index
    assert faults(sound) == []
    assert faults({**sound, entry: None}) == [
        f"the document {ADA.hex()} of table 10001 ('users') has no entry in index by_rank."
    ]
    assert faults({**sound, needless: BOB}) == [
        f"the entry of {BOB.hex()} in index 3 (by_rank of 'users') is not what its document's fields ask for."
    ]


def test_a_catalog_entry_that_cannot_be_read_is_said_and_the_rest_is_checked() -> None:
    found = faults({table_key("users"): b"{", table_number_key(600): b"1"})
    assert found[0].startswith("the definition of table 'users' cannot be read: a catalog entry is not canonical JSON")
    assert "the name of table 600 cannot be read: a catalog entry is not a table name: b'1'." in found
    assert f"the document {ADA.hex()} of table 10001: there is no such table." in found


def test_the_sound_store_holds_what_this_test_thinks() -> None:
    rows = sound_rows()
    assert rows[BY_NAME] == ADA
    assert definition_from(rows[table_key("users")] or b"") == USERS
