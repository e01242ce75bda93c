"""Many clients on one store: whatever they did must have happened one after the other, in the order of the timestamps.

**Setup.** Accounts with money, a queue of jobs, a rota of people on call; a real LMDB store.

**Start.** Clients run transactions on snapshots that grow stale while others commit: transfers (points), audits (a
range that is summed), claims of the first job in a queue (a range that ends at the first row), leaving the rota only if
somebody else stays (write skew), inserting what is absent. Half of the runs see what is pending, too. Losers run again,
in the end serially. Watchers subscribe to what they have read. In one variant the disk refuses every few writes.

**Check.** The history is run again on a dict, in the order of the commit timestamps: every transaction must read there
exactly what it read then. That alone is strict serializability; the invariants of the data follow from it and are
checked too, with the watchers' break times and the store after it is opened anew.

A seed repeats what the clients want to do; how it interleaves is up to the writer thread as well.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from evolute.clock import SystemClock
from evolute.database.committer import Committer
from evolute.database.interval import point
from evolute.database.pending_view import PendingView
from evolute.database.read_set import ReadSet
from evolute.database.snapshot import Snapshot
from evolute.database.subscriptions import Subscription, Subscriptions, Token
from evolute.database.write_log import new_write_log
from evolute.database.write_set import WriteSet
from evolute.errors import Conflict, OutOfRetention, StorageFull, Withdrawn
from evolute.limits import Limits
from evolute.storage.keyspace import LAST_TS, decode_number, encode_number
from evolute.storage.lmdb_engine import LmdbEngine

ACCOUNTS, JOBS, PEOPLE = 12, 150, 6
MONEY_EACH = 100
CLIENTS, TRANSACTIONS_EACH = 8, 150
ATTEMPTS_BEFORE_SERIAL = 4
# Few keys to a run and few to the log, so that runs are merged and the log forgets while clients are at work.
LIMITS = Limits(map_bytes_max=64 * 1024 * 1024, log_run_keys_max=32, log_keys_max=400, commit_batch_length_max=5)

SETUP: dict[bytes, bytes] = {
    **{b"account/%02d" % number: b"%d" % MONEY_EACH for number in range(ACCOUNTS)},
    **{b"job/%03d" % number: b"waits" for number in range(JOBS)},
    **{b"rota/%d" % number: b"on call" for number in range(PEOPLE)},
}


class RefusingDisk(LmdbEngine):
    """Refuses every n-th write, before it does anything."""

    def __init__(self, path: Path, limits: Limits, refuse_every: int) -> None:
        super().__init__(path, limits)
        self._refuse_every = refuse_every
        self._writes = 0

    def write(self, puts: Mapping[bytes, bytes | None], *, on_puts: Callable[[], None] | None = None) -> None:
        self._writes += 1
        if self._refuse_every and self._writes % self._refuse_every == 0:
            raise StorageFull("the disk refuses this one")
        super().write(puts, on_puts=on_puts)


class Attempt:
    """One run of a transaction, with all that it reads and writes."""

    def __init__(self, engine: LmdbEngine, view: PendingView | None) -> None:
        self._snapshot = Snapshot(engine.reader(), view)
        self.begin_ts, self.seen = self._snapshot.begin_ts, self._snapshot.seen
        self.read_set = ReadSet(LIMITS.read_set_intervals_max)
        self.gets: list[tuple[bytes, bytes | None]] = []
        self.scans: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = []
        self.puts: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        self.read_set.add_point(key)
        self.gets.append((key, self._snapshot.get(key)))
        return self.gets[-1][1]

    def scan(self, start: bytes, end: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """What was read ends with the last row if there was a limit, and with the range if it was gone through."""
        rows: list[tuple[bytes, bytes]] = []
        for key, value in self._snapshot.scan(start, end):
            rows.append((key, value))
            if len(rows) == limit:
                end = point(key).end
                break
        self.read_set.add_range(start, end)
        self.scans.append((start, end, rows))
        return rows

    def put(self, key: bytes, value: bytes | None) -> None:
        self.puts[key] = value

    def close(self) -> None:
        self._snapshot.close()


@dataclass
class Watcher:
    token: Token
    subscription: Subscription
    told: list[int] = field(default_factory=list)


class Workload:
    """Clients over one committer, and the history of what committed."""

    def __init__(self, engine: LmdbEngine, seed: int) -> None:
        self.engine = engine
        self.random = Random(seed)
        self.log, log_writer = new_write_log(1, LIMITS)
        self.subscriptions = Subscriptions(self.log, LIMITS)
        self.stopped: list[BaseException] = []
        self.committer = Committer(
            engine,
            self.log,
            log_writer,
            self.subscriptions,
            clock=SystemClock(),
            limits=LIMITS,
            on_fate_unknown=self.stopped.append,
        )
        self.history: list[tuple[int, Attempt]] = []
        self.readers: list[Attempt] = []
        self.watchers: list[Watcher] = []
        self.refused = self.withdrawn = 0
        self.serial_runs = 0
        self.founded_on_pending = 0

    # --- Start ---

    async def run(self) -> None:
        await asyncio.gather(*(self.client(Random(self.random.random())) for _ in range(CLIENTS)))
        await self.committer.close()

    async def client(self, random: Random) -> None:
        kinds = [self.transfer, self.audit, self.claim, self.leave_rota, self.join_rota, self.insert_absent]
        for _ in range(TRANSACTIONS_EACH):
            kind = random.choice(kinds)
            try:
                await self.until_it_commits(kind, random)
            except StorageFull:
                self.refused += 1

    async def until_it_commits(self, kind: Callable[[Attempt, Random], None], random: Random) -> None:
        for _ in range(ATTEMPTS_BEFORE_SERIAL):
            try:
                await self.attempt(kind, random, serial=False)
                return
            except Conflict as conflict:
                if random.random() < 0.5:
                    await self.log.wait_published(conflict.commit_ts)
            except OutOfRetention:
                continue
            except Withdrawn:
                self.withdrawn += 1
        async with self.committer.serially():
            self.serial_runs += 1
            await self.attempt(kind, random, serial=True)

    async def attempt(self, kind: Callable[[Attempt, Random], None], random: Random, *, serial: bool) -> None:
        published_ts = self.log.published_ts
        attempt = Attempt(self.engine, self.committer.pending_view() if random.random() < 0.5 else None)
        try:
            assert attempt.begin_ts >= published_ts, "a snapshot holds all that was answered"
            kind(attempt, random)
            for _ in range(0 if serial else random.randrange(4)):
                await asyncio.sleep(0)
        finally:
            attempt.close()
        write_set = WriteSet(attempt.puts, frozenset(attempt.puts))
        commit_ts = await self.committer.commit(
            attempt.begin_ts, attempt.read_set, write_set, serial=serial, seen=attempt.seen
        )
        assert self.log.published_ts >= commit_ts, "nobody hears of what is not durable"
        self.founded_on_pending += attempt.seen is not None
        if write_set:
            self.history.append((commit_ts, attempt))
        else:
            assert commit_ts == attempt.begin_ts
            self.readers.append(attempt)
            self.watch(attempt)

    def watch(self, attempt: Attempt) -> None:
        told: list[int] = []
        token = Token(attempt.read_set, attempt.begin_ts)
        self.watchers.append(Watcher(token, self.subscriptions.subscribe(token, told.append), told))

    # --- The transactions ---

    def transfer(self, attempt: Attempt, random: Random) -> None:
        source, target = random.sample(range(ACCOUNTS), 2)
        source_key, target_key = b"account/%02d" % source, b"account/%02d" % target
        source_money, target_money = int(attempt.get(source_key) or 0), int(attempt.get(target_key) or 0)
        amount = random.randint(0, source_money)
        attempt.put(source_key, b"%d" % (source_money - amount))
        attempt.put(target_key, b"%d" % (target_money + amount))

    def audit(self, attempt: Attempt, random: Random) -> None:
        total = sum(int(money) for _, money in attempt.scan(b"account/", b"account0"))
        assert total == ACCOUNTS * MONEY_EACH, "a snapshot never shows half of a transfer"
        if random.random() < 0.3:
            attempt.put(b"audit", b"%d" % total)

    def claim(self, attempt: Attempt, random: Random) -> None:
        for key, _ in attempt.scan(b"job/", b"job0", limit=1):
            attempt.put(key, None)
            attempt.put(b"done/" + key, b"%d" % random.randrange(10**9))

    def leave_rota(self, attempt: Attempt, random: Random) -> None:
        on_call = [key for key, state in attempt.scan(b"rota/", b"rota0") if state == b"on call"]
        if len(on_call) > 1:
            attempt.put(random.choice(on_call), b"away")

    def join_rota(self, attempt: Attempt, random: Random) -> None:
        key = b"rota/%d" % random.randrange(PEOPLE)
        if attempt.get(key) == b"away":
            attempt.put(key, b"on call")

    def insert_absent(self, attempt: Attempt, random: Random) -> None:
        key = b"unique/%d" % random.randrange(300)
        if attempt.get(key) is None:
            attempt.put(key, b"%d" % random.randrange(10**9))

    # --- Check ---

    def check(self) -> dict[bytes, bytes]:
        """The state after the whole history; asserts that every transaction has seen the state before itself."""
        assert self.stopped == []
        self.history.sort(key=lambda entry: entry[0])
        assert len({commit_ts for commit_ts, _ in self.history}) == len(self.history)
        readers = sorted(self.readers, key=lambda attempt: attempt.begin_ts)
        state = dict(SETUP)
        for commit_ts, attempt in self.history:
            while readers and readers[0].begin_ts < commit_ts:
                self.check_reads(readers.pop(0), state)
            self.check_reads(attempt, state)
            for key, value in attempt.puts.items():
                if value is None:
                    del state[key]
                else:
                    state[key] = value
            assert any(value == b"on call" for key, value in state.items() if key.startswith(b"rota/"))
        for attempt in readers:
            self.check_reads(attempt, state)
        for watcher in self.watchers:
            self.check_watcher(watcher)
        return state

    def check_reads(self, attempt: Attempt, state: dict[bytes, bytes]) -> None:
        for key, value in attempt.gets:
            assert state.get(key) == value
        keys = sorted(state)
        for start, end, rows in attempt.scans:
            assert [(key, state[key]) for key in keys[bisect_left(keys, start) : bisect_left(keys, end)]] == rows

    def check_watcher(self, watcher: Watcher) -> None:
        """Good until the first commit that touches it: told then, or broken from the start."""
        touches = self.touches(watcher.token)
        broken_at = watcher.subscription.broken_at
        if not watcher.told:
            assert broken_at in (None, watcher.token.ts + 1)
            assert broken_at is not None or next(touches, None) is None
        else:
            assert watcher.told == [broken_at]
            assert next(touches) == broken_at

    def touches(self, token: Token) -> Iterator[int]:
        return (
            commit_ts
            for commit_ts, attempt in self.history
            if commit_ts > token.ts and any(token.read_set.contains(key) for key in attempt.puts)
        )


@pytest.mark.parametrize("refuse_every", [0, 7], ids=["sound disk", "refusing disk"])
def test_what_happened_has_an_order(tmp_path: Path, seed: int, refuse_every: int) -> None:
    engine = RefusingDisk(tmp_path / "store", LIMITS, refuse_every)
    LmdbEngine.write(engine, {**SETUP, LAST_TS: encode_number(1)})

    async def main() -> Workload:
        workload = Workload(engine, seed)
        await workload.run()
        return workload

    workload = asyncio.run(main())
    state = workload.check()
    assert len(workload.history) > CLIENTS * TRANSACTIONS_EACH / 4
    statistics = workload.committer.statistics()
    assert statistics.commits == len(workload.history)
    assert statistics.conflicts > 0 < workload.serial_runs, "the clients did not get in each other's way"
    assert any(watcher.told for watcher in workload.watchers)
    assert bool(refuse_every) == (workload.refused > 0) == (workload.withdrawn > 0)
    assert workload.founded_on_pending > 0
    assert sum(int(money) for key, money in state.items() if key.startswith(b"account/")) == ACCOUNTS * MONEY_EACH
    engine.close()

    reopened = LmdbEngine(tmp_path / "store", LIMITS)
    reader = reopened.reader()
    stored = dict(reader.scan(b"", None))
    # Later than the last commit, if all of the last batch had been founded on what the disk has refused.
    assert decode_number(stored.pop(LAST_TS)) == workload.log.published_ts >= workload.history[-1][0]
    assert stored == state
    reader.close()
    reopened.close()
