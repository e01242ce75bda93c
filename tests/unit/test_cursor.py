"""Cursors: what was sealed is read again, nobody else can make or change one, and none shows what is in it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.database.catalog import IndexEntry
from evolute.database.cursor import CURSOR_KEY_BYTES, END, UNREADABLE, Cursors
from evolute.database.query_fingerprint import page_fingerprint, query_fingerprint
from evolute.errors import InvalidCursor
from evolute.storage.keyspace import CURSOR_KEY
from tests.open_store import OpenStore

KEY = bytes(range(CURSOR_KEY_BYTES))
ONE, OTHER = b"1" * 16, b"2" * 16
POSITIONS = st.binary(max_size=300)


@given(POSITIONS, st.binary(min_size=16, max_size=16))
def test_what_was_sealed_is_read_again(position: bytes, fingerprint: bytes) -> None:
    cursors = Cursors(KEY)
    cursor = cursors.seal(position, fingerprint)
    assert cursors.open(cursor, fingerprint) == position
    assert cursors.seal(position, fingerprint) == cursor, "equal pages are equal bytes"


@given(POSITIONS)
def test_of_another_query_it_is_an_invalid_cursor(position: bytes) -> None:
    with pytest.raises(InvalidCursor, match="looks like this cursor is from a different query"):
        Cursors(KEY).open(Cursors(KEY).seal(position, ONE), OTHER)


@given(POSITIONS, st.data())
def test_a_changed_cursor_is_refused(position: bytes, data: st.DataObject) -> None:
    cursor = Cursors(KEY).seal(position, ONE)
    place = data.draw(st.integers(0, len(cursor)))
    end = data.draw(st.integers(place, len(cursor)))
    changed = cursor[:place] + data.draw(st.text(max_size=4)) + cursor[end:]
    if changed == cursor:
        return
    with pytest.raises(InvalidCursor) as error:
        Cursors(KEY).open(changed, ONE)
    assert str(error.value) == UNREADABLE


@given(st.text(st.characters(max_codepoint=127)))
def test_a_text_that_was_made_up_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        Cursors(KEY).open(text, ONE)


def test_every_single_bit_counts() -> None:
    cursor = Cursors(KEY).seal(b"a position", ONE)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/="
    for place, own in enumerate(cursor):
        for character in alphabet:
            if character != own:
                with pytest.raises(InvalidCursor):
                    Cursors(KEY).open(cursor[:place] + character + cursor[place + 1 :], ONE)


def test_a_cursor_of_another_store_is_refused() -> None:
    with pytest.raises(InvalidCursor, match="not a cursor that this backend made"):
        Cursors(KEY).open(Cursors(bytes(CURSOR_KEY_BYTES)).seal(END, ONE), ONE)


def test_nothing_of_the_position_shows() -> None:
    """Not even what two positions have in common."""
    secret = b"a name that a filter keeps back " * 5
    first, second = (urlsafe_b64decode(Cursors(KEY).seal(secret + end, ONE) + "==") for end in (b"1", b"2"))
    assert b"name" not in first
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 20


def test_the_key_is_made_once_and_stays(tmp_path: Path) -> None:
    keys: list[bytes | None] = []
    for _ in range(2):
        store = OpenStore(tmp_path)
        keys.append(store.begin().get_raw(CURSOR_KEY))
        store.close()
    assert keys[0] == keys[1]
    assert keys[0] is not None
    assert len(keys[0]) == CURSOR_KEY_BYTES


# --- Fingerprints -----------------------------------------------------------------------------------------------------


def fingerprint(index: IndexEntry, *filters: Callable[..., object], reverse: bool = False) -> bytes:
    start, end = index.range_of(())
    return query_fingerprint("items", index, start, end, reverse=reverse, filters=filters)


def test_an_index_that_was_made_anew_is_the_same_if_its_fields_are() -> None:
    assert fingerprint(IndexEntry(7, "by_n", ("n",))) == fingerprint(IndexEntry(8, "by_n", ("n",)))
    others = (IndexEntry(7, "by_n", ("m",)), IndexEntry(7, "by_m", ("n",)), IndexEntry(7, "by_n", ("n", "m")))
    assert len({fingerprint(IndexEntry(7, "by_n", ("n",))), *map(fingerprint, others)}) == 4


class Callable_:
    def __call__(self, row: Any) -> bool:
        return True

    def method(self, row: Any) -> bool:
        return bool(row["n"] == 2)


def test_filters_count_by_what_they_do() -> None:
    index = IndexEntry(7, "by_n", ("n",))
    distinct: list[tuple[Callable[[Any], object], ...]] = [
        (),
        (lambda row: True,),
        (lambda row: row["n"] == 1,),
        (lambda row: row["n"] == 2,),
        (lambda row: row["m"] == 2,),
        (lambda row: row["n"] in {"a", "b", "c"},),
        (lambda row: row["n"] in {"a", "b", "d"},),
        (lambda row: all(n == 1 for n in row["n"]),),
        (lambda row: all(n == 2 for n in row["n"]),),
        (Callable_(),),
        (Callable_().method,),
        (lambda row: row["n"] == 1, lambda row: row["n"] == 2),
        (lambda row: row["n"] == 2, lambda row: row["n"] == 1),
    ]
    assert len({fingerprint(index, *filters) for filters in distinct}) == len(distinct)
    equal: tuple[Callable[[Any], object], ...] = (
        lambda item: item["n"] == 1,
        functools.partial(lambda row: row["n"] == 1),
    )
    for same in equal:
        assert fingerprint(index, same) == fingerprint(index, *distinct[2])


def test_a_filter_counts_the_same_in_every_process() -> None:
    program = """
from evolute.database.catalog import IndexEntry
from evolute.database.query_fingerprint import query_fingerprint
found = lambda row: row["n"] in {"a", "b", "c", ("d", 1.5)} and [n for n in row["m"] if n in {1, None, "e"}]
print(query_fingerprint("items", IndexEntry(1, "by_n", ("n",)), b"", b"", reverse=False, filters=[found]).hex())
"""
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(hashes) == 1


def test_a_page_is_told_by_its_query_and_where_it_begins() -> None:
    pages = [page_fingerprint(query, cursor) for query in (ONE, OTHER) for cursor in (None, "a", "b")]
    assert len(set(pages)) == 6
    assert not set(pages) & {ONE, OTHER}
