"""A connection over a socket that the test holds, against the real executor, query cache, committer and store.

Only what runs functions is the test's own: plain Python over a real transaction, in this process, with a gate before
and after each run, so that a test decides what overlaps. Every test ends with nothing held and no task left behind.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from evolute.clock import ManualClock
from evolute.database.database import Database
from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.errors import FunctionCrashed, IssuerUnavailable, NoAuthProvider, Overloaded, StorageFull
from evolute.execution.call_log import CallLog
from evolute.execution.executor import Executor
from evolute.execution.outcome_frame import unanswerable
from evolute.execution.pending_request import Callbacks
from evolute.execution.query_cache import QueryBatch
from evolute.execution.request import (
    Call,
    CallError,
    CallResult,
    FunctionOutcome,
    FunctionRequest,
    Outcome,
    RequestKind,
)
from evolute.limits import Limits
from evolute.protocol.codec import decode_server, encode_client
from evolute.protocol.messages import (
    INITIAL_VERSION,
    Action,
    ActionResponse,
    AddQuery,
    Authenticate,
    AuthError,
    ClientMessage,
    Connect,
    FatalError,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    NoToken,
    Ping,
    QueryFailed,
    QueryUpdated,
    ServerMessage,
    StateVersion,
    Success,
    Token,
    Transition,
    UserToken,
)
from evolute.registry.registry import RegistryReport
from evolute.sync.connection import Connection
from evolute.sync.host import Host
from evolute.sync.identity import ANONYMOUS, Identity
from evolute.sync.intake import Intake
from evolute.sync.socket import SocketGone
from evolute.sync.transition import Disclosure
from evolute.values import wire_codec

SESSION_ID = "f16a2aae-fe67-48a4-9eea-6efd82f2b3b9"
WAIT_S_MAX = 10.0


# --- The world ----------------------------------------------------------------------------------------------------


def add_item(transaction: Transaction, arguments: Any) -> object:
    return transaction.insert("items", {"body": arguments.get("body", "")})


def list_items(transaction: Transaction, arguments: Any) -> object:
    return [row["body"] for row in transaction.query("items").collect()]


def read_only(transaction: Transaction, arguments: Any) -> object:
    return len(transaction.query("items").collect())


def large(transaction: Transaction, arguments: Any) -> object:
    return ["x" * 10_000, *list_items(transaction, arguments)]  # type: ignore[misc]


def raises(transaction: Transaction, arguments: Any) -> object:
    raise ValueError("boom")


FUNCTIONS: dict[str, Callable[[Transaction, Any], object]] = {
    "m:add": add_item,
    "m:list": list_items,
    "m:count": read_only,
    "m:large": large,
    "m:raises": raises,
    "m:nothing": lambda transaction, arguments: [],
    "m:act": lambda transaction, arguments: arguments.get("n"),
}


class Runners:
    """Runs FUNCTIONS. `before` and `after` are gates by path; `crashes` is how often a path's run breaks off."""

    report = RegistryReport("test", {}, {})

    def __init__(self, database: Database, clock: ManualClock, limits: Limits) -> None:
        self._database = database
        self._clock = clock
        self._limits = limits
        self.before: dict[str, asyncio.Event] = {}
        self.after: dict[str, asyncio.Event] = {}
        self.crashes: dict[str, int] = {}
        self.runs: list[str] = []
        self._seeds = 0

    async def run(
        self, kind: RequestKind, calls: tuple[Call, ...], *, urgent: bool = False, fresh: bool = False, deaths: int = 0
    ) -> FunctionOutcome:
        for call in calls:
            await self._pass(self.before, call)
        with self._database.snapshot() as snapshot:
            transactions = [self._transaction(snapshot, writable=kind == "mutation") for _ in calls]
            results = tuple(map(self._result, transactions, calls))
            failed = any(result.error is not None for result in results)
            write_set = transactions[0].write_set() if kind == "mutation" and not failed else None
        for call in calls:
            await self._pass(self.after, call)
        return FunctionOutcome(0, snapshot.begin_ts, results, write_set)

    def _transaction(self, snapshot: Snapshot, *, writable: bool) -> Transaction:
        self._seeds += 1
        seed = self._seeds.to_bytes(32)
        return Transaction(snapshot, limits=self._limits, now_ns=self._clock.now_ns(), seed=seed, writable=writable)

    async def run_action(self, call: Call, callbacks: Callbacks, *, nested: bool = False) -> FunctionOutcome:
        return await self.run("action", (call,))

    def action_room(self, path: str) -> AbstractAsyncContextManager[int | None]:
        return nullcontext()

    def _result(self, transaction: Transaction, call: Call) -> CallResult:
        self.runs.append(call.path)
        if self.crashes.get(call.path):
            self.crashes[call.path] -= 1
            raise FunctionCrashed
        try:
            value = FUNCTIONS[call.path](transaction, wire_codec.decode_canonical(call.arguments))
        except ValueError as error:
            return CallResult(None, CallError(f"Uncaught ValueError: {error}"), (), transaction.read_set)
        return CallResult(wire_codec.encode(value), None, (), transaction.read_set)

    async def _pass(self, gates: dict[str, asyncio.Event], call: Call) -> None:
        if call.path in gates:
            await gates[call.path].wait()


class TestSocket:
    """What a client holds. It takes messages at once while `reads` is set, and none otherwise."""

    __test__ = False

    def __init__(self) -> None:
        self._incoming: deque[str | bytes | None] = deque()
        self.messages: list[ServerMessage] = []
        self.raw: list[bytes] = []
        self.writes: list[int] = []
        self.closed: tuple[int | None, str] | None = None
        self.reads = asyncio.Event()
        self.reads.set()
        self._on_message: Callable[[str | bytes | None], None] | None = None
        self._is_paused = False
        self._changed = asyncio.Event()

    def listen(self, on_message: Callable[[str | bytes | None], None]) -> None:
        self._on_message = on_message
        self.resume()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        while self._on_message is not None and self._incoming and not self._is_paused:
            self._on_message(self._incoming.popleft())

    def send_now(self, messages: Sequence[bytes]) -> int:
        if self.closed is not None:
            raise SocketGone
        if not self.reads.is_set():
            return 0
        self.writes.append(len(messages))
        self.raw += messages
        self.messages += map(decode_server, messages)
        self._changed.set()
        return len(messages)

    async def send(self, message: bytes) -> None:
        await self.reads.wait()
        assert self.send_now([message])

    async def close(self, code: int | None, reason: str) -> None:
        self.closed = (code, reason)
        self._changed.set()

    # --- The client's side ---

    def say(self, *messages: ClientMessage) -> None:
        self.say_raw(*(encode_client(message).decode() for message in messages))

    def say_raw(self, *messages: str | bytes | None) -> None:
        self._incoming += messages
        asyncio.get_running_loop().call_soon(self._hand_over)

    def hang_up(self) -> None:
        self.say_raw(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def of_type(self, kind: type[ServerMessage]) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def wait_for_answers(self, count: int) -> None:
        """Waits for so many MutationResponses and a Transition that covers the last."""

        def covered() -> bool:
            answers = self.of_type(MutationResponse)
            if len(answers) < count:
                return False
            return isinstance(self.messages[-1], Transition | Ping)

        await self.wait_for(covered)

    def view(self) -> dict[int, object]:
        """What a client shows that has applied every Transition; checks that they chain."""
        version, view = INITIAL_VERSION, dict[int, object]()
        for transition in self.of_type(Transition):
            assert transition.start == version
            version = transition.end
            for change in transition.modifications:
                if isinstance(change, QueryUpdated):
                    view[change.query_id] = orjson.loads(change.value)
        return view


@dataclass
class World:
    host: Host
    database: Database
    runners: Runners
    connections: dict[asyncio.Task[None], TestSocket] = field(default_factory=dict)

    def connect(self, *messages: ClientMessage) -> TestSocket:
        """A new connection, on which these messages have arrived already."""
        socket = TestSocket()
        socket.say(*messages)
        task = asyncio.get_running_loop().create_task(Connection(self.host, socket).run())
        self.connections[task] = socket
        return socket

    async def ended(self, socket: TestSocket) -> None:
        task = next(task for task, each in self.connections.items() if each is socket)
        await asyncio.wait_for(asyncio.shield(task), WAIT_S_MAX)


async def looked_up(found: asyncio.Future[Identity]) -> Identity:
    return await found


def identity_of(token: Token) -> Identity:
    if isinstance(token, NoToken):
        return ANONYMOUS
    raise NoAuthProvider


@asynccontextmanager
async def world(limits: Limits | None = None, executor_type: type[Executor] = Executor) -> AsyncIterator[World]:
    limits, clock = limits or Limits(), ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "store", clock, limits, sync=False)
        runners = Runners(database, clock, limits)
        executor = executor_type(database, runners, clock, limits, CallLog(limits))
        await executor.run_system(lambda transaction: transaction.create_table("items", ()))
        host = Host(
            executor=executor,
            clock=clock,
            limits=limits,
            published_ts=lambda: database.log.published_ts,
            identity_of=identity_of,
            disclosure=Disclosure(redact=False, new_request_id=lambda: "0" * 16),
            intake=Intake(limits),
        )
        made = World(host, database, runners)
        try:
            yield made
        finally:
            for task, socket in made.connections.items():
                socket.reads.set()
                socket.hang_up()
                await asyncio.wait_for(task, WAIT_S_MAX)
            assert executor.query_cache.statistics().held == 0
            await executor.query_cache.close()
            await database.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(test())


CONNECT = Connect(SESSION_ID, 0, "InitialConnect", client_ts_ms=0)


def adds(*paths: str, base: int = 0, first_id: int = 0) -> ModifyQuerySet:
    changes = tuple(AddQuery(first_id + place, path, b"{}") for place, path in enumerate(paths))
    return ModifyQuerySet(base, base + 1, changes)


def add(request_id: int, body: str = "") -> Mutation:
    return Mutation(request_id, "m:add", wire_codec.encode({"body": body}))


# --- What a client sees -------------------------------------------------------------------------------------------


def test_a_mutation_of_one_client_reaches_both() -> None:
    async def test() -> None:
        async with world() as made:
            writer, watcher = made.connect(CONNECT, adds("m:list")), made.connect(CONNECT, adds("m:list"))
            await watcher.wait_for(lambda: watcher.view() == {0: []})
            await writer.wait_for(lambda: writer.view() == {0: []})
            writer.say(add(0, "hello"))
            await watcher.wait_for(lambda: watcher.view() == {0: ["hello"]})
            await writer.wait_for(lambda: writer.view() == {0: ["hello"]})
            kinds = [type(message) for message in writer.messages]
            assert kinds == [Transition, MutationResponse, Transition]
            answer = writer.of_type(MutationResponse)[0]
            assert isinstance(answer.result, Success)
            assert writer.messages[-1].end.ts >= answer.ts  # type: ignore[union-attr]

    run(test)


def test_a_client_without_queries_gets_its_transition() -> None:
    """As PyPI's client does it: Connect and a mutation, nothing else (trap 1)."""

    async def test() -> None:
        async with world() as made:
            client = made.connect(CONNECT, add(0), Mutation(1, "m:raises", b"{}"), Mutation(2, "m:count", b"{}"))
            await client.wait_for_answers(3)
            answers = client.of_type(MutationResponse)
            assert [isinstance(answer.result, Success) for answer in answers] == [True, False, True]
            assert [answer.ts is None for answer in answers] == [False, True, False]
            assert client.of_type(Transition)[-1].end[:2] == (0, 0)
            assert client.of_type(Transition)[-1].end.ts >= answers[2].ts

    run(test)


def test_an_answer_and_the_transition_of_who_watches_nothing_leave_in_one_write() -> None:
    """Who is slow to take them has one Transition under way all the same, and then one for all that came meanwhile."""

    async def test() -> None:
        async with world() as made:
            client, watcher = made.connect(CONNECT), made.connect(CONNECT, adds("m:count"))
            for request_id in range(3):
                client.say(add(request_id))
                await client.wait_for_answers(request_id + 1)
            assert client.writes == [2, 2, 2]
            assert [type(message) for message in client.messages] == [MutationResponse, Transition] * 3
            client.reads.clear()
            client.say(*(add(request_id) for request_id in range(3, 6)))
            await watcher.wait_for(lambda: watcher.view() == {0: 6})
            await turns(10)
            client.reads.set()
            await client.wait_for_answers(6)
            assert len(client.of_type(Transition)) == 5
            assert client.of_type(Transition)[-1].end.ts >= client.of_type(MutationResponse)[-1].ts

    run(test)


def test_many_clients_that_write_what_they_watch_see_each_answer_before_its_effect() -> None:
    """Traps 2, 3 and 4, against the real committer and cache (24 clients write the list that all of them watch)."""

    async def test() -> None:
        async with world() as made:
            clients = [made.connect(CONNECT, adds("m:list", "m:count")) for _ in range(24)]
            for number, client in enumerate(clients):
                client.say(*(add(request_id, f"{number}/{request_id}") for request_id in range(8)))
            for number, client in enumerate(clients):
                await client.wait_for(lambda client=client: client.view().get(1) == 24 * 8)  # type: ignore[misc]
                check_view(client, str(number))

    run(test)


def check_view(client: TestSocket, name: str) -> None:
    version, answered_ts, answered = INITIAL_VERSION, 0, set[str]()
    for message in client.messages:
        match message:
            case MutationResponse(request_id, Success(), ts):
                assert ts is not None
                answered_ts = max(answered_ts, ts)
                answered.add(f"{name}/{request_id}")
            case Transition(start, end, modifications):
                assert start == version
                assert end.ts >= answered_ts
                version = end
                shown = {change.query_id: orjson.loads(change.value) for change in modifications}  # type: ignore[union-attr]
                own = {body for body in shown.get(0, ()) if body.startswith(f"{name}/")}
                assert own <= answered, "an effect was shown before its answer"
                assert len(shown.get(0, ())) == shown.get(1, 0), "two queries of one Transition are of two snapshots"
    assert len(answered) == 8


def test_what_has_arrived_is_in_the_first_transition() -> None:
    async def test() -> None:
        async with world() as made:
            client = made.connect(CONNECT, adds("m:list"), adds("m:count", base=1, first_id=1))
            await client.wait_for(lambda: len(client.messages) == 1)
            assert client.of_type(Transition)[0].end[:2] == (2, 0)
            assert client.view() == {0: [], 1: 0}

    run(test)


def test_a_token_and_the_queries_behind_it_make_one_transition() -> None:
    """Trap 13: the messages of a burst are readable one after the other, in separate turns."""

    async def test() -> None:
        async with world(Limits(opening_burst_ms=5_000)) as made:
            client = made.connect(CONNECT)
            await turns(3)
            client.say(Authenticate(0, NoToken()))
            await turns(10)
            client.say(adds("m:list"))
            await client.wait_for(lambda: len(client.messages) == 1)
            assert client.of_type(Transition)[0].end[:2] == (1, 1)

    run(test)


@pytest.mark.parametrize(
    ("found", "closed"),
    [
        (ANONYMOUS, None),
        (NoAuthProvider("Whose is it?"), (None, "")),
        (IssuerUnavailable("It does not answer."), (1013, "AuthIssuerUnavailable")),
        (KeyError("a fault of ours"), (1011, "InternalServerError")),
    ],
    ids=lambda found: type(found).__name__,
)
def test_what_comes_behind_a_token_is_read_when_it_is_known_whose_it_is(
    found: Identity | Exception, closed: tuple[int | None, str] | None
) -> None:
    async def test() -> None:
        async with world() as made:
            issuer: asyncio.Future[Identity] = asyncio.get_running_loop().create_future()
            made.host = replace(made.host, identity_of=lambda token: looked_up(issuer))
            client = made.connect(CONNECT, Authenticate(0, UserToken("a.b.c")), adds("m:list"), add(0, "x"))
            await turns(20)
            assert not client.messages
            if isinstance(found, Exception):
                issuer.set_exception(found)
            else:
                issuer.set_result(found)
            if closed is None:
                await client.wait_for(lambda: client.view() == {0: ["x"]})
                return
            await made.ended(client)
            assert client.closed == closed
            assert [type(message) for message in client.messages] == [AuthError] * (closed[0] is None)

    run(test)


def test_a_client_that_goes_while_its_token_is_looked_at() -> None:
    async def test() -> None:
        async with world() as made:
            issuer: asyncio.Future[Identity] = asyncio.get_running_loop().create_future()
            made.host = replace(made.host, identity_of=lambda token: looked_up(issuer))
            client = made.connect(CONNECT, Authenticate(0, UserToken("a.b.c")), add(0, "x"))
            await turns(5)
            client.hang_up()
            issuer.set_result(ANONYMOUS)
            await made.ended(client)

    run(test)


def test_a_token_alone_is_confirmed() -> None:
    async def test() -> None:
        async with world() as made:
            client = made.connect(CONNECT, Authenticate(0, NoToken()))
            await client.wait_for(lambda: len(client.messages) == 1)
            assert client.of_type(Transition)[0].end[:2] == (0, 1)

    run(test)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_actions_overlap_and_do_not_wait_for_mutations() -> None:
    async def test() -> None:
        async with world() as made:
            gate = made.runners.before["m:add"] = asyncio.Event()
            client = made.connect(CONNECT, add(0), Action(1, "m:act", b'{"n":1}'), Action(2, "m:act", b'{"n":2}'))
            await client.wait_for(lambda: len(client.of_type(ActionResponse)) == 2)
            assert not client.of_type(MutationResponse)
            gate.set()
            await client.wait_for_answers(1)

    run(test)


# --- Sharing ------------------------------------------------------------------------------------------------------


def test_one_commit_runs_a_query_once_for_all_who_watch_it() -> None:
    async def test() -> None:
        async with world() as made:
            clients = [made.connect(CONNECT, adds("m:list")) for _ in range(100)]
            for client in clients:
                await client.wait_for(lambda client=client: client.view() == {0: []})  # type: ignore[misc]
            assert made.runners.runs == ["m:list"]
            writer = made.connect(CONNECT, add(0, "hello"))
            for client in clients:
                await client.wait_for(lambda client=client: client.view() == {0: ["hello"]})  # type: ignore[misc]
            await writer.wait_for_answers(1)
            assert made.runners.runs.count("m:list") == 2

    run(test)


def test_T10_a_commit_is_told_once_and_what_it_left_alone_is_not_run_again() -> None:
    async def test() -> None:
        async with world() as made:
            client = made.connect(CONNECT, adds("m:list", "m:nothing"))
            await client.wait_for(lambda: client.view() == {0: [], 1: []})
            before = client.of_type(Transition)[-1].end.ts
            writer = made.connect(CONNECT, add(0, "hello"))
            await writer.wait_for_answers(1)
            await client.wait_for(lambda: client.view() == {0: ["hello"], 1: []})
            told = [change.query_id for transition in client.of_type(Transition) for change in transition.modifications]
            assert sorted(told) == [0, 0, 1]
            assert made.runners.runs.count("m:nothing") == 1
            (answer,) = writer.of_type(MutationResponse)
            assert before < answer.ts == client.of_type(Transition)[-1].end.ts, "the other result is good there too"

    run(test)


def test_T11_the_queries_of_one_transition_are_of_one_timestamp() -> None:
    async def test() -> None:
        async with world() as made:
            client = made.connect(CONNECT, adds("m:list", "m:count"))
            await client.wait_for(lambda: client.view() == {0: [], 1: 0})
            writer = made.connect(CONNECT, *(add(number, "x") for number in range(30)))
            await writer.wait_for_answers(30)
            await client.wait_for(lambda: client.view()[1] == 30)
            transitions = client.of_type(Transition)
            shown: dict[int, Any] = {}
            for transition in transitions:
                shown |= {change.query_id: orjson.loads(change.value) for change in transition.modifications}
                assert len(shown[0]) == shown[1]
            assert [one.end.ts for one in transitions] == sorted({one.end.ts for one in transitions})

    run(test)


# --- Silence and slowness -----------------------------------------------------------------------------------------


def test_silence_is_broken_by_a_ping_also_while_a_query_runs() -> None:
    """Trap 10."""

    async def test() -> None:
        async with world(Limits(heartbeat_ms=20)) as made:
            gate = made.runners.before["m:list"] = asyncio.Event()
            client = made.connect(CONNECT, adds("m:list"))
            await client.wait_for(lambda: len(client.of_type(Ping)) >= 2)
            assert not client.of_type(Transition)
            gate.set()
            await client.wait_for(lambda: bool(client.of_type(Transition)))

    run(test)


def test_a_slow_reader_gets_fewer_transitions() -> None:
    async def test() -> None:
        async with world() as made:
            slow = made.connect(CONNECT, adds("m:count"))
            await slow.wait_for(lambda: slow.view() == {0: 0})
            slow.reads.clear()
            writer = made.connect(CONNECT, adds("m:count"), *(add(request_id) for request_id in range(50)))
            await writer.wait_for(lambda: writer.view() == {0: 50})
            slow.reads.set()
            await slow.wait_for(lambda: slow.view() == {0: 50})
            assert len(slow.of_type(Transition)) <= 3

    run(test)


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async def test() -> None:
        limits = Limits(session_outgoing_bytes_max=2_000, close_ms_max=50)
        async with world(limits) as made:
            stuck = made.connect(CONNECT, adds("m:large"))
            await stuck.wait_for(lambda: 0 in stuck.view())
            stuck.reads.clear()
            stuck.say(*(Mutation(request_id, "m:raises", b"{}") for request_id in range(100)))
            await made.ended(stuck)
            assert stuck.closed == (1013, "TooManyOutgoingBytes")
            assert made.host.executor.query_cache.statistics().held == 0

    run(test)


# --- Ends ---------------------------------------------------------------------------------------------------------


def test_what_has_started_when_the_socket_goes_runs_to_its_end_and_nothing_else_does() -> None:
    async def test() -> None:
        async with world() as made:
            gate = made.runners.after["m:add"] = asyncio.Event()
            client = made.connect(CONNECT, adds("m:list"), add(0, "started"), add(1, "waiting"))
            await client.wait_for(lambda: client.view() == {0: []} and "m:add" in made.runners.runs)
            client.hang_up()
            await turns(5)
            gate.set()
            await made.ended(client)
            watcher = made.connect(CONNECT, adds("m:list"))
            await watcher.wait_for(lambda: watcher.view() == {0: ["started"]})

    run(test)


def test_a_computation_ends_with_its_socket() -> None:
    async def test() -> None:
        async with world() as made:
            gate = made.runners.before["m:list"] = asyncio.Event()
            client = made.connect(CONNECT, adds("m:list"))
            await turns(20)
            client.hang_up()
            await made.ended(client)
            gate.set()
            assert not client.messages

    run(test)


def test_a_mutation_that_runs_at_the_shutdown_is_answered_to_its_end() -> None:
    """PyPI's client would send it again, as another session, if the Transition did not come."""

    async def test() -> None:
        async with world() as made:
            gate = made.runners.after["m:add"] = asyncio.Event()
            client = made.connect(CONNECT, adds("m:list"), add(0, "last"))
            await client.wait_for(lambda: client.view() == {0: []} and "m:add" in made.runners.runs)
            draining = asyncio.get_running_loop().create_task(made.host.executor.drain(5_000))
            await turns(5)
            gate.set()
            await client.wait_for_answers(1)
            assert client.view() == {0: ["last"]}
            await draining
            client.say(add(1, "too late"))
            await made.ended(client)
            assert client.closed == (1013, "ShuttingDown")

    run(test)


def test_a_violation_is_told_and_the_others_are_served() -> None:
    async def test() -> None:
        async with world() as made:
            other = made.connect(CONNECT, adds("m:list"))
            broken = made.connect(CONNECT, adds("m:list"))
            await broken.wait_for(lambda: broken.view() == {0: []})
            broken.say_raw(b"\x00\x01")
            await made.ended(broken)
            assert isinstance(broken.messages[-1], FatalError)
            assert broken.closed == (1000, "WSMessageInvalidJson")
            other.say(add(0, "still here"))
            await other.wait_for(lambda: other.view() == {0: ["still here"]})

    run(test)


def test_the_store_is_full_and_the_mutation_did_not_happen() -> None:
    class Full(Executor):
        async def mutate(self, call: Call, *, on_commit: Callable[[int], None] | None = None) -> Outcome:
            raise StorageFull

    async def test() -> None:
        async with world(executor_type=Full) as made:
            client = made.connect(CONNECT, adds("m:list"), add(0))
            await client.wait_for_answers(1)
            answer = client.of_type(MutationResponse)[0]
            assert answer.ts is None
            assert "disk or the map of the store is full" in answer.result.message
            assert client.closed is None

    run(test)


@pytest.mark.parametrize(
    ("error", "closed"),
    [
        (Overloaded("call_queue_length_max"), (1013, "Overloaded")),
        (RuntimeError("a fault of ours"), (1011, "InternalServerError")),
    ],
)
def test_what_cannot_be_run_now_closes_the_socket(
    error: Exception, closed: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Executor):
        async def mutate(self, call: Call, *, on_commit: Callable[[int], None] | None = None) -> Outcome:
            raise error

        async def act(self, call: Call, *, nested: bool = False) -> Outcome:
            raise error

        def _begin_queries(self, calls: tuple[Call, ...]) -> Callable[[], Awaitable[QueryBatch]]:
            async def fail() -> QueryBatch:
                raise error

            return fail

    async def test() -> None:
        async with world(executor_type=Failing) as made:
            for message in (add(0), Action(0, "m:act", b"{}"), adds("m:list")):
                client = made.connect(CONNECT, message)
                await made.ended(client)
                assert client.closed == closed
                assert not client.messages

    with caplog.at_level(logging.ERROR):
        run(test)
    assert ("a fault of ours" in caplog.text) == (closed[0] == 1011), "the unexpected is logged with its traceback"


def test_a_query_whose_run_broke_off_is_tried_again() -> None:
    async def test() -> None:
        async with world(replace(Limits(), query_retry_ms_min=10)) as made:
            made.runners.crashes["m:list"] = 3
            client = made.connect(CONNECT, adds("m:list"))
            await client.wait_for(lambda: client.view() == {0: []})
            failures = [
                change
                for transition in client.of_type(Transition)
                for change in transition.modifications
                if isinstance(change, QueryFailed)
            ]
            assert len(failures) == 1, "the same failure is told once"
            assert "The worker process died twice" in failures[0].error_message
            other = made.connect(CONNECT, adds("m:list"))
            await other.wait_for(lambda: other.view() == {0: []})

    run(test)


def test_a_page_whose_run_broke_off_keeps_its_journal() -> None:
    async def test() -> None:
        async with world(replace(Limits(), query_retry_ms_min=10)) as made:
            made.runners.crashes["m:list"] = 3
            client = made.connect(CONNECT, ModifyQuerySet(0, 1, (AddQuery(0, "m:list", b"{}", journal="J"),)))
            await client.wait_for(lambda: client.view() == {0: []})
            failure = client.of_type(Transition)[0].modifications[0]
            assert isinstance(failure, QueryFailed)
            assert failure.journal == "J"

    run(test)


def test_a_query_that_no_worker_could_begin_is_tried_again() -> None:
    """Nothing is known of what it read, so that no commit would ever mend its answer."""

    async def test() -> None:
        async with world(replace(Limits(), query_retry_ms_min=10)) as made:
            left = [Overloaded("no place in the readers' table"), MemoryError()]
            run_well = made.runners.run

            async def run_badly(
                kind: RequestKind,
                calls: tuple[Call, ...],
                *,
                urgent: bool = False,
                fresh: bool = False,
                deaths: int = 0,
            ) -> FunctionOutcome:
                if not left:
                    return await run_well(kind, calls, urgent=urgent, fresh=fresh, deaths=deaths)
                request = FunctionRequest(0, kind, "", calls, 0, b"")
                return unanswerable(request, left.pop(), "functions", made.host.limits)

            made.runners.run = run_badly  # type: ignore[method-assign]
            client = made.connect(CONNECT, adds("m:list"))
            await client.wait_for(lambda: client.view() == {0: []})

    run(test)


def test_a_transition_starts_where_the_last_one_ended() -> None:
    """A reconnecting client begins again at {0, 0, 0} and is told everything again (traps 4, 17, 23)."""

    async def test() -> None:
        async with world() as made:
            first = made.connect(CONNECT, adds("m:list"), add(0, "x"))
            await first.wait_for(lambda: first.view() == {0: ["x"]})
            first.hang_up()
            await made.ended(first)
            seen_ts = first.of_type(Transition)[-1].end.ts
            again = replace(CONNECT, connection_count=1, max_observed_ts=seen_ts)
            second = made.connect(again, adds("m:list"))
            await second.wait_for(lambda: second.view() == {0: ["x"]})
            assert second.of_type(Transition)[0].start == StateVersion(0, 0, 0)
            assert second.of_type(Transition)[0].end.ts >= seen_ts
            ahead = made.connect(replace(again, max_observed_ts=seen_ts + 10**18))
            await made.ended(ahead)
            assert ahead.closed == (1011, "ClientAheadOfServer")

    run(test)
