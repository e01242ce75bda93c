"""Every key says what it is, keys sort as their parts do, and a prefix range holds what begins with the prefix."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolute.storage import keyspace
from evolute.storage.keyspace import ParsedKey, parse

NUMBERS = st.integers(0, keyspace.NUMBER_MAX)
INTERNAL_IDS = st.binary(min_size=16, max_size=16)
ENCODED = st.binary(max_size=40)


def test_meta_keys_say_their_names() -> None:
    assert parse(keyspace.LAST_TS) == ParsedKey("meta", name="last_ts")
    assert len(keyspace.META_KEYS) == 5
    assert str(parse(keyspace.DEPLOYMENT)) == "the record 'deployment'"


@given(number=NUMBERS, internal_id=INTERNAL_IDS, encoded=ENCODED)
def test_a_key_can_be_taken_apart(number: int, internal_id: bytes, encoded: bytes) -> None:
    assert parse(keyspace.table_key("messages")) == ParsedKey("table", name="messages")
    assert parse(keyspace.table_number_key(number)) == ParsedKey("table number", number=number)
    assert parse(keyspace.document_key(number, internal_id)) == ParsedKey(
        "document", number=number, internal_id=internal_id
    )
    assert parse(keyspace.index_prefix(number, encoded) + internal_id) == ParsedKey(
        "index", number=number, encoded=encoded, internal_id=internal_id
    )
    assert parse(keyspace.session_record_key("a session", number)) == ParsedKey(
        "session record", number=number, session_hash=keyspace.session_prefix("a session")[1:]
    )


def test_an_unknown_key_is_named() -> None:
    cut_off = (b"\x03\x00", b"\x04short", b"\x05short", b"\x06short")
    for key in (b"", b"\x00", b"\x01nothing", b"\x02", b"\x02\xff", *cut_off, b"\x07a"):
        assert parse(key) == ParsedKey("unknown", encoded=key)
        assert str(parse(key)) == f"the unknown key {key.hex()}"


@given(st.tuples(NUMBERS, ENCODED, INTERNAL_IDS), st.tuples(NUMBERS, ENCODED, INTERNAL_IDS))
def test_documents_sort_by_table_and_id(a: tuple[int, bytes, bytes], b: tuple[int, bytes, bytes]) -> None:
    first, second = keyspace.document_key(a[0], a[2]), keyspace.document_key(b[0], b[2])
    assert (first < second) == ((a[0], a[2]) < (b[0], b[2]))
    start, end = keyspace.prefix_range(keyspace.document_prefix(a[0]))
    assert start <= first < end
    assert (start <= second < end) == (a[0] == b[0])


@given(st.tuples(st.text(), NUMBERS), st.tuples(st.text(), NUMBERS))
def test_records_sort_by_request_and_lie_in_the_range_of_their_session(a: tuple[str, int], b: tuple[str, int]) -> None:
    first, second = keyspace.session_record_key(*a), keyspace.session_record_key(*b)
    prefix = keyspace.session_prefix(a[0])
    assert (keyspace.session_prefix_of(first), keyspace.request_of(first)) == (prefix, a[1])
    start, end = keyspace.prefix_range(prefix)
    assert start <= first < end
    assert (start <= second < end) == (a[0] == b[0])
    if a[0] == b[0]:
        assert (first < second) == (a[1] < b[1])


@given(prefix=st.binary(max_size=4).map(lambda tail: b"\x05" + tail), key=st.binary(max_size=6))
def test_a_prefix_range_holds_exactly_what_begins_with_the_prefix(prefix: bytes, key: bytes) -> None:
    start, end = keyspace.prefix_range(prefix)
    for candidate in (key, prefix + key, prefix, prefix[:-1] + key, prefix + b"\xff" * 20, end):
        assert (start <= candidate < end) == candidate.startswith(prefix)


@given(index=NUMBERS, encoded=ENCODED)
def test_an_entry_whose_id_begins_with_ff_is_inside_its_prefix(index: int, encoded: bytes) -> None:
    start, end = keyspace.prefix_range(keyspace.index_prefix(index, encoded))
    assert start < keyspace.index_prefix(index, encoded) + b"\xff" * 16 < end


def test_the_families_lie_side_by_side() -> None:
    keys = [
        keyspace.LAST_TS,
        keyspace.table_key("a"),
        keyspace.table_key("\U0010ffff"),
        keyspace.table_number_key(0),
        keyspace.table_number_key(keyspace.NUMBER_MAX),
        keyspace.document_key(keyspace.NUMBER_MAX, b"\xff" * 16),
        keyspace.index_prefix(keyspace.NUMBER_MAX, b"\xff") + b"\xff" * 16,
        keyspace.session_record_key("a", 0),
        keyspace.session_record_key("a", keyspace.NUMBER_MAX),
        keyspace.index_work_key(0),
        keyspace.index_work_key(keyspace.NUMBER_MAX),
    ]
    assert keys == sorted(keys)
    families = [
        keyspace.CATALOG_RANGE,
        keyspace.TABLE_NUMBER_RANGE,
        keyspace.DOCUMENTS_RANGE,
        keyspace.INDEXES_RANGE,
        keyspace.SESSION_RECORDS_RANGE,
        keyspace.INDEX_WORK_RANGE,
    ]
    members = [[key for key in keys if start <= key < end] for start, end in families]
    assert members == [keys[1:3], keys[3:5], keys[5:6], keys[6:7], keys[7:9], keys[9:]]


@given(st.integers(0, 2**64 - 1))
def test_numbers(number: int) -> None:
    assert keyspace.decode_number(keyspace.encode_number(number)) == number
