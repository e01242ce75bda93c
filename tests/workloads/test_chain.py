"""Chains under random interleavings: counters that are read and written by workers whose runs see each other's writes.

Two workers and somebody who sees the store alone add one to a counter each time, or to two of them. Requests, runs,
outcomes, batches of the disk, refusals of the disk and callers who give up come in any order. Whatever happens: every
commit has read of each counter how often it was committed before, and in the end the store says how often. Some runs
only look at all counters: what they are believed to have seen was so at one moment.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from evolute.database.chain import Chain, ChainedWrites, ChainMark, Link
from evolute.database.pending_view import NOTHING_SHOWN, Mark, PendingView
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, StorageFull, Withdrawn
from tests.unit.test_committer import Database, opened

KEYS = [b"counter %d" % number for number in range(3)]
STEPS = 600
BYTES_MAX = 80  # a few runs of a chain
COVERED = ("committed", "followed", "Conflict", "Withdrawn", "StorageFull", "believed", "not believed", "broken off")
"""`followed` has stood because of what it has seen of its chain."""


@dataclass
class Outcome:
    """What a run has read, and its place."""

    read: dict[bytes, int]
    begin_ts: int
    read_set: ReadSet
    write_set: WriteSet
    seen: int | None
    link: Link | None


@dataclass
class Worker:
    """Both ends of one: what the server keeps of it, what has been sent to it, and what it has answered."""

    chain: Chain = field(default_factory=Chain)
    shown: Mark = NOTHING_SHOWN.mark
    told: PendingView = NOTHING_SHOWN
    chained: ChainedWrites = field(default_factory=lambda: ChainedWrites(BYTES_MAX))
    requests: deque[tuple[int, PendingView, ChainMark, list[bytes], bool]] = field(default_factory=deque)
    outcomes: deque[Outcome] = field(default_factory=deque)


class World:
    def __init__(self, db: Database, seed: int) -> None:
        self.db = db
        self.random = random.Random(seed)
        self.workers = [Worker(), Worker()]
        self.commits: dict[int, dict[bytes, int]] = {}
        self.looks: list[dict[bytes, int]] = []
        self.counts: Counter[str] = Counter()
        self.under_way: set[asyncio.Task[None]] = set()
        self._ids = 0

    def keys(self) -> list[bytes]:
        return self.random.sample(KEYS, self.random.choice((1, 1, 2)))

    def send(self, worker: Worker) -> None:
        part = self.db.committer.pending_view(worker.shown)
        assert part is not None
        worker.shown = part.mark_after(worker.shown)
        self._ids += 1
        looks = self.random.random() < 0.2
        worker.requests.append((self._ids, part, worker.chain.mark, KEYS if looks else self.keys(), looks))

    def run(self, worker: Worker) -> None:
        """The worker's next request."""
        if not worker.requests:
            return
        request_id, part, mark, keys, looks = worker.requests.popleft()
        worker.told = worker.told.joined(part)
        is_chained = worker.chained.begin(mark)
        self.counts["broken off"] += not is_chained
        with Snapshot(self.db.disk.reader(), worker.told, worker.chained if is_chained else None) as snapshot:
            link = Link(worker.chain, mark.origin, request_id, worker.chained.last_id) if is_chained else None
            outcome = self.outcome(snapshot, keys, link, looks=looks)
        if is_chained and not looks:
            worker.chained.add(request_id, outcome.write_set)
        worker.outcomes.append(outcome)

    def run_alone(self) -> None:
        with Snapshot(self.db.disk.reader()) as snapshot:
            outcome = self.outcome(snapshot, self.keys(), None)
        self.commit(outcome)

    def outcome(self, snapshot: Snapshot, keys: list[bytes], link: Link | None, *, looks: bool = False) -> Outcome:
        read = {key: int(snapshot.get(key) or b"0") for key in keys}
        read_set = ReadSet()
        for key in keys:
            if self.random.random() < 0.5:
                read_set.add_point(key)
            else:
                read_set.add_range(key, key + b"\0")
        puts = {} if looks else {key: b"%d" % (count + 1) for key, count in read.items()}
        return Outcome(read, snapshot.begin_ts, read_set, WriteSet(puts, frozenset(puts)), snapshot.seen, link)

    def decide(self, worker: Worker) -> None:
        """The next outcome arrives at the server; it may be too late for the one who asked."""
        if not worker.outcomes:
            return
        outcome = worker.outcomes.popleft()
        if self.random.random() < 0.01:
            self.counts["given up"] += 1
        elif not outcome.write_set:
            self.start(self._believe(outcome))
        else:
            self.commit(outcome)

    def commit(self, outcome: Outcome) -> None:
        self.start(self._commit(outcome))

    def start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _believe(self, outcome: Outcome) -> None:
        """As the executor does it."""
        ts = outcome.begin_ts
        try:
            if outcome.link is not None and outcome.link.after_id:
                ts = self.db.committer.require_seen(outcome.read_set, ts, outcome.link)
            await self.db.log.wait_published(ts)
            self.db.committer.require_standing(outcome.seen)
        except (Conflict, Withdrawn):
            self.counts["not believed"] += 1
        else:
            self.counts["believed"] += 1
            self.looks.append(outcome.read)

    async def _commit(self, outcome: Outcome) -> None:
        followed: list[bool] = []
        try:
            commit_ts = await self.db.committer.commit(
                outcome.begin_ts,
                outcome.read_set,
                outcome.write_set,
                seen=outcome.seen,
                link=outcome.link,
                on_validated=followed.append,
            )
        except (Conflict, Withdrawn, StorageFull) as error:
            self.counts[type(error).__name__] += 1
            return
        assert commit_ts not in self.commits
        self.commits[commit_ts] = outcome.read
        self.counts["followed" if followed == [True] else "committed"] += 1

    async def step(self) -> None:
        worker = self.workers[self.random.random() < 0.2]
        match self.random.randrange(20):
            case 0 | 1 | 2:
                self.send(worker)
            case 3 | 4 | 5 | 6:
                self.run(worker)
            case 7 | 8 | 9 | 10 | 11 | 12:
                self.decide(worker)
                if self.random.random() < 0.7:
                    await asyncio.sleep(0)
            case 13 if self.random.random() < 0.3:
                self.run_alone()
            case 14 if self.random.random() < 0.1:
                self.db.disk.refusals = [StorageFull("no room")]
            case _:
                self.db.disk.gate.set()
                await asyncio.sleep(0.0005)
                self.db.disk.gate.clear()


def check(world: World) -> None:
    counts: Counter[bytes] = Counter()
    states = {tuple(counts[key] for key in KEYS)}
    for _, read in sorted(world.commits.items()):
        for key, value in read.items():
            assert value == counts[key], "it has not seen the commits before it"
            counts[key] += 1
        states.add(tuple(counts[key] for key in KEYS))
    for read in world.looks:
        assert tuple(read[key] for key in KEYS) in states, "it has not seen the state of any moment"
    for key in KEYS:
        assert int(world.db.disk.get(key) or b"0") == counts[key]


def test_no_commit_is_lost_or_seen_twice(tmp_path: Path, seed: int) -> None:
    async def main() -> None:
        async with opened(tmp_path) as db:
            world = World(db, seed)
            await db.put(b"begin")
            db.disk.gate.clear()
            steps = 0
            while steps < STEPS or not all(world.counts[what] for what in COVERED):
                assert steps < 20 * STEPS, f"not everything has happened: {world.counts}"
                await world.step()
                steps += 1
            db.disk.refusals = []
            db.disk.gate.set()
            while world.under_way:
                await asyncio.wait(world.under_way)
            check(world)
            assert db.stopped == []

    asyncio.run(main())
