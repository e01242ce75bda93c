"""The order of an index is that of its values, however long they are and however much of them they share.

LMDB's keys end at 511 bytes, and longer ones are stored cut and hashed. So the strings here agree up to about there,
and differ after it; half of the rows are committed, the others are the transaction's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolute.database.index_range import Operator, Range
from evolute.database.transaction import Transaction
from evolute.errors import LimitReached
from evolute.storage.lmdb_engine import SHORT_KEY_BYTES_MAX
from evolute.values.schema import define_schema, define_table
from tests.open_store import LIMITS, OpenStore

SCHEMA = define_schema(notes=define_table().index("by_text", ["group", "text"]))

stems = st.builds(
    lambda unit, length: (unit * length)[:length],
    st.sampled_from(["a", "é", "a\0", "\U0010ffff"]),
    st.sampled_from([0, SHORT_KEY_BYTES_MAX // 2, *range(SHORT_KEY_BYTES_MAX - 24, SHORT_KEY_BYTES_MAX + 2, 3), 700]),
)
texts = st.builds(str.__add__, stems, st.text(st.sampled_from("\0ab\xffé\U0010ffff"), max_size=3))
operators: st.SearchStrategy[Operator] = st.sampled_from(["gt", "gte", "lt", "lte"])


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenStore]:
    store = OpenStore(tmp_path_factory.mktemp("long"))
    try:
        yield store
        assert store.check() == []
    finally:
        store.close()


def holds(operator: Operator, one: bytes, other: bytes) -> bool:
    return {"gt": one > other, "gte": one >= other, "lt": one < other, "lte": one <= other}[operator]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    committed=st.lists(texts, max_size=8),
    own=st.lists(texts, max_size=8),
    bound=texts,
    operator=operators,
    length=st.integers(0, 5),
)
def test_long_strings_sort_by_all_of_their_bytes(
    one_store: OpenStore, committed: list[str], own: list[str], bound: str, operator: Operator, length: int
) -> None:
    group = one_store.run(lambda transaction: transaction.insert("notes", {"group": "of groups"}), schema=SCHEMA)

    def insert(transaction: Transaction, given: list[str]) -> None:
        for text in given:
            transaction.insert("notes", {"group": group, "text": text})

    one_store.run(lambda transaction: insert(transaction, committed), schema=SCHEMA)
    transaction = one_store.begin(schema=SCHEMA)
    insert(transaction, own)

    def read(order: str, *, taken: int | None = None, **text: object) -> list[str]:
        query = transaction.query("notes").with_index("by_text", group=group, **text)
        rows = (query if order == "asc" else query.order("desc")).take(100 if taken is None else taken)
        return [row["text"] for row in rows]

    expected = sorted(committed + own, key=str.encode)
    assert read("asc") == expected
    assert read("desc") == expected[::-1]
    assert read("asc", taken=length) == expected[:length]
    assert read("desc", taken=length) == expected[::-1][:length]
    for one in {bound, *expected[:2]}:
        within = [text for text in expected if holds(operator, text.encode(), one.encode())]
        assert read("asc", text=Range(**{operator: one})) == within
        assert read("desc", text=Range(**{operator: one})) == within[::-1]
        assert read("asc", text=one) == [text for text in expected if text == one]
    one_store._snapshots.pop().close()


def test_who_fails_at_a_group_that_is_too_large_has_read_it(tmp_path: Path) -> None:
    """Or a query that failed at it would never be run again, not even when one of the group is deleted."""
    store = OpenStore(tmp_path, dataclasses.replace(LIMITS, documents_read_max=3))
    for number in range(4):
        text = "x" * 600 + str(number)
        store.run(partial(Transaction.insert, table="notes", fields={"group": "g", "text": text}), schema=SCHEMA)
    failing = store.begin(schema=SCHEMA)
    with pytest.raises(LimitReached, match="whose keys agree"):
        failing.query("notes").with_index("by_text").collect()
    deleting = store.begin(schema=SCHEMA)
    first = deleting.query("notes").first()
    assert first is not None
    deleting.delete(first["_id"])
    assert any(failing.read_set.contains(key) for key in deleting.write_set().touched)
    store.close()
