"""The one door: what is retried, in which order things are told, what runs once, and how it closes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import ClassVar, TypeVar

import pytest

from evolute import ConvexError, Document, MutationCtx, QueryCtx, define_schema, define_table, mutation, query
from evolute.database.subscriptions import Token
from evolute.database.transaction import Transaction
from evolute.errors import Contended, DefinitionError, ShuttingDown, StorageFull
from evolute.execution.executor import Executor, JobChanged
from evolute.execution.request import Call, Outcome
from evolute.limits import MIB, Limits
from evolute.storage.lmdb_engine import LmdbEngine
from evolute.system import jobs
from evolute.testing import LocalBackend
from tests.unit.function_store import call

T = TypeVar("T")
LIMITS = Limits(map_bytes_max=64 * MIB)


class Counter(Document):
    name: str
    value: int


schema = define_schema(counters=define_table(Counter).index("by_name", ["name"]))
runs: list[str] = []
meet: threading.Barrier | None = None
may_end = threading.Event()
has_read = threading.Event()


@mutation
def add(ctx: MutationCtx, name: str) -> int:
    runs.append(name)
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    if row is None:
        ctx.db.insert(Counter, {"name": name, "value": 1})
        return 1
    ctx.db.patch(row["_id"], {"value": row["value"] + 1})
    return row["value"] + 1


@mutation
def add_together(ctx: MutationCtx, name: str) -> int:
    """The first runs of all callers read before any of them commits."""
    value: int = add.python(ctx, name=name)
    if meet is not None:
        meet.wait(timeout=20)
        pass_from_now_on()
    return value


def pass_from_now_on() -> None:
    global meet
    meet = None


@mutation
def refuse(ctx: MutationCtx, name: str) -> None:
    add.python(ctx, name=name)
    raise ConvexError({"name": name})


@mutation
def look(ctx: MutationCtx, name: str) -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    return 0 if row is None else row["value"]


@mutation
def add_once(ctx: MutationCtx, name: str) -> int:
    """Adds to a counter that is 1, and leaves any other as it is."""
    runs.append("once")
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    assert row is not None
    if row["value"] == 1:
        ctx.db.patch(row["_id"], {"value": 2})
    return row["value"]


@mutation
def wait_to_end(ctx: MutationCtx) -> str:
    may_end.wait(20)
    return "ended"


@mutation
def add_and_wait(ctx: MutationCtx, name: str) -> int:
    """Every run is held between its read and its end."""
    value: int = add.python(ctx, name=name)
    has_read.set()
    may_end.wait(20)
    may_end.clear()
    return value


@query
def value(ctx: QueryCtx, name: str) -> int:
    row = ctx.db.query(Counter).with_index("by_name", name=name).unique()
    return 0 if row is None else row["value"]


FUNCTIONS = (add, add_once, add_together, add_and_wait, refuse, look, value, wait_to_end)


def served(limits: Limits = LIMITS) -> LocalBackend:
    runs.clear()
    return LocalBackend(*FUNCTIONS, schema=schema, limits=limits)


def within(backend: LocalBackend, scenario: Callable[[Executor], Awaitable[T]]) -> T:
    """Runs `scenario` on the backend's own event loop."""

    async def run() -> T:
        async with asyncio.timeout(30):
            return await scenario(backend.executor)

    return asyncio.run_coroutine_threadsafe(run(), backend.executor._database._loop).result()


def adds(name: str, session: tuple[str, int] | None = None, job: str | None = None) -> Call:
    return Call("test_executor:add", b'{"name":"%s"}' % name.encode(), "mutation", session=session, job=job)


# --- Contention ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 8])
def test_no_mutation_fails_of_contention(attempts: int) -> None:
    """All of them lose at least once but one; with a single attempt the losers run serially."""
    global meet
    count = 8  # as many as there are threads
    meet = threading.Barrier(count)
    with served(Limits(map_bytes_max=64 * MIB, attempts_before_serial=attempts)) as backend:

        async def together(executor: Executor) -> list[Outcome]:
            calls = [executor.mutate(call("test_executor:add_together", "mutation", name="hot")) for _ in range(count)]
            return await asyncio.gather(*calls)

        outcomes = within(backend, together)
        assert sorted(int(outcome.value or b"0") for outcome in outcomes) == list(range(1, count + 1))
        assert len({outcome.ts for outcome in outcomes}) == count
        assert backend.query(value, name="hot") == count
        statistics = backend.executor.statistics()
        assert statistics.conflicts >= count - 1
        assert statistics.in_line == 0
        assert sum(backend.database.stages.statistics()["mutation", "line"].counts) >= count - 1
        if attempts == 1:
            assert statistics.serial_runs == count - 1


def test_T5_contention_never_fails_and_the_error_of_it_is_that_of_the_time_limit() -> None:
    """However often two meet, both get through; what cannot be run alone within `serial_ms_max` is an error."""
    global meet
    with served(Limits(map_bytes_max=64 * MIB, attempts_before_serial=2)) as backend:

        async def two(executor: Executor) -> list[Outcome]:
            calls = [executor.mutate(call("test_executor:add_together", "mutation", name="hot")) for _ in range(2)]
            return await asyncio.gather(*calls)

        for _ in range(10):
            meet = threading.Barrier(2)
            assert [outcome.error for outcome in within(backend, two)] == [None, None]
        assert backend.query(value, name="hot") == 20
        assert backend.executor.statistics().conflicts >= 10
    with served(Limits(map_bytes_max=64 * MIB, attempts_before_serial=0, serial_ms_max=50)) as backend:
        may_end.clear()
        with pytest.raises(Contended, match=r"^Documents .* to some table changed .* retry\. .* serial_ms_max\.$"):
            within(backend, lambda executor: executor.mutate(call("test_executor:wait_to_end", "mutation")))
        may_end.set()
        assert backend.mutation(wait_to_end) == "ended"


def test_T5_the_error_names_the_table_in_which_the_last_conflict_was() -> None:
    with served(Limits(map_bytes_max=64 * MIB, attempts_before_serial=1, serial_ms_max=50)) as backend:
        may_end.clear()
        has_read.clear()

        async def lose(executor: Executor) -> None:
            slow = asyncio.create_task(executor.mutate(call("test_executor:add_and_wait", "mutation", name="hot")))
            await asyncio.to_thread(has_read.wait, 20)
            await executor.mutate(call("test_executor:add", "mutation", name="hot"))
            may_end.set()
            await slow

        with pytest.raises(Contended, match=r'^Documents read from or written to the "counters" table changed while'):
            within(backend, lose)
        may_end.set()
        assert backend.query(value, name="hot") == 1


def test_a_hundred_mutations_of_one_row_are_a_hundred_increments() -> None:
    with served(Limits(map_bytes_max=64 * MIB, attempts_before_serial=1)) as backend:

        async def together(executor: Executor) -> list[Outcome]:
            return await asyncio.gather(*(executor.mutate(adds("hot" if n % 2 else f"own {n}")) for n in range(200)))

        assert [outcome.error for outcome in within(backend, together)] == [None] * 200
        assert backend.query(value, name="hot") == 100
        assert all(backend.query(value, name=f"own {n}") == 1 for n in range(0, 200, 2))


def test_system_transactions_are_retried_as_calls_are() -> None:
    with served(Limits(map_bytes_max=64 * MIB, attempts_before_serial=1)) as backend:

        def increment(transaction: Transaction) -> int:
            row = transaction.query("counters").first()
            if row is None:
                transaction.insert("counters", {"name": "system", "value": 1})
                return 1
            assert isinstance(row["value"], int)
            transaction.patch(str(row["_id"]), {"value": row["value"] + 1})
            return row["value"] + 1

        async def together(executor: Executor) -> list[int]:
            ran = await asyncio.gather(*(executor.run_system(increment) for _ in range(50)))
            return [one.value for one in ran]

        assert sorted(within(backend, together)) == list(range(1, 51))


# --- In which order things are told ----------------------------------------------------------------------------------


def test_on_commit_is_called_in_the_publishing_turn_before_anyone_else_is_told() -> None:
    with served() as backend:
        backend.mutation(add, name="a")
        database = backend.database
        told: list[tuple[str, int]] = []

        async def scenario(executor: Executor) -> None:
            _, results = await executor.queries_at([call("test_executor:value", "query", name="a")], [], at_least_ts=0)
            (result,) = results.values()
            turn_over = False

            def on_commit(commit_ts: int) -> None:
                nonlocal turn_over
                assert database.log.published_ts == commit_ts
                assert result.broken_at is None
                told.append(("commit", commit_ts))
                asyncio.get_running_loop().call_soon(end_turn)

            def end_turn() -> None:
                nonlocal turn_over
                turn_over = True

            def on_broken() -> None:
                assert not turn_over
                assert result.broken_at is not None
                told.append(("broken", result.broken_at))

            result.hold(on_broken)
            outcome = await executor.mutate(adds("a"), on_commit=on_commit)
            told.append(("answer", outcome.ts))
            result.release(on_broken)

        within(backend, scenario)
        assert [what for what, _ in told] == ["commit", "broken", "answer"]
        assert len({ts for _, ts in told}) == 1


def test_a_mutation_that_writes_nothing_or_fails_is_no_commit() -> None:
    with served() as backend:
        backend.mutation(add, name="a")

        async def scenario(executor: Executor) -> None:
            before_ts = backend.database.log.published_ts
            committed: list[int] = []
            looked = await executor.mutate(call("test_executor:look", "mutation", name="a"), on_commit=committed.append)
            assert (looked.value, looked.ts) == (b"1", before_ts)
            refused = await executor.mutate(
                call("test_executor:refuse", "mutation", name="a"), on_commit=committed.append
            )
            assert refused.error is not None
            assert refused.error.data == b'{"name":"a"}'
            assert committed == []
            assert backend.database.log.published_ts == before_ts

        within(backend, scenario)
        assert backend.query(value, name="a") == 1


# --- Once ------------------------------------------------------------------------------------------------------------


def test_a_sessions_mutation_runs_once_however_often_it_is_sent() -> None:
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            first = await executor.mutate(adds("a", ("session", 1)))
            again = await executor.mutate(adds("a", ("session", 1)))
            assert (again.value, again.ts, again.log_lines) == (first.value, first.ts, first.log_lines)
            assert runs == ["a"]
            other = await executor.mutate(adds("a", ("session", 2)))
            assert other.value == b"2"
            assert (await executor.mutate(adds("a", ("another", 1)))).value == b"3"

        within(backend, scenario)
        assert backend.query(value, name="a") == 3


def test_a_sessions_mutation_sent_many_times_at_once_is_committed_once() -> None:
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            outcomes = await asyncio.gather(*(executor.mutate(adds("a", ("session", 1))) for _ in range(20)))
            assert {(outcome.value, outcome.ts) for outcome in outcomes} == {(b"1", outcomes[0].ts)}

        within(backend, scenario)
        assert backend.query(value, name="a") == 1


def test_a_failure_is_not_remembered() -> None:
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            fails = Call("test_executor:refuse", b'{"name":"a"}', "mutation", session=("session", 1))
            assert (await executor.mutate(fails)).error is not None
            assert (await executor.mutate(adds("a", ("session", 1)))).value == b"1"

        within(backend, scenario)


def test_a_job_that_is_no_longer_pending_is_not_run() -> None:
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            far_ns = backend.clock.now_ns() + 10**18

            def schedule(transaction: Transaction) -> str:
                return jobs.schedule(
                    transaction, path="test_executor:add", arguments={"name": "a"}, due_ns=far_ns, scheduled_ms=0
                )

            cancelled, run = [(await executor.run_system(schedule)).value for _ in range(2)]
            await executor.run_system(lambda transaction: jobs.cancel(transaction, cancelled))
            assert (await executor.mutate(adds("a", job=run))).value == b"1"
            for job in (cancelled, run):
                with pytest.raises(JobChanged):
                    await executor.mutate(adds("a", job=job))

        within(backend, scenario)
        assert backend.query(value, name="a") == 1


def test_of_a_job_and_its_cancellation_only_one_happens() -> None:
    """Both start at the same time, again and again; the row says which it was."""
    with served() as backend:

        async def race(executor: Executor, number: int) -> None:
            name = f"race {number}"
            due_ns = backend.clock.now_ns() + 10**18
            job = await executor.run_system(
                lambda transaction: jobs.schedule(
                    transaction, path="test_executor:add", arguments={"name": name}, due_ns=due_ns, scheduled_ms=0
                )
            )
            ran, _ = await asyncio.gather(
                executor.mutate(adds(name, job=job.value)),
                executor.run_system(lambda transaction: jobs.cancel(transaction, job.value)),
                return_exceptions=True,
            )
            row = await executor.run_system(lambda transaction: transaction.get(job.value))
            assert row.value is not None
            happened = await executor.query(call("test_executor:value", "query", name=name))
            if isinstance(ran, JobChanged):
                assert (row.value["state"], happened.value) == ({"kind": "canceled"}, b"0")
            else:
                assert (row.value["state"], happened.value) == ({"kind": "success"}, b"1")

        async def scenario(executor: Executor) -> None:
            await asyncio.gather(*(race(executor, number) for number in range(30)))

        within(backend, scenario)


# --- Doors that are closed -------------------------------------------------------------------------------------------


def test_functions_that_are_not_there_are_errors_of_the_call() -> None:
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            for path in ("test_executor:nothing", "nowhere:add"):
                for enter in (executor.query, executor.mutate, executor.act, executor.run_any):
                    outcome = await enter(call(path, None))
                    assert outcome.error is not None
                    assert outcome.error.message == f"Could not find public function for '{path}'."
            assert (await executor.run_any(call("test_executor:add", None, name="a"))).value == b"1"
            assert (await executor.run_any(call("test_executor:value", None, name="a"))).value == b"1"

        within(backend, scenario)


def test_an_error_of_a_system_function_is_raised_and_nothing_is_written() -> None:
    with served() as backend:

        def fail(transaction: Transaction) -> None:
            transaction.insert("counters", {"name": "a", "value": 1})
            raise DefinitionError("no")

        async def scenario(executor: Executor) -> None:
            with pytest.raises(DefinitionError, match="no"):
                await executor.run_system(fail)
            assert executor.statistics().running == 0

        within(backend, scenario)
        assert backend.query(value, name="a") == 0


def test_draining_refuses_newcomers_and_waits_for_the_others() -> None:
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            running = [asyncio.create_task(executor.mutate(adds("a"))) for _ in range(5)]
            await asyncio.sleep(0)
            draining = asyncio.create_task(executor.drain(10_000))
            await asyncio.sleep(0)
            for refused in (executor.mutate(adds("a")), executor.query(call("test_executor:value", "query", name="a"))):
                with pytest.raises(ShuttingDown):
                    await refused
            await draining
            assert all(task.done() for task in running)
            assert [task.result().error for task in running] == [None] * 5
            found = await executor.run_system(lambda transaction: transaction.query("counters").first())
            assert found.value is not None
            assert found.value["value"] == 5

        within(backend, scenario)


def test_draining_does_not_wait_for_ever() -> None:
    global meet
    meet = threading.Barrier(2)
    barrier = meet
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            stuck = asyncio.create_task(executor.mutate(call("test_executor:add_together", "mutation", name="a")))
            await asyncio.sleep(0)
            await executor.drain(50)
            assert not stuck.done()
            await asyncio.to_thread(barrier.wait, 20)
            assert (await stuck).value == b"1"

        within(backend, scenario)


def test_a_system_read_names_what_it_read() -> None:
    """Its token is broken by the next commit to it, so that whoever waits for news has read what it waits for."""
    with served() as backend:

        async def scenario(executor: Executor) -> None:
            read = await executor.run_system(lambda transaction: transaction.query("counters").collect())
            told: list[int] = []
            subscription = backend.database.subscriptions.subscribe(Token(read.read_set, read.ts), told.append)
            assert subscription.broken_at is None
            outcome = await executor.mutate(adds("a"))
            assert told == [outcome.ts]

        within(backend, scenario)


# --- What is pending -------------------------------------------------------------------------------------------------


class HeldDisk(LmdbEngine):
    """Writes wait at a gate once it is closed; each refusal stops one."""

    gate = threading.Event()
    refusals: ClassVar[list[StorageFull]] = []

    def write(self, puts: Mapping[bytes, bytes | None], *, on_puts: Callable[[], None] | None = None) -> None:
        self.gate.wait(20)
        if self.refusals:
            raise self.refusals.pop()
        super().write(puts, on_puts=on_puts)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HeldDisk]]:
    monkeypatch.setattr("evolute.database.database.LmdbEngine", HeldDisk)
    HeldDisk.gate.set()
    HeldDisk.refusals.clear()
    yield HeldDisk
    HeldDisk.gate.set()


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("refused", [False, True], ids=["durable", "refused"])
def test_losers_follow_each_other_before_the_first_is_durable(held: type[HeldDisk], refused: bool) -> None:
    """Given a disk that holds the winner, I expect each loser to build on the one before it, and none to be answered;
    if the disk then refuses the winner, that one alone fails, and the others count without it."""
    with served() as backend:
        backend.mutation(add, name="other")  # so that there is the table
        disk = held

        async def scenario(executor: Executor) -> list[Outcome | BaseException]:
            disk.gate.clear()
            committer = backend.executor._database.committer
            first = asyncio.create_task(executor.mutate(adds("hot")))
            await until(lambda: committer.statistics().queue_length == 1)
            others = [asyncio.create_task(executor.mutate(adds("hot"))) for _ in range(4)]
            await until(lambda: committer.statistics().queue_length == 5)
            reader = asyncio.create_task(executor.mutate(call("test_executor:look", "mutation", name="hot")))
            assert not any(task.done() for task in (first, *others))
            disk.refusals[:] = [StorageFull("no room")] if refused else []
            disk.gate.set()
            return await asyncio.gather(first, *others, reader, return_exceptions=True)

        first, *others, reader = within(backend, scenario)
        counted = sorted(int(outcome.value or b"") for outcome in others if isinstance(outcome, Outcome))
        if refused:
            assert isinstance(first, StorageFull)
            assert counted == [1, 2, 3, 4]
        else:
            assert isinstance(first, Outcome)
            assert counted == [2, 3, 4, 5]
        assert isinstance(reader, Outcome)
        assert backend.query(value, name="hot") == (4 if refused else 5)


def test_an_answer_that_rests_on_what_is_pending_waits_for_the_disk(held: type[HeldDisk]) -> None:
    """A mutation that lost and then writes nothing has seen a commit that is not durable: nobody hears of it yet."""
    with served() as backend:
        backend.mutation(add, name="hot")
        disk = held
        runs.clear()

        async def scenario(executor: Executor) -> tuple[Outcome, Outcome]:
            disk.gate.clear()
            committer = backend.executor._database.committer
            winner = asyncio.create_task(executor.mutate(adds("hot")))
            await until(lambda: committer.statistics().queue_length == 1)
            loser = asyncio.create_task(executor.mutate(call("test_executor:add_once", "mutation", name="hot")))
            await until(lambda: runs.count("once") == 2)
            await until(lambda: backend.executor._database.log.statistics().waiters > 0)
            assert not loser.done()
            disk.gate.set()
            return await winner, await loser

        winner, loser = within(backend, scenario)
        assert (winner.value, loser.value) == (b"2", b"2")
        assert loser.ts >= winner.ts
