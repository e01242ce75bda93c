"""Random programs of transactions, several open at once, against a model on plain dicts.

**What is done.** Transactions begin, insert, patch, replace, delete, sweep, query, save and roll back, in any
interleaving, and commit alone or two in one moment. Values are of all types, indexed fields are missing, nested, or
longer than a key of the store.

**Check.** Each result is the model's on the transaction's snapshot with its own writes. A commit that succeeds would
have given the same results on the state that it found, so the order of the commits is an order in which everything
happened. A commit that conflicts is one exactly if a commit since its snapshot has touched what it read; so it always
is one if its results would have changed. The loser runs again and must succeed. In the end the store holds what the
model holds, and every promise of its bytes is kept.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from evolute.database.index_range import Operator
from evolute.errors import Conflict
from evolute.values.value import UNDEFINED, UNSET, Int64
from tests.open_store import OpenStore
from tests.workloads.transaction_model import (
    INDEXES,
    PREDICATES,
    SCHEMA,
    TABLES,
    Delete,
    Get,
    Insert,
    Operation,
    Patch,
    Read,
    Replace,
    RollBack,
    Row,
    Save,
    View,
    Work,
    shown,
)

OPEN_MAX = 4
OPERATIONS_MAX = 12
LONG = "long " * 93  # with the index before it and what follows, about as long as the store's keys may be
COMMON: list[object] = [0, 1, "a", "a\0", LONG + "a" * 20, LONG + "a" * 20 + "b"]
RARE: list[object] = [
    *(None, False, True, -0.0, 1.5, float("nan"), Int64(0), Int64(1), Int64(-300), "", "ab", b"", b"a"),
    *([], [1], [1, 2], {}, {"x": 1}, {"x": None}, LONG, LONG + "b" * 40, "é" * 300),
]
HOW = ["collect", "collect", "first", "unique", "take", "each", "patch", "patch", "delete", "clear", "pages"]


class Programs:
    """Operations by chance: hypothesis chooses the seed and what runs beside what, and takes away what is not needed.

    Drawn from hypothesis one by one the values alone would use up what it is willing to draw for an example.
    """

    def __init__(self, chance: random.Random, ids: list[str]) -> None:
        self._chance = chance
        self._ids = ids

    def operation(self) -> Operation:
        known = self._ids[-20:]
        if not known or self._chance.random() < 0.2:
            return self.insert()
        match self._chance.choices(
            ["read", "get", "patch", "replace", "delete", "save", "back"], [9, 2, 3, 1, 2, 1, 1]
        )[0]:
            case "read":
                return self.read()
            case "get":
                return Get(self._chance.choice(known))
            case "patch":
                return Patch(self._chance.choice(known), self.changes())
            case "replace":
                return Replace(self._chance.choice(known), self.fields())
            case "delete":
                return Delete(self._chance.choice(known))
            case "save":
                return Save()
        return RollBack()

    def insert(self) -> Insert:
        return Insert("others" if self._chance.random() < 0.2 else "items", self.fields())

    def read(self) -> Read:
        index = self._chance.choice([None, *INDEXES])
        equal: list[object] = []
        bounds: list[tuple[Operator, object]] = []
        if index is not None:
            equal = [self.value(missing=True) for _ in range(self._chance.randint(0, len(INDEXES[index])))]
            is_time = len(equal) == len(INDEXES[index])
            sides: list[list[Operator]] = [["gt", "gte"], ["lt", "lte"]]
            bounds = [
                (self._chance.choice(side), self._chance.uniform(0, 1e13) if is_time else self.value(missing=True))
                for side in sides
                if self._chance.random() < 0.4
            ]
        return Read(
            table="items" if index is not None or self._chance.random() < 0.8 else "others",
            index=index,
            equal=tuple(equal),
            bounds=tuple(bounds),
            by_keywords=self._chance.random() < 0.5,
            descending=self._chance.random() < 0.5,
            predicate=self._chance.choice([None, None, None, *PREDICATES]),
            how=self._chance.choice(HOW),
            count=self._chance.randint(0, 3),
            changes=self.changes(),
        )

    def fields(self) -> Row:
        return {name: self.field(name) for name in ("a", "b", "n") if self._chance.random() < 0.8}

    def changes(self) -> Row:
        name = self._chance.choice(["a", "b", "n"])
        return {name: UNSET if self._chance.random() < 0.2 else self.field(name)}

    def field(self, name: str) -> object:
        return {"x": self.value()} if name == "n" and self._chance.random() < 0.8 else self.value()

    def value(self, *, missing: bool = False) -> object:
        if missing and self._chance.random() < 0.05:
            return UNDEFINED
        return self._chance.choice(COMMON if self._chance.random() < 0.8 else RARE)


places = st.integers(0, OPEN_MAX - 1)


class Transactions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = OpenStore(Path(self.folder.name))
        self.committed = View()
        self.commits: list[tuple[int, frozenset[bytes]]] = []
        self.works: list[Work] = []
        self.ids: list[str] = []
        self.operations = 0

    # --- Transactions -------------------------------------------------------------------------------------------------

    @initialize(seed=st.integers(0, 2**32), count=st.integers(0, 12))
    def some_rows(self, seed: int, count: int) -> None:
        work = self.begun()
        for _ in range(count):
            self.do(work, Programs(self.chance(seed), self.ids).insert())
        self.end([work])

    @precondition(lambda self: len(self.works) < OPEN_MAX)
    @rule(count=st.integers(1, OPEN_MAX))
    def begin(self, count: int) -> None:
        while count > 0 and len(self.works) < OPEN_MAX:
            self.works.append(self.begun())
            count -= 1

    def begun(self) -> Work:
        return Work(self.store.begin(schema=SCHEMA), self.committed.copy())

    @precondition(lambda self: self.works)
    @rule(place=places)
    def commit(self, place: int) -> None:
        self.end([self.works.pop(place % len(self.works))])

    @precondition(lambda self: len(self.works) > 1)
    @rule(place=places)
    def commit_two(self, place: int) -> None:
        first = self.works.pop(place % len(self.works))
        self.end([first, self.works.pop(place % len(self.works))])

    # --- Operations ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.works)
    @rule(seed=st.integers(0, 2**32), count=st.integers(1, OPERATIONS_MAX))
    def work(self, seed: int, count: int) -> None:
        """Operations of the open transactions, in turns."""
        for _ in range(count):
            chance = self.chance(seed)
            self.do(chance.choice(self.works), Programs(chance, self.ids).operation())

    def chance(self, seed: int) -> random.Random:
        """Another one each time, though hypothesis likes to choose the same seeds."""
        self.operations += 1
        return random.Random(f"{seed} {self.operations}")

    def do(self, work: Work, operation: Operation) -> None:
        note(f"{self.works.index(work) if work in self.works else 'alone'}: {operation}")
        result = work.do(operation)
        if isinstance(result, dict):
            self.ids.append(result["_id"])

    # --- The order of what happened -----------------------------------------------------------------------------------

    def end(self, works: list[Work]) -> None:
        """All of them arrive in one moment, in this order; those that lose run again, alone."""
        writing = [work for work in works if work.transaction.write_set()]
        losers: list[Work] = []
        for work, outcome in zip(writing, self.store.commit_together([w.transaction for w in writing]), strict=True):
            if isinstance(outcome, int):
                self.accept(work, outcome)
            else:
                assert isinstance(outcome, Conflict), outcome
                assert self.is_touched(work), "nobody has written what it read"
                losers.append(work)
        for loser in losers:
            again = self.begun()
            for operation, _ in loser.done:
                self.do(again, operation)
            if again.transaction.write_set():
                self.accept(again, self.store.commit(again.transaction))

    def accept(self, work: Work, commit_ts: int) -> None:
        """A commit has succeeded: was it right to?"""
        found = self.committed.copy()
        assert work.same_on(found), "on the state that it found it would have seen something else"
        assert not self.is_touched(work), "what it has read had been written"
        assert commit_ts > max((ts for ts, _ in self.commits), default=0)
        self.committed = found
        self.commits.append((commit_ts, work.transaction.write_set().touched))

    def is_touched(self, work: Work) -> bool:
        read_set = work.transaction.read_set
        later = (keys for commit_ts, keys in self.commits if commit_ts > work.transaction.begin_ts)
        return any(read_set.contains(key) for keys in later for key in keys)

    def teardown(self) -> None:
        try:
            self.end(self.works)
            transaction = self.store.begin()
            rows = [row for table in TABLES for row in transaction.query(table).collect()]
            assert {row["_id"]: shown(row) for row in rows} == {
                name: shown(row) for name, row in self.committed.documents.items()
            }
            assert self.store.check() == []
        finally:
            self.store.close()
            self.folder.cleanup()


def test_every_result_is_that_of_the_commits_one_after_the_other() -> None:
    run_state_machine_as_test(
        Transactions,
        settings=settings(max_examples=100, stateful_step_count=30, deadline=None),
    )
