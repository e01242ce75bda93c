"""The query cache over a real database: queries read raw keys of real snapshots, and the test decides when runs end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from evolute.clock import NS_PER_MS, ManualClock
from evolute.database.database import Database
from evolute.database.read_set import ReadSet
from evolute.database.transaction import Transaction
from evolute.errors import Overloaded
from evolute.execution.query_cache import Found, QueryBatch, QueryCache, Wanted
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallError, CallResult
from evolute.limits import MIB, Limits

SOURCE = b"m:test:"
LIMITS = Limits(map_bytes_max=64 * MIB)


def reads(name: str, identity: bytes | None = None) -> Call:
    """The query that reads the key `name`. One whose name begins with ! fails; one that begins with p is a page, whose
    journal is the value that it had when it was first read; one that begins with w asks who is calling."""
    return Call(name, b"{}", kind="query", identity=identity)


class CacheUnderTest:
    """`hold_runs` keeps every run from ending between its snapshot and its answer, until `let_go`."""

    def __init__(self, database: Database, clock: ManualClock, limits: Limits) -> None:
        self.database = database
        self.clock = clock
        self.batches: list[tuple[str, ...]] = []
        self.after_snapshot: Callable[[], object] = lambda: None
        self.fault: Exception | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.cache = QueryCache(self._begin, database.log, database.subscriptions, clock, limits)

    def hold_runs(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def put(self, **values: str) -> int:
        """One commit."""
        with self.database.snapshot() as snapshot:
            transaction = Transaction(snapshot, limits=LIMITS, now_ns=0, seed=b"", writable=True)
            for name, value in values.items():
                transaction.put_raw(SOURCE + name.encode(), value.encode())
            write_set, read_set = transaction.write_set(), transaction.read_set
        return await self.database.committer.commit(snapshot.begin_ts, read_set, write_set)

    def _begin(self, calls: tuple[Call, ...]) -> Callable[[], Awaitable[QueryBatch]]:
        return partial(self._finish, calls)

    async def _finish(self, calls: tuple[Call, ...]) -> QueryBatch:
        self.batches.append(tuple(call.path for call in calls))
        with self.database.snapshot() as snapshot:
            results = []
            for call in calls:
                transaction = Transaction(snapshot, limits=LIMITS, now_ns=0, seed=b"", writable=False)
                value = transaction.get_raw(SOURCE + call.path.encode()) or b"-"
                error = CallError("broken") if call.path.startswith("!") else None
                journal = (call.journal or value.decode()) if call.path.startswith("p") else None
                saw, answer = call.path.startswith("w"), None if error else value
                read_set = transaction.read_set
                results.append(CallResult(answer, error, (), read_set, journal=journal, saw_identity=saw))
        self.after_snapshot()
        await self._open.wait()
        await self.database.log.wait_published(snapshot.begin_ts)
        if self.fault is not None:
            raise self.fault
        return QueryBatch(snapshot.begin_ts, tuple(results))


@contextlib.asynccontextmanager
async def opened(folder: Path, limits: Limits = LIMITS) -> AsyncIterator[CacheUnderTest]:
    clock = ManualClock()
    database = Database(folder / "store", clock, limits, sync=False)
    under_test = CacheUnderTest(database, clock, limits)
    try:
        yield under_test
    finally:
        await under_test.cache.close()
        assert database.subscriptions.statistics().live == 0
        await database.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def assert_good(ts: int, results: list[QueryResult]) -> None:
    for result in results:
        assert result.begin_ts <= ts
        assert result.broken_at is None or ts < result.broken_at


# --- One query -------------------------------------------------------------------------------------------------------


def test_a_result_serves_until_a_commit_touches_what_it_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(a="1", b="1")
            first = await test.cache.latest(reads("a"))
            assert await test.cache.latest(reads("a")) is first
            await test.put(b="2")
            assert await test.cache.latest(reads("a")) is first
            commit_ts = await test.put(a="2")
            assert first.broken_at == commit_ts
            assert (await test.cache.latest(reads("a"))).value == b"2"
            assert test.batches == [("a",), ("a",)]

    asyncio.run(scenario())


def test_those_who_ask_at_the_same_time_share_a_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            answers = await asyncio.gather(*(test.cache.latest(reads("a")) for _ in range(20)))
            assert len(set(map(id, answers))) == 1
            assert test.batches == [("a",)]

    asyncio.run(scenario())


def test_a_run_that_began_before_a_commit_does_not_answer_those_who_ask_after_it(tmp_path: Path) -> None:
    """They share one new run, however many they are; who asked before may have the old answer."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(a="old")
            test.hold_runs()
            before = asyncio.create_task(test.cache.latest(reads("a")))
            await turns()
            commit_ts = await test.put(a="new")
            after = [asyncio.create_task(test.cache.latest(reads("a"))) for _ in range(10)]
            await turns()
            test.let_go()
            assert (await before).value == b"old"
            answers = await asyncio.gather(*after)
            assert {answer.value for answer in answers} == {b"new"}
            assert all(answer.begin_ts >= commit_ts for answer in answers)
            assert test.batches == [("a",), ("a",)]

    asyncio.run(scenario())


def test_a_result_ages_and_errors_are_not_served_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            first = await test.cache.latest(reads("a"))
            test.clock.set_ns(test.clock.now_ns() + LIMITS.query_cache_age_ms_max * NS_PER_MS)
            assert await test.cache.latest(reads("a")) is first
            test.clock.set_ns(test.clock.now_ns() + NS_PER_MS)
            assert await test.cache.latest(reads("a")) is not first
            failed = await test.cache.latest(reads("!a"))
            assert failed.error is not None
            assert await test.cache.latest(reads("!a")) is not failed

    asyncio.run(scenario())


def test_what_is_asked_together_ages_too_and_errors_are_not_served_again(tmp_path: Path) -> None:
    """A query whose worker was killed once would else be answered so for as long as nothing is deployed."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(a="1")
            calls = (reads("a"), reads("b"), reads("!b"))
            first = await test.cache.latest_together(calls)
            assert first[calls[2]].error is not None
            again = await test.cache.latest_together(calls)
            assert [again[call] is first[call] for call in calls] == [True, True, False]
            test.clock.set_ns(test.clock.now_ns() + (LIMITS.query_cache_age_ms_max + 1) * NS_PER_MS)
            assert (await test.cache.latest_together(calls[:1]))[calls[0]] is not first[calls[0]]
            assert test.batches == [("a", "b", "!b"), ("!b",), ("a",)]

    asyncio.run(scenario())


def test_a_fault_reaches_every_waiter_and_is_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            test.fault = Overloaded("full")
            answers = await asyncio.gather(
                *(test.cache.latest(reads("a")) for _ in range(3)),
                test.cache.results_at([reads("a"), reads("b")], [], at_least_ts=0),
                return_exceptions=True,
            )
            assert all(isinstance(answer, Overloaded) for answer in answers)
            assert test.cache.statistics().running == 0
            test.fault = None
            assert (await test.cache.latest(reads("a"))).value == b"-"

    asyncio.run(scenario())


def test_a_caller_who_is_cancelled_takes_the_run_from_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            test.hold_runs()
            gone, stays = (asyncio.create_task(test.cache.latest(reads("a"))) for _ in range(2))
            await turns()
            gone.cancel()
            await turns()
            test.let_go()
            assert (await stays).value == b"-"
            assert test.batches == [("a",)]

    asyncio.run(scenario())


# --- Holding ---------------------------------------------------------------------------------------------------------


def test_a_holder_is_told_once_in_the_turn_of_publication(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            told: list[int] = []
            _, results = await test.cache.results_at([reads("a")], [], at_least_ts=0)
            result = results[reads("a")]

            def listener() -> None:
                assert result.broken_at == test.database.log.published_ts
                told.append(result.broken_at)

            result.hold(listener)
            commit_ts = await test.put(a="1")
            await test.put(a="2")
            assert told == [commit_ts]
            result.release(listener)

    asyncio.run(scenario())


def test_who_has_let_go_is_not_told_and_the_result_stays_cached(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            told: list[str] = []
            result = await test.cache.latest(reads("a"))

            def listener() -> None:
                told.append("broken")

            result.hold(listener)
            assert test.cache.statistics().held == 1
            result.release(listener)
            result.release(listener)
            assert await test.cache.latest(reads("a")) is result
            await test.put(a="1")
            assert told == []

    asyncio.run(scenario())


def test_a_discarded_result_is_kept_by_its_holders_and_run_again_for_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            told: list[str] = []
            result = await test.cache.latest(reads("a"))

            def listener() -> None:
                told.append("broken")

            result.hold(listener)
            test.cache.discard(result)
            assert result.broken_at is None
            newer = await test.cache.latest(reads("a"))
            assert newer is not result
            test.cache.discard(result)  # it is not the live one any more: nothing happens
            assert await test.cache.latest(reads("a")) is newer
            await test.put(a="1")
            assert told == ["broken"]
            result.release(listener)

    asyncio.run(scenario())


def test_results_that_nobody_holds_give_way_when_there_are_too_many(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, query_cache_bytes_max=3000)) as test:
            held = await test.cache.latest(reads("held"))
            held.hold(turns_nothing)
            results = [await test.cache.latest(reads(str(number))) for number in range(20)]
            statistics = test.cache.statistics()
            assert statistics.results < 8
            assert test.database.subscriptions.statistics().live == statistics.results
            assert await test.cache.latest(reads("held")) is held
            assert await test.cache.latest(reads("19")) is results[19]
            assert await test.cache.latest(reads("0")) is not results[0]
            held.release(turns_nothing)

    asyncio.run(scenario())


def test_what_a_result_has_read_counts_too(tmp_path: Path) -> None:
    """A small answer may have been made of many rows, all of which are watched."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:

            def begin_batch(calls: tuple[Call, ...]) -> Callable[[], Awaitable[QueryBatch]]:
                return partial(finish_batch, calls)

            async def finish_batch(calls: tuple[Call, ...]) -> QueryBatch:
                read_set = ReadSet()
                for number in range(1000):
                    read_set.add_point(b"%s:%d" % (calls[0].path.encode(), number))
                return QueryBatch(test.database.log.published_ts, (CallResult(b"1", None, (), read_set),))

            limits = Limits(query_cache_bytes_max=1 * MIB)
            cache = QueryCache(begin_batch, test.database.log, test.database.subscriptions, test.clock, limits)
            for number in range(20):
                await cache.latest(reads(str(number)))
            assert test.database.subscriptions.statistics().intervals <= 3000
            await cache.close()

    asyncio.run(scenario())


def turns_nothing() -> None:
    """A listener who does not care."""


def test_a_result_that_was_chosen_is_not_evicted_before_it_is_held(tmp_path: Path) -> None:
    """While one caller waits for the rest of its results, others fill the cache beyond its limit."""

    async def scenario() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, query_cache_bytes_max=2000)) as test:
            await test.cache.latest(reads("a"))
            test.hold_runs()
            choosing = asyncio.create_task(test.cache.results_at([reads("a"), reads("b")], [], at_least_ts=0))
            await turns()
            others = [asyncio.create_task(test.cache.latest(reads(str(number)))) for number in range(20)]
            await turns()
            test.let_go()
            ts, results = await choosing
            assert_good(ts, list(results.values()))
            for result in results.values():
                assert result.broken_at is None
                result.hold(turns_nothing)
            await asyncio.gather(*others)
            commit_ts = await test.put(a="1", b="1")
            assert [result.broken_at for result in results.values()] == [commit_ts] * 2

    asyncio.run(scenario())


# --- Journals --------------------------------------------------------------------------------------------------------


def test_a_result_serves_who_asks_anew_and_who_comes_back_with_its_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(p="1")
            first = await test.cache.latest(reads("p"))
            assert (first.asked, first.call, first.journal) == (reads("p"), reads("p")._replace(journal="1"), "1")
            for call in (reads("p"), first.call):
                _, results = await test.cache.results_at([call], [], at_least_ts=0)
                assert results == {call: first}
            assert test.batches == [("p",)]
            assert test.cache.statistics().results == 1
            assert test.database.subscriptions.statistics().live == 1

    asyncio.run(scenario())


def test_what_is_run_again_is_the_same_page_and_no_other(tmp_path: Path) -> None:
    """The page that is held keeps its journal; who asks anew gets a page of its own."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(p="1")
            held = await test.cache.latest(reads("p"))
            held.hold(turns_nothing)
            commit_ts = await test.put(p="2")
            _, results = await test.cache.results_at([held.call], [], at_least_ts=commit_ts)
            again = results[held.call]
            assert (again.value, again.journal, again.call) == (b"2", "1", held.call)
            fresh = await test.cache.latest(reads("p"))
            assert (fresh.value, fresh.journal) == (b"2", "2")
            assert (await test.cache.latest(held.call), await test.cache.latest(fresh.call)) == (again, fresh)
            assert not again.same_answer(fresh)

    asyncio.run(scenario())


def test_a_held_page_that_breaks_while_others_run_is_run_again_with_its_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(p="1", b="1")
            held = await test.cache.latest(reads("p"))
            held.hold(turns_nothing)
            test.hold_runs()
            waiting = asyncio.create_task(test.cache.results_at([reads("b")], [held], at_least_ts=0))
            await turns()
            await test.put(p="2", b="2")
            test.let_go()
            ts, results = await waiting
            assert_good(ts, [results.get(held.call, held), results[reads("b")]])
            ts, results = await test.cache.results_at([held.call], [], at_least_ts=test.database.log.published_ts)
            assert (results[held.call].value, results[held.call].journal) == (b"2", "1")

    asyncio.run(scenario())


def test_a_page_that_was_chosen_is_not_evicted_under_either_call(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, query_cache_bytes_max=2000)) as test:
            for place in (0, 1):
                page = await test.cache.latest(reads("p"))
                asked = page.calls[place]
                test.hold_runs()
                choosing = asyncio.create_task(test.cache.results_at([asked, reads("b")], [], at_least_ts=0))
                await turns()
                others = [asyncio.create_task(test.cache.latest(reads(str(number)))) for number in range(20)]
                await turns()
                test.let_go()
                _, results = await choosing
                assert results[asked] is page
                assert page.broken_at is None
                await asyncio.gather(*others)
                await test.put(b=str(page.begin_ts))

    asyncio.run(scenario())


def test_a_page_that_gives_way_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, Limits(map_bytes_max=64 * MIB, query_cache_bytes_max=3000)) as test:
            for number in range(20):
                await test.cache.latest(reads(f"p{number}"))
            statistics = test.cache.statistics()
            assert statistics.results < 8
            assert test.database.subscriptions.statistics().live == statistics.results
            page = await test.cache.latest(reads("p0"))
            test.cache.discard(page)
            assert await test.cache.latest(page.call) is not page

    asyncio.run(scenario())


# --- Several callers -------------------------------------------------------------------------------------------------


def test_what_does_not_depend_on_the_caller_is_run_once_for_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(a="1", w="1", p="1")
            ada, bob = [await test.cache.latest(reads("a", who)) for who in (b"ada", b"bob")]
            assert test.batches == [("a",)]
            assert (bob.value, bob.begin_ts, bob.made_ns) == (ada.value, ada.begin_ts, ada.made_ns)
            assert (ada.call.identity, bob.call.identity) == (b"ada", b"bob")
            _, results = await test.cache.results_at([reads("a"), reads("a", b"eve")], [], at_least_ts=0)
            assert len(test.batches) == 1
            assert {result.value for result in results.values()} == {b"1"}
            commit_ts = await test.put(a="2")
            everybody = [ada, bob, *results.values()]
            assert [result.broken_at for result in everybody] == [commit_ts] * 4, "each has a subscription of its own"
            assert (await test.cache.latest(reads("a", b"bob"))).value == b"2"
            for who in (b"ada", b"bob"):
                await test.cache.latest(reads("w", who))
            assert [names for names in test.batches if "w" in names] == [("w",), ("w",)]
            page = await test.cache.latest(reads("p", b"ada"))
            other = await test.cache.latest(reads("p", b"bob"))
            assert (other.journal, other.call.identity, other.asked.journal) == (page.journal, b"bob", None)
            assert await test.cache.latest(other.call) is other

    asyncio.run(scenario())


def test_errors_are_nobody_elses(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            for who in (b"ada", b"bob"):
                await test.cache.results_at([reads("!", who)], [], at_least_ts=0)
            assert len(test.batches) == 2

    asyncio.run(scenario())


def test_what_another_caller_has_is_not_taken_over_once_a_commit_has_broken_it(tmp_path: Path) -> None:
    """Not even in the turn of that commit, when the other one may not have been told of it yet."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(a="1")
            results = [await test.cache.latest(reads("a", who)) for who in (b"ada", b"bob")]
            told: list[int] = []

            def ask_again(who: bytes) -> None:
                told.append(len(test.batches))
                test.cache.begin(Wanted((reads("a", who),), (), 0), lambda wanted, found: None)

            for result, who in zip(results, (b"ada", b"bob"), strict=True):
                result.hold(partial(ask_again, who))
            await test.put(a="2")
            assert told == [1, 1]
            for who in (b"ada", b"bob"):
                assert (await test.cache.latest(reads("a", who))).value == b"2"

    asyncio.run(scenario())


# --- One timestamp ---------------------------------------------------------------------------------------------------


def test_what_broke_while_another_ran_joins_the_batch(tmp_path: Path) -> None:
    """b is read after a commit that changes both; a's cached answer is too old for it and is run again with it."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(a="1", b="1")
            _, first = await test.cache.results_at([reads("a")], [], at_least_ts=0)
            first[reads("a")].hold(turns_nothing)
            test.hold_runs()
            waiting = asyncio.create_task(
                test.cache.results_at([reads("b")], list(first.values()), at_least_ts=test.database.log.published_ts)
            )
            await turns()
            commit_ts = await test.put(a="2", b="2")
            test.let_go()
            ts, results = await waiting
            assert ts >= commit_ts or {result.value for result in results.values()} == {b"1"}
            assert_good(ts, [results.get(reads("a"), first[reads("a")]), results[reads("b")]])

    asyncio.run(scenario())


@pytest.mark.parametrize("names", ["a", "abcdef"])
def test_batches_only_grow_so_that_commits_cannot_outrun_them(tmp_path: Path, names: str) -> None:
    """Every run is overtaken by a commit that breaks all of it."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            numbers = iter(range(1000))
            commits: set[asyncio.Task[int]] = set()

            def overtake() -> None:
                commits.add(asyncio.create_task(test.put(**dict.fromkeys(names, str(next(numbers))))))
                test.hold_runs()
                asyncio.get_running_loop().call_later(0.01, test.let_go)

            await test.put(**dict.fromkeys(names, "start"))
            given: list[QueryResult] = []
            for name in names:
                given.append(await test.cache.latest(reads(name)))
            test.after_snapshot = overtake
            del test.batches[:]
            ts, results = await test.cache.results_at([reads("z")], given, at_least_ts=test.database.log.published_ts)
            chosen = {result.call: result for result in given} | results
            assert_good(ts, list(chosen.values()))
            sizes = [len(batch) for batch in test.batches]
            assert sizes == sorted(sizes)
            assert len(sizes) <= len(names) + 2
            await asyncio.gather(*commits)

    asyncio.run(scenario())


def test_sessions_with_the_same_stale_query_share_its_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            commit_ts = await test.put(a="1")
            answers = await asyncio.gather(
                *(test.cache.results_at([reads("a")], [], at_least_ts=commit_ts) for _ in range(100))
            )
            assert len({id(results[reads("a")]) for _, results in answers}) == 1
            assert test.batches == [("a",)]

    asyncio.run(scenario())


def test_what_was_begun_is_what_the_session_then_waits_for(tmp_path: Path) -> None:
    """`begin` sends the run on its way in its own turn, and nothing that is live or under way runs again."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.cache.latest(reads("a"))
            both, one = Wanted((reads("a"), reads("b")), (), 0), Wanted((reads("b"),), (), 0)
            told: list[tuple[Wanted, Found]] = []

            def then(wanted: Wanted, found: Found) -> None:
                told.append((wanted, found))

            assert test.cache.begin(both, then)
            assert test.cache.statistics().running == 1
            assert test.cache.begin(one, then)
            assert test.cache.begin(both, then), "who wants the same is told the same"
            ts, results = await test.cache.results_at([reads("a"), reads("b")], [], at_least_ts=0)
            assert_good(ts, list(results.values()))
            assert test.batches == [("a",), ("b",)]
            await turns()
            only_b = {reads("b"): results[reads("b")]}
            assert told == [(both, (ts, results)), (both, (ts, results)), (one, (ts, only_b))]
            assert not test.cache.begin(one, then), "there is nothing to wait for"
            assert test.cache.statistics().running == 0

    asyncio.run(scenario())


def test_who_waits_for_a_run_is_told_if_it_was_not_enough_or_failed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as test:
            told: list[Found] = []
            first_ts = await test.put(a="1")
            test.hold_runs()
            assert test.cache.begin(Wanted((reads("a"),), (), first_ts), lambda wanted, found: told.append(found))
            await turns()
            await test.put(a="2")
            test.let_go()
            await turns()
            assert told == [None], "what the run has read was broken when it ended"
            test.fault = Overloaded("no room")
            assert test.cache.begin(Wanted((reads("a"),), (), first_ts), lambda wanted, found: told.append(found))
            await turns()
            assert told[1] is test.fault

    asyncio.run(scenario())


def test_every_answer_is_what_the_store_held_at_its_timestamp(tmp_path: Path, seed: int) -> None:
    """Writers and sessions side by side; the values are counters, so each session can tell at which commit it is."""

    async def scenario() -> None:
        chance = random.Random(seed)
        names = [f"k{number}" for number in range(6)]
        history: dict[str, list[tuple[int, bytes]]] = {name: [(0, b"-")] for name in names}
        limits = Limits(map_bytes_max=64 * MIB, query_cache_bytes_max=3000)

        def at(name: str, ts: int) -> bytes:
            return [value for commit_ts, value in history[name] if commit_ts <= ts][-1]

        async def write(test: CacheUnderTest) -> None:
            for number in range(60):
                chosen = chance.sample(names, chance.randint(1, 3))
                commit_ts = await test.put(**{name: str(number) for name in chosen})
                for name in chosen:
                    history[name].append((commit_ts, str(number).encode()))
                for _ in range(chance.randint(0, 3)):
                    await asyncio.sleep(0)

        async def watch(test: CacheUnderTest) -> None:
            held: dict[Call, QueryResult] = {}
            seen_ts = 0
            for _ in range(40):
                callers = (None, b"ada", b"bob")
                calls = [reads(name, chance.choice(callers)) for name in chance.sample(names, chance.randint(1, 4))]
                stale = [call for call in calls if call not in held or held[call].broken_at is not None]
                good = [result for result in held.values() if result.broken_at is None]
                ts, results = await test.cache.results_at(stale, good, at_least_ts=seen_ts)
                for result in held.values():
                    result.release(turns_nothing)
                held = {result.call: result for result in good} | results
                for result in held.values():
                    result.hold(turns_nothing)
                assert seen_ts <= ts <= test.database.log.published_ts
                assert_good(ts, list(held.values()))
                asked.extend((ts, call.path, result.value) for call, result in held.items())
                seen_ts = ts
            for result in held.values():
                result.release(turns_nothing)

        asked: list[tuple[int, str, bytes | None]] = []
        async with opened(tmp_path, limits) as test:
            await asyncio.gather(write(test), *(watch(test) for _ in range(5)))
        for ts, name, value in asked:
            assert value == at(name, ts)

    asyncio.run(scenario())


def test_who_asks_for_many_leaves_workers_to_others(tmp_path: Path) -> None:
    """In parts, one after the other; what is touched between them is run again, so that all are good at one time."""

    async def scenario() -> None:
        async with opened(tmp_path, replace(LIMITS, queries_per_run_max=2)) as test:
            many = [reads(name) for name in "abcde"]
            first_ts = await test.put(a="1", b="1", c="1", d="1", e="1")
            assert not test.cache.begin(Wanted(tuple(many), (), first_ts), lambda wanted, found: None)
            test.hold_runs()
            asking = asyncio.create_task(test.cache.results_at(many, (), at_least_ts=first_ts))
            await turns()
            assert test.batches == [("a", "b")], "the next part waits until this one has been run"
            last_ts = await test.put(a="2")
            test.let_go()
            ts, results = await asking
            assert test.batches == [("a", "b"), ("c", "d"), ("e",), ("a",)]
            assert ts >= last_ts
            assert results[reads("a")].value == b"2"
            assert_good(ts, list(results.values()))
            assert results.keys() == set(many)

    asyncio.run(scenario())
