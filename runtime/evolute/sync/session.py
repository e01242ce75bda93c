"""One client's session as a state machine: no await, no clock, no socket. `connection` drives it.

    frames ──► receive ─┐                           ┌──► Send, StartMutation, StartAction, Compute, …, Close
    calls end ──► …_done ┼──► state ──► effects ────┘
    results ──► results_ready ┘

What the client may rely on:

- **Versions chain.** Each Transition starts where the last one ended, from {0, 0, 0}. Only one is being computed, or
  computed and not yet sent, at any time; what happens meanwhile goes into the next.
- **A Transition follows every MutationResponse**, and no Transition is older than a response sent before it. So a
  success that is answered while results are being computed for an unknown, perhaps earlier, timestamp waits until that
  Transition has left. Its client could not use it earlier: a promise resolves with the Transition that covers it.
- **A response comes before the Transition that shows its effect.** If results arrive for a timestamp at which a
  mutation of this session is committed but not yet answered, the Transition waits for the answer.
- **Mutations run one at a time in the order received**, with the identity of the moment they were received. Actions
  start at once.
- **What comes behind a token waits for it**: nothing is received between Verify and its end. That a token has expired
  is told when something is asked with it; a session that asks for nothing is left alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from evolute.errors import MalformedMessage
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallError, Outcome
from evolute.limits import Limits
from evolute.protocol.codec import decode_client, encode_server
from evolute.protocol.messages import (
    INITIAL_VERSION,
    Action,
    Authenticate,
    AuthError,
    ClientMessage,
    Connect,
    FatalError,
    ModifyQuerySet,
    Mutation,
    RemoveQuery,
    StateVersion,
)
from evolute.sync.answer import action_answer, mutation_answer
from evolute.sync.effects import AwaitBurst, Close, Compute, Effect, Send, StartAction, StartMutation, Verify
from evolute.sync.identity import ANONYMOUS, Identity
from evolute.sync.mutation_queue import MutationQueue
from evolute.sync.phase import CLOSED, COMPUTING, IDLE, PARKED, SENDING, Phase
from evolute.sync.query_set import QuerySet
from evolute.sync.requested import ProtocolViolation, Requested
from evolute.sync.transition import Disclosure, encode_transition

TOKEN_EXPIRED = "Convex token identity expired"


class Session:
    """`on_dirty` is called, synchronously and often, when `begin` may have something to do.

    Every method returns the effects to perform, in order. After Close every method returns none.
    """

    def __init__(self, *, limits: Limits, disclosure: Disclosure, on_dirty: Callable[[], None]) -> None:
        self._limits = limits
        self._disclosure = disclosure
        self._on_dirty = on_dirty
        self.phase: Phase = IDLE
        self._finishing = False
        self._effects: list[Effect] = []

        # What the client has been told, and what it has asked for.
        self._current = INITIAL_VERSION
        self._requested = Requested(limits)
        self._awaiting_burst = self._verifying = False

        # What the Transition in computation will bring it to.
        self._queries = QuerySet(self._queries_broken)
        self._queries_identity = ANONYMOUS
        self._queries_changed = False
        self._versions = INITIAL_VERSION[:2]
        self._end = INITIAL_VERSION
        self._removed: dict[int, None] = {}
        self._parked: bytes | None = None

        # Calls. `_answers` are successes that wait for a Transition to leave.
        self.mutations = MutationQueue()
        self._answers: deque[tuple[bytes, int]] = deque()
        self._actions_running = 0
        self._at_least_ts = self._computing_at_least_ts = 0
        self._transition_owed = False

    # --- From the client ------------------------------------------------------------------------------------------

    def receive(self, frame: str | bytes, *, now_ns: int, published_ts: int) -> list[Effect]:
        """One message of the client. `published_ts` is the server's latest timestamp."""
        if self.phase is CLOSED or self._finishing:
            return []
        assert not self._verifying, "nothing may be received between Verify and its end"
        try:
            if isinstance(frame, bytes):
                raise MalformedMessage("it is binary, and messages are text")
            self._receive(decode_client(frame, self._limits), now_ns, published_ts)
        except MalformedMessage as error:
            self._break_off("WSMessageInvalidJson", f"Received a message that is not of the protocol: {error}")
        except ProtocolViolation as violation:
            self._break_off(violation.reason, str(violation))
        return self._taken()

    def _receive(self, message: ClientMessage, now_ns: int, published_ts: int) -> None:
        match message:
            case Mutation() | Action() if self._told_of_expiry(now_ns):
                pass
            case Mutation():
                self._queue_mutation(message)
            case Action():
                self._start_action(message)
            case Connect():
                self._connect(message, now_ns, published_ts)
            case Authenticate():
                self._requested.check_authenticate(message)
                self._verifying = True
                self._effects.append(Verify(message.token))
            case ModifyQuerySet():
                self._requested.modify_query_set(message)
                self._awaiting_burst = False
                self._on_dirty()
            case _:  # telemetry
                pass

    def _connect(self, message: Connect, now_ns: int, published_ts: int) -> None:
        if message.max_observed_ts is not None and message.max_observed_ts > published_ts:
            # A client must never be shown a past older than what it has seen: this is another store, or a lost one.
            self._close(Close.INTERNAL_ERROR, "ClientAheadOfServer")
            return
        self._requested.connect(message, now_ns)
        self._at_least_ts = message.max_observed_ts or 0

    # --- Who asks ---------------------------------------------------------------------------------------------------

    def authenticated(self, identity: Identity) -> list[Effect]:
        """The token is good: what comes from now on is asked by `identity`, and the next Transition says so."""
        if self.phase is CLOSED:
            return []
        self._verifying = False
        self._requested.authenticated(identity)
        if self._requested.query_set_version == 0 and not self._awaiting_burst:
            # On a new connection the queries come right behind the token. A Transition without them would make every
            # query of a client that reconnects read as loading.
            self._awaiting_burst = True
            self._effects.append(AwaitBurst())
        self._on_dirty()
        return self._taken()

    def refused(self, why: str) -> list[Effect]:
        """The token is not good."""
        self._refuse(why, update_attempted=True)
        return self._taken()

    def key_revoked(self, name: str) -> list[Effect]:
        """The admin key of that name is worth nothing any more."""
        if self._requested.identity.key_name == name:
            self._refuse(f"The admin key {name!r} has been revoked.", update_attempted=False)
        return self._taken()

    def _told_of_expiry(self, now_ns: int) -> bool:
        """Whether the token has expired by which the client asks. It is told, unless it has sent another already."""
        if not self._requested.identity.has_expired(now_ns):
            return False
        if not self._verifying:
            self._refuse(TOKEN_EXPIRED, update_attempted=False)
        return True

    def _refuse(self, why: str, *, update_attempted: bool) -> None:
        if self.phase is not CLOSED:
            self._effects.append(Send(encode_server(AuthError(why, self._current.identity, update_attempted))))
            self._close(None, "")

    def burst_over(self) -> list[Effect]:
        """The time that the opening burst may take is over: a Transition without queries is better than none."""
        self._awaiting_burst = False
        self._on_dirty()
        return self._taken()

    # --- Mutations and actions --------------------------------------------------------------------------------------

    def _queue_mutation(self, message: Mutation) -> None:
        if len(self.mutations) >= self._limits.session_mutations_max:
            self._close(Close.TRY_AGAIN, "TooManyConcurrentMutations")
            return
        self.mutations.add(message.request_id, self._requested.call("mutation", message, message.request_id))
        self._start_next_mutation()
        if self._transition_owed:
            self._on_dirty()

    def mutation_committed(self, commit_ts: int) -> None:
        """The running mutation is published. Call in that very turn: no Transition may show it before its answer."""
        self.mutations.committed(commit_ts)

    def mutation_done(self, outcome: Outcome, *, now_ns: int, published_ts: int) -> list[Effect]:
        """The running mutation ended; `outcome.error` is set if it did not happen."""
        if self.phase is CLOSED:
            return []
        self._answer_mutation(self.mutations.done(), outcome)
        if self.phase is PARKED:
            self._send_parked()
        self._start_next_mutation()
        if self._queries or self._has_news():
            self._on_dirty()
        else:
            self._begin(now_ns, published_ts)  # nothing is watched: the Transition leaves with the answer
        return self._taken()

    def _start_next_mutation(self) -> None:
        while started := self.mutations.start_next():
            request_id, call = started
            if isinstance(call, CallError):
                self._answer_mutation(request_id, Outcome(None, call, (), 0))
            else:
                self._effects.append(StartMutation(request_id, call))

    def _answer_mutation(self, request_id: int, outcome: Outcome) -> None:
        ts = outcome.ts if outcome.error is None else 0
        message = mutation_answer(request_id, outcome, self._requested.session_id, self._disclosure)
        if self._answers or (self.phase is COMPUTING and ts > self._computing_at_least_ts):
            self._answers.append((message, ts))
        else:
            self._send_answer(message, ts)

    def _send_answer(self, message: bytes, ts: int) -> None:
        self._effects.append(Send(message))
        self._at_least_ts = max(self._at_least_ts, ts)
        self._transition_owed = True

    def _send_answers(self, until_ts: int | None = None) -> None:
        """Sends the answers that wait, in their order, up to the first that is later than `until_ts`."""
        while self._answers and (until_ts is None or self._answers[0][1] <= until_ts):
            self._send_answer(*self._answers.popleft())

    def _start_action(self, message: Action) -> None:
        call = self._requested.call("action", message)
        if isinstance(call, CallError):
            self._answer_action(message.request_id, Outcome(None, call, (), 0))
        elif self._actions_running >= self._limits.session_actions_max:
            self._close(Close.TRY_AGAIN, "TooManyConcurrentActions")
        else:
            self._actions_running += 1
            self._effects.append(StartAction(message.request_id, call))

    def action_done(self, request_id: int, outcome: Outcome) -> list[Effect]:
        if self.phase is CLOSED:
            return []
        self._actions_running -= 1
        self._answer_action(request_id, outcome)
        return self._taken()

    def _answer_action(self, request_id: int, outcome: Outcome) -> None:
        self._effects.append(Send(action_answer(request_id, outcome, self._requested.session_id, self._disclosure)))

    # --- Transitions ------------------------------------------------------------------------------------------------

    def begin(self, *, now_ns: int, published_ts: int) -> list[Effect]:
        """Begins the next Transition if one is needed and may begin. The driver calls this when no input is waiting."""
        self._begin(now_ns, published_ts)
        return self._taken()

    def _begin(self, now_ns: int, published_ts: int) -> None:
        if self.phase is not IDLE or self._awaiting_burst or not self._is_dirty() or self._told_of_expiry(now_ns):
            return
        if self._has_news():
            self._fold_in()
        self.phase = COMPUTING
        self._queries_changed = False
        self._computing_at_least_ts = self._at_least_ts
        stale, held = self._queries.wanted()
        if stale or held:
            self._effects.append(Compute(stale, held, self._at_least_ts))
        else:  # any published timestamp will do
            self._accept(published_ts, {}, now_ns)

    def _is_dirty(self) -> bool:
        return self._queries_changed or self._transition_owed or self._has_news()

    def _has_news(self) -> bool:
        """Whether the client has asked for something that is not folded in yet: each step has a version."""
        return self._requested.versions != self._versions

    def _fold_in(self) -> None:
        """Takes what the client has asked for so far into the query set, and so into the next Transition."""
        self._versions = self._requested.versions
        if self._requested.identity != self._queries_identity:
            self._queries_identity = self._requested.identity
            self._queries.ask_as(self._queries_identity)
        for modification in self._requested.take_modifications():
            if isinstance(modification, RemoveQuery):
                self._queries.remove(modification.query_id)
                self._removed[modification.query_id] = None
            else:
                self._queries.add(modification.query_id, self._requested.call("query", modification))

    def results_ready(self, ts: int, results: Mapping[Call, QueryResult], *, now_ns: int) -> list[Effect]:
        """The results that Compute asked for, all good at `ts` together with those that it held."""
        if self.phase is CLOSED:
            return []
        self._accept(ts, results, now_ns)
        return self._taken()

    def _accept(self, ts: int, results: Mapping[Call, QueryResult], now_ns: int) -> None:
        assert self.phase is COMPUTING
        assert ts >= self._computing_at_least_ts, (ts, self._computing_at_least_ts)
        changed = self._queries.accept(results)
        self._effects += self._queries.retries(self._limits)
        self._send_answers(until_ts=ts)
        start, versions = self._current, self._versions
        is_news = changed or self._removed or self._transition_owed or versions != start[:2]
        unanswered = self.mutations.hides(ts)
        if not is_news and not unanswered:
            self._send_answers()
            self._be_idle()
            return
        self._end = StateVersion(*versions, ts)
        skew_ms = self._requested.client_clock_skew_ms
        self._parked = encode_transition(
            start, self._end, changed, self._removed, self._disclosure, client_clock_skew_ms=skew_ms, now_ns=now_ns
        )
        self._removed = {}
        self.phase = PARKED
        if not unanswered:
            self._send_parked()

    def _send_parked(self) -> None:
        assert self._parked is not None
        self._effects.append(Send(self._parked, True))
        self._parked = None
        self.phase = SENDING
        self._current = self._end
        self._at_least_ts = max(self._at_least_ts, self._end.ts)
        self._transition_owed = False
        self._send_answers()

    def transition_sent(self) -> list[Effect]:
        """The socket has taken the Transition: the next one may begin. So a slow reader gets fewer, larger ones."""
        if self.phase is SENDING:
            self._be_idle()
        return self._taken()

    def _be_idle(self) -> None:
        self.phase = IDLE
        if self._is_dirty():  # by what came meanwhile
            self._on_dirty()

    def retry_due(self, query_id: int, result: QueryResult) -> list[Effect]:
        """Runs the query again if it still has the result of the run that broke off."""
        self._queries.run_again(query_id, result)
        return self._taken()

    def _queries_broken(self) -> None:
        self._queries_changed = True
        self._on_dirty()

    # --- The end ----------------------------------------------------------------------------------------------------

    def finish(self) -> list[Effect]:
        """Takes no more messages, and closes once what runs is answered and shown. The rest the client sends again."""
        self._finishing = True
        self.mutations.clear()
        return self._taken()

    def fail(self, code: int, reason: str) -> list[Effect]:
        """Closes: something that this session asked for could not be done."""
        if self.phase is CLOSED:
            return []
        self._close(code, reason)
        return self._taken()

    def close(self) -> None:
        """The socket is gone. Releases every result; mutations that have not started never will."""
        self.phase, self._on_dirty = CLOSED, lambda: None  # whoever drives it is let go
        self._queries.close()
        self.mutations.clear()
        self._answers.clear()
        self._requested.take_modifications()

    def _close(self, code: int | None, reason: str) -> None:
        self._effects.append(Close(code, reason))
        self.close()

    def _break_off(self, reason: str, text: str) -> None:
        """The client broke the protocol. Never used for an author's mistake: JavaScript clients stop for good."""
        self._effects.append(Send(encode_server(FatalError(text))))
        self._close(Close.NORMAL, reason)

    def _taken(self) -> list[Effect]:
        if self._finishing and self.phase is not CLOSED:
            runs = self.mutations.runs or self._actions_running > 0 or self._answers
            if not (runs or self._transition_owed):
                self._close(Close.RESTART, "ServerShuttingDown")
        effects, self._effects = self._effects, []
        return effects
