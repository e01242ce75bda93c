"""A session under random interleavings, watched by a model client that believes nothing.

The world has a history of commits; a query's value at a timestamp is what that history says. Messages, commits,
answers, results and sends happen in any order that a real driver could produce, with the results for any timestamp that
the query cache could choose; one of the queries is a page, which has a journal. After every message the client checks
what it may rely on; at the end all has been told.
"""

from __future__ import annotations

import random

import pytest

from evolute.database.read_set import ReadSet
from evolute.errors import FunctionCrashed
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallError, CallResult, Outcome
from evolute.limits import Limits
from evolute.protocol.codec import decode_server, encode_client
from evolute.protocol.messages import (
    INITIAL_VERSION,
    AddQuery,
    Authenticate,
    Connect,
    Failure,
    ModifyQuerySet,
    Mutation,
    MutationResponse,
    NoToken,
    QueryFailed,
    QueryRemoved,
    QueryUpdated,
    RemoveQuery,
    Success,
    Transition,
)
from evolute.sync.effects import AwaitBurst, Compute, Effect, Send, StartMutation, Verify
from evolute.sync.identity import ANONYMOUS
from evolute.sync.query_set import QuerySet
from evolute.sync.session import Session
from evolute.sync.transition import Disclosure

SESSION_ID = "f16a2aae-fe67-48a4-9eea-6efd82f2b3b9"
PATHS = ("m:a", "m:b", "m:c", "m:fails")


class History:
    """Commits and what they touched. The value of a query is the number of commits that touched it, and that of m:b a
    third of it: it often stays what it was."""

    def __init__(self) -> None:
        self.touches: dict[str, list[int]] = {path: [] for path in PATHS}
        self.published_ts = 100
        self.live: list[QueryResult] = []

    def commit(self, paths: list[str]) -> int:
        self.published_ts += 1
        for path in paths:
            self.touches[path].append(self.published_ts)
        for result in [result for result in self.live if result.call.path in paths]:
            self.live.remove(result)
            result.become_broken(self.published_ts)
        return self.published_ts

    def value(self, path: str, ts: int) -> str:
        return str(sum(touch <= ts for touch in self.touches[path]) // (3 if path == "m:b" else 1))

    def result(self, call: Call, ts: int) -> QueryResult:
        """As the query cache would have it: read at `ts`, and broken by the first commit after it that touches it."""
        text = self.value(call.path, ts)
        failed = call.path == "m:fails"
        journal = call.journal or f"begun at {ts}" if call.path == "m:c" else None
        error = CallError(text) if failed else None
        ran = CallResult(None if failed else text.encode(), error, (), ReadSet(), journal=journal)
        result = QueryResult(call, ran, ts, 0)
        result.broken_at = next((touch for touch in self.touches[call.path] if touch > ts), None)
        if result.broken_at is None:
            self.live.append(result)
        return result


class Client:
    """Checks every message against what the protocol promises, and keeps the view that results from it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.version = INITIAL_VERSION
        self.view: dict[int, str] = {}
        self.journals: dict[int, str | None] = {}
        self.paths: dict[int, str] = {}
        self.query_set = 0
        self.identity = 0
        self.answered: list[int] = []
        self.uncovered: list[int] = []
        self.unanswered: dict[int, int] = {}

    def receive(self, message: bytes) -> None:
        match decode_server(message):
            case MutationResponse(request_id, result, ts):
                self.unanswered.pop(request_id, None)
                self.answered.append(request_id)
                self.uncovered.append(ts or 0)
                assert isinstance(result, Success | Failure)
            case Transition() as transition:
                self._apply(transition)
            case other:
                raise AssertionError(other)

    def _apply(self, transition: Transition) -> None:
        end = transition.end
        assert transition.start == self.version
        assert all(before <= after for before, after in zip(self.version, end, strict=True))
        assert all(ts <= end.ts for ts in self.uncovered), "a Transition is older than an answer sent before it"
        assert all(ts > end.ts for ts in self.unanswered.values()), "an effect is shown before its answer"
        assert end.query_set <= self.query_set
        assert end.identity <= self.identity
        self.uncovered.clear()
        self.version = end
        for modification in transition.modifications:
            match modification:
                case QueryUpdated(query_id, value, _, journal):
                    assert (journal is not None) == (self.paths[query_id] == "m:c")
                    assert self.journals.setdefault(query_id, journal) == journal, "another page took its place"
                    assert self.view.get(query_id) != value.decode(), "an unchanged result is told again"
                    self.view[query_id] = value.decode()
                case QueryFailed(query_id, message):
                    self.view[query_id] = message.splitlines()[-1]
                case QueryRemoved(query_id):
                    self.view.pop(query_id, None)
        for query_id, text in self.view.items():
            assert text == self.history.value(self.paths[query_id], end.ts), "the view is not of one timestamp"


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.history = History()
        self.client = Client(self.history)
        disclosure = Disclosure(redact=False, new_request_id=lambda: "0" * 16)
        self.session = Session(limits=Limits(), disclosure=disclosure, on_dirty=self.schedule)
        self.is_scheduled = self.is_settling = False
        self.computing: Compute | None = None
        self.running: int | None = None
        self.committed_ts: int | None = None
        self.unsent_transition = False
        self.burst = False
        self.verifying = False
        self.next_query_id = 0
        self.next_request_id = 0
        self.live_ids: list[int] = []
        self.say(Connect(SESSION_ID, 0, client_ts_ms=0))

    # --- What may happen ---

    def step(self) -> None:
        steps = [self.other_commit, self.turn, self.turn]
        said = [self.modify, self.modify, self.mutate, self.authenticate]
        # Nothing is received while a token is looked at.
        steps += [self.verified] * 2 if self.verifying else said
        steps += [self.commit, self.answer, self.finish, self.take] * 2
        self.random.choice(steps)()

    def settle(self) -> None:
        """Nothing more is said or written, and runs are no longer of the past."""
        self.is_settling = True
        for _ in range(50):
            for step in (self.verified, self.end_burst, self.turn, self.finish, self.take, self.commit, self.answer):
                step()
        self.is_settling = False

    def check_settled(self) -> None:
        client = self.client
        assert client.answered == list(range(self.next_request_id)), "every mutation is answered, in order"
        assert not client.uncovered, "every answer is followed by a Transition"
        assert client.version[:2] == (client.query_set, client.identity)
        assert sorted(client.view) == sorted(self.live_ids)
        expected = {query_id: self.history.value(client.paths[query_id], 10**9) for query_id in self.live_ids}
        assert client.view == expected, "the last of every result was told"

    def say(self, message: Connect | ModifyQuerySet | Mutation | Authenticate) -> None:
        frame = encode_client(message).decode()
        self.perform(self.session.receive(frame, now_ns=10**15, published_ts=self.history.published_ts))

    def modify(self) -> None:
        changes: list[AddQuery | RemoveQuery] = []
        for _ in range(self.random.randint(0, 3)):
            if self.live_ids and self.random.random() < 0.4:
                changes.append(RemoveQuery(self.live_ids.pop(self.random.randrange(len(self.live_ids)))))
                continue
            path = self.random.choice(PATHS)
            self.client.paths[self.next_query_id] = path
            changes.append(AddQuery(self.next_query_id, path, b"{}"))
            self.live_ids.append(self.next_query_id)
            self.next_query_id += 1
        self.client.query_set += 1
        self.say(ModifyQuerySet(self.client.query_set - 1, self.client.query_set, tuple(changes)))

    def authenticate(self) -> None:
        self.client.identity += 1
        self.say(Authenticate(self.client.identity - 1, NoToken()))

    def verified(self) -> None:
        """It is known whose the token is: at once, or when its issuer's keys have come."""
        if self.verifying:
            self.verifying = False
            self.perform(self.session.authenticated(ANONYMOUS))

    def mutate(self) -> None:
        self.next_request_id += 1
        self.say(Mutation(self.next_request_id - 1, "m:write", b"{}"))

    def other_commit(self) -> None:
        self.history.commit(self.random.sample(PATHS, self.random.randint(0, 2)))

    def commit(self) -> None:
        if self.running is not None and self.committed_ts is None:
            self.committed_ts = self.history.commit(self.random.sample(PATHS, self.random.randint(0, 2)))
            self.client.unanswered[self.running] = self.committed_ts
            self.session.mutation_committed(self.committed_ts)

    def answer(self) -> None:
        if self.running is None:
            return
        ts, self.committed_ts = self.committed_ts, None
        if ts is not None:
            outcome = Outcome(b"null", None, (), ts)
        elif self.random.random() < 0.5:
            outcome = Outcome(None, CallError("boom"), (), self.history.published_ts)
        else:  # read-only, or replayed
            outcome = Outcome(b"null", None, (), self.random.randint(90, self.history.published_ts))
        self.running = None
        self.perform(self.session.mutation_done(outcome, now_ns=10**15, published_ts=self.history.published_ts))

    def schedule(self) -> None:
        self.is_scheduled = True

    def turn(self) -> None:
        """Nobody begins a Transition that the session has not asked for."""
        if self.is_scheduled:
            self.is_scheduled = False
            self.perform(self.session.begin(now_ns=10**15, published_ts=self.history.published_ts))

    def end_burst(self) -> None:
        if self.burst:
            self.burst = False
            self.perform(self.session.burst_over())

    def finish(self) -> None:
        """Results at any published timestamp that will do."""
        if self.computing is None:
            return
        wanted, self.computing = self.computing, None
        held = {result.call: result for result in wanted.held}
        low = max([wanted.at_least_ts, *(result.begin_ts for result in wanted.held)])
        ts = self.history.published_ts if self.is_settling else self.random.randint(low, self.history.published_ts)
        results = {call: self.history.result(call, ts) for call in wanted.stale}
        results |= {call: self.history.result(call, ts) for call, result in held.items() if not result.good_at(ts)}
        self.perform(self.session.results_ready(ts, results, now_ns=10**15))

    def take(self) -> None:
        if self.unsent_transition:
            self.unsent_transition = False
            self.perform(self.session.transition_sent())

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message, is_transition):
                    self.client.receive(message)
                    self.unsent_transition |= is_transition
                case StartMutation(request_id):
                    assert self.running is None
                    self.running = request_id
                case Compute():
                    assert self.computing is None
                    assert not self.unsent_transition
                    self.computing = effect
                case Verify():
                    self.verifying = True
                    if self.random.random() < 0.5:
                        self.verified()
                case AwaitBurst():
                    self.burst = True
                case other:
                    raise AssertionError(other)


@pytest.mark.parametrize("interleaving", range(150))
def test_a_client_sees_one_consistent_history(interleaving: int) -> None:
    world = World(interleaving)
    for _ in range(10):
        for _ in range(20):
            world.step()
        world.settle()
        world.check_settled()
    world.session.close()
    assert not any(result.held for result in world.history.live)


def test_what_changes_while_nothing_new_is_computed_is_not_forgotten() -> None:
    """A query is asked for, another breaks, and the run that was under way finds what the client knows already."""
    world = World(0)

    def subscribe(query_id: int, path: str) -> None:
        world.client.paths[query_id], world.client.query_set = path, query_id + 1
        world.live_ids.append(query_id)
        world.say(ModifyQuerySet(query_id, query_id + 1, (AddQuery(query_id, path, b"{}"),)))

    for query_id, path in enumerate(("m:b", "m:a")):
        subscribe(query_id, path)
    world.settle()
    world.check_settled()
    world.history.commit(["m:b"])
    world.turn()
    assert world.computing is not None
    read_ts = world.history.published_ts
    world.history.commit(["m:a"])
    subscribe(2, "m:c")
    world.turn()
    wanted, world.computing = world.computing, None
    results = {call: world.history.result(call, read_ts) for call in wanted.stale}
    world.perform(world.session.results_ready(read_ts, results, now_ns=10**15))
    world.settle()
    world.check_settled()


def test_a_page_that_runs_again_begins_its_retries_anew() -> None:
    """Its journal has made it another call in between."""
    limits, queries, call = Limits(), QuerySet(lambda: None), Call("m:c", b"{}", kind="query")
    queries.add(0, call)

    def run(error: CallError | None, journal: str | None) -> list[int]:
        (asked,) = queries.wanted()[0]
        value = None if error else b"1"
        results = {asked: QueryResult(asked, CallResult(value, error, (), ReadSet(), journal=journal), 1, 0)}
        queries.accept(results)
        delays = [retry.delay_ms // limits.query_retry_ms_min for retry in queries.retries(limits)]
        for query in queries:
            query.run_again()
        return delays

    crashed = CallError("died", code=FunctionCrashed.code)
    assert [run(crashed, None), run(crashed, None), run(None, "J"), run(crashed, "J")] == [[1], [2], [], [1]]
    assert queries.wanted()[0] == (call._replace(journal="J"),)
