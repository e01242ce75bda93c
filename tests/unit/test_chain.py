"""What a run of a chain sees, whether it may stand, and what the latest commits say of it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.database import recent_commits
from evolute.database.chain import Chain, ChainedWrites, ChainMark, Link
from evolute.database.conflict import Touch
from evolute.database.pending_view import PendingView
from evolute.database.read_set import ReadSet
from evolute.database.recent_commits import RecentCommits
from evolute.database.snapshot import Snapshot
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, Overloaded, Withdrawn
from evolute.execution.request import NOT_YET_KNOWN, Call, FunctionRequest
from evolute.execution.runner import Runner
from evolute.execution.worker import _run_chained
from evolute.limits import MIB, Limits
from evolute.storage.keyspace import LAST_TS, encode_number, session_record_key
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, encode
from tests.contracts.model_engine import ModelEngine
from tests.unit.function_store import FunctionStore
from tests.unit.test_committer import opened

BYTES_MAX = 1000
KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
VIEW = PendingView(0, 100)


def writes(**puts: str) -> WriteSet:
    values = {key.encode(): value.encode() for key, value in puts.items()}
    return WriteSet(values, frozenset(values))


def store() -> ModelEngine:
    engine = ModelEngine()
    engine.write({b"a": b"0", LAST_TS: encode_number(100)})
    return engine


def test_a_run_sees_what_those_before_it_want_to_write() -> None:
    chained = ChainedWrites(BYTES_MAX)
    chained.begin(ChainMark(1, 0))
    chained.add(7, writes(a="1", b="1"))
    chained.add(8, writes(a="2"))
    chained.begin(ChainMark(1, 0))
    with Snapshot(store().reader(), VIEW, chained) as snapshot:
        assert [snapshot.get(key) for key in (b"a", b"b")] == [b"2", b"1"]
        assert list(snapshot.scan(b"a", b"c")) == [(b"a", b"2"), (b"b", b"1")]
        assert (snapshot.begin_ts, snapshot.seen, chained.last_id) == (100, 0, 8)


def test_what_was_accepted_or_refused_is_forgotten() -> None:
    chained = ChainedWrites(BYTES_MAX)
    chained.begin(ChainMark(1, 0))
    for request_id in (7, 8, 9):
        chained.add(request_id, writes(a=str(request_id)))
    chained.begin(ChainMark(1, 8))
    assert (chained.puts()[0], chained.last_id) == ({b"a": b"9"}, 9)
    chained.begin(ChainMark(2, 0))
    assert (chained.puts()[0], chained.last_id, chained.origin) == ({}, 0, 2)


def test_too_much_to_remember_breaks_the_chain_off_until_it_is_decided() -> None:
    """`pending_view_bytes_max` is as much as a worker remembers. Who has not seen all of its chain is not of it."""
    chained = ChainedWrites(bytes_max=4)
    assert chained.begin(ChainMark(1, 0))
    chained.add(7, writes(a="1", b="2"))
    assert chained.begin(ChainMark(1, 0)), "just as much as it may be"
    chained.add(8, writes(a="3"))
    assert not chained.begin(ChainMark(1, 0))
    assert not chained.begin(ChainMark(1, 7))
    assert (chained.puts()[0], chained.last_id) == ({}, 0)
    assert chained.begin(ChainMark(1, 8)), "the view has it"
    chained.add(9, writes(a="12345"))
    assert not chained.begin(ChainMark(1, 8))
    assert chained.begin(ChainMark(2, 0)), "what was refused is forgotten"
    for request_id in range(10, 20):
        chained.add(request_id, writes(a="1"))
        assert chained.begin(ChainMark(2, request_id)), "what was accepted no longer counts"


def test_what_the_store_has_beyond_the_view_does_not_count_as_seen() -> None:
    """Given a chain's write that is in the store by now, under a newer value of somebody else, I expect the run that
    sees the chain's to have begun before both."""
    engine, chained = store(), ChainedWrites(BYTES_MAX)
    chained.begin(ChainMark(1, 0))
    chained.add(7, writes(a="7"))
    engine.write({b"a": b"8", LAST_TS: encode_number(108)})
    chained.begin(ChainMark(1, 0))
    with Snapshot(engine.reader(), VIEW, chained) as snapshot:
        assert (snapshot.get(b"a"), snapshot.begin_ts) == (b"7", 100)


def test_a_timestamp_that_nobody_knows_yet_is_met() -> None:
    chained = ChainedWrites(BYTES_MAX)
    chained.begin(ChainMark(1, 0))
    record = session_record_key("0" * 32, 1)
    chained.add(7, WriteSet({record: COMMIT_TS_PLACEHOLDER, b"b": b"1"}, frozenset({record, b"b"}), {record: 1}))
    for read, met in ((b"b", False), (record, True)):
        with Snapshot(store().reader(), VIEW, chained) as snapshot:
            snapshot.get(read)
            assert snapshot.has_met_unknown == met
        with Snapshot(store().reader(), VIEW, chained) as snapshot:
            list(snapshot.scan(read, read + b"\0"))
            assert snapshot.has_met_unknown == met
    chained.add(8, WriteSet({record: b"8"}, frozenset({record})))
    with Snapshot(store().reader(), VIEW, chained) as snapshot:
        assert (snapshot.get(record), snapshot.has_met_unknown) == (b"8", False)


def test_a_document_with_a_timestamp_that_nobody_knows_yet_breaks_the_chain_off() -> None:
    """Who wants it next would be told to come again, and again, and would run serially in the end."""
    chained = ChainedWrites(BYTES_MAX)
    chained.begin(ChainMark(1, 0))
    chained.add(7, WriteSet({b"a": COMMIT_TS_PLACEHOLDER}, frozenset({b"a"}), {b"a": 1}))
    assert not chained.begin(ChainMark(1, 0))
    assert chained.begin(ChainMark(1, 7))


def test_a_session_that_sends_its_mutation_again_meets_the_record_that_is_not_committed(tmp_path: Path) -> None:
    """Or it would be run twice, because the commits of its own chain are no conflict for it."""
    functions = FunctionStore(tmp_path, {"m.py": "@mutation\ndef add(ctx: MutationCtx) -> None:\n    pass\n"})
    call = Call("m:add", encode({}), kind="mutation", session=("0" * 32, 1))
    runner, chained = Runner(functions.registry, functions.limits), ChainedWrites(BYTES_MAX)
    view, mark = PendingView(0, functions.ts), ChainMark(1, 0)
    outcomes = []
    for _ in range(2):
        request: FunctionRequest = functions.request("mutation", call)._replace(pending=view, chained=mark)
        chained.begin(mark)
        outcomes.append(outcome := _run_chained(runner, functions.engine, request, chained))
        if outcome.write_set:
            chained.add(outcome.id, outcome.write_set)
    assert outcomes[0].write_set
    assert (outcomes[1].refused, outcomes[1].write_set) == (NOT_YET_KNOWN, None)
    functions.close()


def test_a_run_stands_if_the_last_one_that_it_has_seen_was_accepted() -> None:
    chain = Chain()
    origin = chain.mark.origin
    first, second, third = (Link(chain, origin, own, seen) for own, seen in ((7, 0), (8, 7), (9, 8)))
    assert first.require_founded() == 0
    with pytest.raises(Withdrawn):
        second.require_founded()
    first.accept(101)
    assert (second.require_founded(), chain.mark) == (101, ChainMark(origin, 7))
    second.refuse()
    renewed = chain.mark.origin
    assert renewed != origin
    assert chain.mark.accepted_id == 0
    with pytest.raises(Withdrawn):
        third.require_founded()
    third.refuse()
    assert chain.mark.origin == renewed, "one refusal begins one chain"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sets(KEYS, min_size=1)), max_size=12),
    st.integers(0, 12),
    st.integers(1, 2),
    st.sets(KEYS),
    st.lists(st.tuples(KEYS, KEYS), max_size=2),
)
def test_the_latest_commits_answer_as_a_walk_over_all(
    commits: list[tuple[int, set[bytes]]],
    after_ts: int,
    origin: int,
    points: set[bytes],
    ranges: list[tuple[bytes, bytes]],
) -> None:
    read_set = ReadSet()
    for key in points:
        read_set.add_point(key)
    for start, end in ranges:
        read_set.add_range(start, end)
    recent = RecentCommits(0)
    for commit_ts, (its_origin, keys) in enumerate(commits, 1):
        recent.append(commit_ts, its_origin, keys)
    expected = [
        commit_ts
        for commit_ts, (its_origin, keys) in enumerate(commits, 1)
        if commit_ts > after_ts and its_origin != origin and any(map(read_set.contains, keys))
    ]
    found = recent.foreign_touch(read_set, after_ts, origin, Touch(b"x", 99))
    assert (None if found is None else found.commit_ts) == (expected[-1] if expected else None)
    assert found is None or read_set.contains(found.key)


def test_what_is_no_longer_remembered_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_commits, "KEYS_MAX", 3)
    recent, read_set = RecentCommits(0), ReadSet()
    read_set.add_point(b"a")
    for commit_ts in range(1, 6):
        recent.append(commit_ts, 1, [b"a"])
    touch = Touch(b"a", 5)
    assert recent.foreign_touch(read_set, 1, 1, touch) is touch
    assert recent.foreign_touch(read_set, 2, 1, touch) is None


def test_what_writes_nothing_has_happened_at_a_moment_at_which_all_that_it_read_was_true(tmp_path: Path) -> None:
    """Given a run that has seen its own chain's write, and not what somebody else has committed before that, I expect
    it to be in conflict if it has read both. It would else tell of a state that never was, if only by an error."""

    def reading(*keys: bytes) -> ReadSet:
        read_set = ReadSet()
        for key in keys:
            read_set.add_point(key)
        return read_set

    async def main() -> None:
        async with opened(tmp_path) as db:
            begin_ts = await db.put(b"a", b"b")
            chain = Chain()
            first = Link(chain, chain.mark.origin, 7, 0)
            await db.put(b"b")
            write_set = WriteSet({b"a": b"7"}, frozenset({b"a"}))
            own_ts = await db.committer.commit(begin_ts, reading(b"a"), write_set, link=first)
            behind = Link(chain, first.origin, 8, 7)
            assert db.committer.require_seen(reading(b"a"), begin_ts, behind) == own_ts
            with pytest.raises(Conflict):
                db.committer.require_seen(reading(b"a", b"b"), begin_ts, behind)
            with pytest.raises(Withdrawn):
                db.committer.require_seen(reading(b"a"), begin_ts, Link(chain, first.origin, 10, 9))

    asyncio.run(main())


def test_who_is_turned_away_before_it_is_validated_is_refused(tmp_path: Path) -> None:
    """Or a chain that it has broken off would wait for it, and its worker would have none any more."""

    async def main() -> None:
        limits = Limits(map_bytes_max=64 * MIB, commit_queue_length_max=2)
        async with opened(tmp_path, limits) as db:
            chain, write_set = Chain(), WriteSet({b"a": b"7"}, frozenset({b"a"}))

            async def commit() -> int:
                return await db.committer.commit(
                    0, ReadSet(), write_set, link=Link(chain, chain.mark.origin, next(ids), 0)
                )

            ids, origins = itertools.count(7), [chain.mark.origin]
            async with db.committer.serially():
                held = asyncio.create_task(commit())
                await asyncio.sleep(0)
                held.cancel()
            origins.append(chain.mark.origin)

            db.disk.gate.clear()
            others = [asyncio.create_task(db.put(key)) for key in (b"x", b"y")]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await commit()
            origins.append(chain.mark.origin)
            assert len(set(origins)) == 3, origins
            db.disk.gate.set()
            await asyncio.gather(*others)

    asyncio.run(main())
