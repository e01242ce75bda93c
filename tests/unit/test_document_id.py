"""Document ids: the published vectors, round trips, and one spelling per id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.errors import InvalidId
from evolute.values.document_id import TABLE_NUMBER_MAX, decode_id, encode_id, new_internal_id

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
table_numbers = st.integers(1, TABLE_NUMBER_MAX) | st.sampled_from([1, 127, 128, 10001, 16383, 16384])
internal_ids = st.binary(min_size=16, max_size=16)
KNOWN = "j57000820c20a1g7104gm2rc1m70ynr8"


@pytest.mark.parametrize(
    ("table_number", "internal_id", "text"),
    [
        (10001, bytes(range(16)), KNOWN),
        (1, bytes(16), "0400000000000000000000000000248"),
    ],
)
def test_vectors(table_number: int, internal_id: bytes, text: str) -> None:
    assert encode_id(table_number, internal_id) == text
    assert decode_id(text) == (table_number, internal_id)


@given(table_numbers, internal_ids)
def test_round_trip(table_number: int, internal_id: bytes) -> None:
    text = encode_id(table_number, internal_id)
    assert 31 <= len(text) <= 37
    assert set(text) <= set(ALPHABET)
    assert decode_id(text) == (table_number, internal_id)


@given(table_numbers, internal_ids, st.data())
def test_one_id_has_one_spelling(table_number: int, internal_id: bytes, data: st.DataObject) -> None:
    text = encode_id(table_number, internal_id)
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from(ALPHABET)) + text[at + 1 :]
    try:
        found = decode_id(other)
    except InvalidId:
        return
    assert encode_id(*found) == other


@given(st.text(ALPHABET, min_size=31, max_size=37))
def test_what_decodes_encodes_to_itself(text: str) -> None:
    try:
        found = decode_id(text)
    except InvalidId:
        return
    assert encode_id(*found) == text


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "Invalid ID length 0"),
        ("foo", "Invalid ID length 3"),
        ("0" * 38, "Invalid ID length 38"),
        (KNOWN.upper(), "ID wasn't valid base32"),
        ("i" * 32, "ID wasn't valid base32"),
        (" " + KNOWN[1:], "ID wasn't valid base32"),
        ("١" * 32, "ID wasn't valid base32"),
        ("0" * 31, "Invalid table number"),
        ("z" * 36 + "y", "Invalid table number"),
        (KNOWN + "00", "Invalid ID length 34"),
        (KNOWN[:-1] + "9", "Invalid ID version 256 (expected 0)"),
    ],
)
def test_refusals(text: str, cause: str) -> None:
    with pytest.raises(InvalidId) as error:
        decode_id(text)
    assert str(error.value) == f"Unable to decode ID: {cause}"


def test_an_internal_id_ends_with_the_day() -> None:
    assert new_internal_id(bytes(14), 0x4E20) == bytes(14) + b"\x4e\x20"
