"""Whatever a transaction writes, reads, takes back and commits, it is as if a plain dict had been used."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.database.check import check
from evolute.database.index_range import Range
from evolute.database.query import Order
from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.limits import Limits
from evolute.storage.keyspace import LAST_TS, encode_number
from evolute.values.schema import IndexDefinition
from tests.contracts.model_engine import ModelEngine

NUMBERS = st.integers(0, 6)
PLACES = st.integers(0, 30)
STEPS = st.one_of(
    st.tuples(st.just("insert"), NUMBERS),
    st.tuples(st.just("patch"), PLACES, NUMBERS),
    st.tuples(st.just("delete"), PLACES),
    st.tuples(st.just("scan"), NUMBERS, NUMBERS, st.booleans()),
    st.tuples(st.just("savepoint")),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("commit")),
)


class Play:
    """A transaction at a time, and the dict that it should be like: id → (n, order of creation)."""

    def __init__(self) -> None:
        self.engine = ModelEngine()
        self.ts = 1_000_000_000
        self.engine.write({LAST_TS: encode_number(self.ts)})
        self.rows: dict[str, tuple[int, int]] = {}
        self.saved: list[tuple[Any, dict[str, tuple[int, int]]]] = []
        self.created = 0
        self.begin()
        self.transaction.create_table("items", [IndexDefinition("by_n", ("n",))])
        self.commit()

    def begin(self) -> None:
        self.transaction = Transaction(
            Snapshot(self.engine.reader()),
            limits=Limits(),
            now_ns=self.ts,
            seed=self.ts.to_bytes(32, "big"),
            writable=True,
        )

    def insert(self, n: int) -> None:
        self.created += 1
        self.rows[self.transaction.insert("items", {"n": n})] = (n, self.created)

    def patch(self, place: int, n: int) -> None:
        if document_id := self.at(place):
            self.transaction.patch(document_id, {"n": n})
            self.rows[document_id] = (n, self.rows[document_id][1])

    def delete(self, place: int) -> None:
        if document_id := self.at(place):
            self.transaction.delete(document_id)
            del self.rows[document_id]

    def at(self, place: int) -> str | None:
        ids = list(self.rows)
        return ids[place % len(ids)] if ids else None

    def scan(self, low: int, high: int, descending: bool) -> None:
        order: Order = "desc" if descending else "asc"
        found = self.transaction.query("items").with_index("by_n", n=Range(gte=low, lt=high)).order(order).collect()
        expected = sorted((place, one) for one, place in self.rows.items() if low <= place[0] < high)
        assert [row["_id"] for row in found] == [one for _, one in (reversed(expected) if descending else expected)]
        everything = sorted((created, one) for one, (_, created) in self.rows.items())
        assert [row["_id"] for row in self.transaction.query("items")] == [one for _, one in everything]

    def savepoint(self) -> None:
        self.saved.append((self.transaction.savepoint(), dict(self.rows)))

    def rollback(self) -> None:
        if self.saved:
            savepoint, self.rows = self.saved.pop()
            self.transaction.rollback(savepoint)

    def commit(self) -> None:
        self.saved.clear()
        self.ts += 1_000_000
        self.engine.write({**self.transaction.write_set().puts, LAST_TS: encode_number(self.ts)})
        self.begin()


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_a_transaction_is_like_a_dict(steps: list[tuple[Any, ...]]) -> None:
    play = Play()
    for name, *arguments in steps:
        getattr(play, name)(*arguments)
    play.scan(0, 7, False)
    play.commit()
    play.scan(0, 7, True)
    assert check(play.engine.reader()) == []
