"""The client's state machine against a small model of a server, through connections that are lost at any moment.

The golden scripts in `tests/scripts/client_sessions` show single situations; here chance finds the others. `--seed`
repeats a run.
"""

from __future__ import annotations

import random
from collections import Counter, deque

from evolute.limits import Limits
from evolute.protocol.messages import (
    INITIAL_VERSION,
    Action,
    ActionResponse,
    AddQuery,
    ClientMessage,
    Connect,
    Modification,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    QueryRemoved,
    QueryUpdated,
    ServerMessage,
    StateVersion,
    Success,
    Transition,
)
from evolute_client.requests import Completion, Lost
from evolute_client.state_machine import StateMachine, Update

LIST = "list"
CONVERSATIONS = 30


class ModelServer:
    """One list; a mutation appends its arguments, the query shows all. Remembers what a session has done."""

    def __init__(self) -> None:
        self.ts = 1
        self.rows: list[bytes] = []
        self.records: dict[int, tuple[Success, int]] = {}
        self.actions: Counter[int] = Counter()

    def mutate(self, message: Mutation) -> MutationResponse:
        if message.request_id not in self.records:
            self.ts += 1
            self.rows.append(message.arguments)
            self.records[message.request_id] = Success(b"%d" % len(self.rows)), self.ts
        result, ts = self.records[message.request_id]
        return MutationResponse(message.request_id, result, ts)

    def view(self) -> bytes:
        return b"[" + b",".join(self.rows) + b"]"


class ModelConnection:
    """Takes messages in order, answers in order, and shows its view when it is asked to."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.version = INITIAL_VERSION
        self.received = 0
        self.queries: dict[int, bytes | None] = {}
        self.removed: list[int] = []
        self.outgoing: deque[ServerMessage] = deque()

    def take(self, message: ClientMessage) -> None:
        match message:
            case ModifyQuerySet(base_version, new_version, modifications):
                assert base_version == self.received
                self.received = new_version
                for change in modifications:
                    if isinstance(change, AddQuery):
                        assert change.query_id not in self.queries
                        self.queries[change.query_id] = None
                    else:
                        del self.queries[change.query_id]
                        self.removed.append(change.query_id)
            case Mutation():
                self.outgoing.append(self.server.mutate(message))
            case Action(request_id):
                self.server.actions[request_id] += 1
                self.outgoing.append(ActionResponse(request_id, Success(b"null")))
            case _:
                assert isinstance(message, Connect)

    def show(self) -> None:
        value, end = self.server.view(), StateVersion(self.received, 0, self.server.ts)
        changed = [query_id for query_id, shown in self.queries.items() if shown != value]
        modifications: list[Modification] = [QueryRemoved(query_id) for query_id in self.removed]
        modifications += [QueryUpdated(query_id, value) for query_id in changed]
        self.queries |= dict.fromkeys(changed, value)
        self.removed = []
        self.outgoing.append(Transition(self.version, end, tuple(modifications)))
        self.version = end


class Run:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server = ModelServer()
        limits = Limits(session_mutations_max=self.chance.choice([2, 8, 1000]))
        self.client = StateMachine("fe4ea738-6bf6-4f40-a5c9-b983e49bed56", limits=limits)
        self.connection: ModelConnection | None = None
        self.to_server: deque[ClientMessage] = deque()
        self.asked: dict[int, str] = {}
        self.done: dict[int, Completion] = {}
        self.query_ids: list[int] = []
        self.seen: dict[int, bytes] = {}

    def step(self) -> None:
        steps = [self.ask, self.ask, self.query, self.deliver, self.deliver, self.serve, self.serve, self.show]
        self.chance.choice([*steps, self.connect, self.drop if self.chance.random() < 0.2 else self.connect])()

    def ask(self) -> None:
        if self.chance.random() < 0.8:
            self.asked[self.client.mutation("append", b"%d" % len(self.asked))] = "mutation"
        else:
            self.asked[self.client.action("act", b"{}")] = "action"

    def query(self) -> None:
        if self.query_ids and self.chance.random() < 0.5:
            query_id = self.query_ids.pop()
            self.client.unsubscribe(query_id)
            self.seen.pop(query_id, None) if query_id not in self.query_ids else None
        else:
            self.query_ids.append(self.client.subscribe(LIST, b"{}"))

    def connect(self) -> None:
        if self.connection is None:
            self.connection = ModelConnection(self.server)
            self.client.connected()

    def drop(self) -> None:
        if self.connection is not None:
            self.connection = None
            self.to_server.clear()
            self.learn(self.client.disconnected("dropped"))

    def serve(self) -> None:
        self.to_server.extend(self.client.take_outgoing())
        if self.connection is not None and self.to_server:
            self.connection.take(self.to_server.popleft())

    def show(self) -> None:
        if self.connection is not None and self.connection.received:
            self.connection.show()

    def deliver(self) -> None:
        if self.connection is not None and self.connection.outgoing:
            self.learn(self.client.receive(self.connection.outgoing.popleft()))

    def learn(self, update: Update) -> None:
        for query_id, result in update.results.items():
            assert isinstance(result, Success)
            assert query_id in self.query_ids
            self.seen[query_id] = result.value
        for completion in update.completions:
            assert completion.request_id not in self.done, "completed twice"
            self.done[completion.request_id] = completion
            if self.asked[completion.request_id] == "mutation":
                self.check_shown(completion)

    def check_shown(self, completion: Completion) -> None:
        """When a mutation completes, every query that has been shown at all shows its row."""
        row = self.server.rows[self.server.records[completion.request_id][1] - 2]
        for query_id in self.query_ids:
            result = self.client.result(query_id)
            if result is not None:
                assert isinstance(result, Success)
                assert row in result.value.strip(b"[]").split(b",")

    def settle(self) -> None:
        """From now on the connection holds."""
        self.connect()
        for _ in range(4 * len(self.asked) + 20):
            self.serve()
            while self.to_server:
                self.serve()
            self.show()
            while self.connection is not None and self.connection.outgoing:
                self.deliver()


def test_every_call_ends_once_and_every_mutation_happens_once(seed: int) -> None:
    for conversation in range(CONVERSATIONS):
        converse_and_check(Run(1000 * seed + conversation))


def converse_and_check(run: Run) -> None:
    for _ in range(run.chance.randrange(20, 400)):
        run.step()
    run.settle()
    mutations = [request_id for request_id, kind in run.asked.items() if kind == "mutation"]
    assert run.done.keys() == run.asked.keys()
    assert all(isinstance(run.done[request_id].result, Success) for request_id in mutations)
    assert Counter(run.server.rows) == Counter(b"%d" % request_id for request_id in mutations)
    assert run.server.rows == sorted(run.server.rows, key=int), "mutations run in the order in which they were made"
    assert all(runs == 1 for runs in run.server.actions.values())
    for request_id in run.asked.keys() - set(mutations):
        result = run.done[request_id].result
        assert isinstance(result, Lost) or run.server.actions[request_id] == 1
    for query_id in run.query_ids:
        assert run.seen[query_id] == run.server.view()
    assert run.client.caught_up
