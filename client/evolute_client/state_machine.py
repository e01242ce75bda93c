"""One client without its socket: what was asked for goes in, messages to send and news for the caller come out.

    subscribe unsubscribe mutation action ──►┌───────────────┐──► take_outgoing()   messages, in order
        begin_auth clear_auth token_fetched ──►│ state machine │──► wanted            a token, or a time to wait for
           connected disconnected receive ──►└───────────────┘──► Update: results and completions of one moment

The session id stays the same for the client's life, so that the server recognises a mutation that is sent again. A
mutation completes in the same Update as the query results that show it. A call goes out under the identity that was
set when it was made, unless it must wait for one. There is no await, clock or socket in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evolute.limits import Limits
from evolute.protocol.messages import (
    INITIAL_VERSION,
    ActionResponse,
    AuthError,
    ClientMessage,
    Connect,
    FatalError,
    MutationResponse,
    NoToken,
    Ping,
    QueryFailed,
    QueryUpdated,
    ServerMessage,
    Token,
    Transition,
)
from evolute_client.authentication import AuthChange, Authentication, AuthState, FetchToken, RefreshAfter
from evolute_client.errors import RequestRefused
from evolute_client.local_query_set import LocalQuerySet, QueryKey
from evolute_client.local_store import OptimisticUpdate, Result
from evolute_client.remote_results import ProtocolBroken, RemoteResults
from evolute_client.requests import Completion, Requests
from evolute_client.shown_results import ShownResults


@dataclass(frozen=True, slots=True)
class LogLines:
    """What one run of a function printed on the server."""

    path: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """News of one moment, to be handed on at once: new results by query id, calls that are complete, who this is.

    A result of None takes back what was only expected. `faults` is what optimistic updates have raised.
    """

    results: Mapping[int, Result | None] = field(default_factory=dict)
    completions: tuple[Completion, ...] = ()
    logs: tuple[LogLines, ...] = ()
    auth: AuthChange | None = None
    faults: tuple[Exception, ...] = ()


class StateMachine:
    def __init__(self, session_id: str, *, token: Token | None = None, limits: Limits | None = None) -> None:
        """`session_id` is a UUID that no other client uses. `token` is who the client is from the start."""
        limits = limits or Limits()
        self._session_id = session_id
        self._auth = Authentication(token or NoToken(), limits)
        self._queries = LocalQuerySet()
        self._remote = RemoteResults()
        self._shown = ShownResults()
        self._requests = Requests(
            mutations_in_flight_max=max(1, limits.session_mutations_max // 2),
            actions_in_flight_max=max(1, limits.session_actions_max // 2),
        )
        self._outgoing: list[ClientMessage] = []
        self._connection_count = 0
        self._close_reason = "InitialConnect"
        self._must_greet = False
        self._max_observed_ts: int | None = None
        self.is_connected = False

    @property
    def caught_up(self) -> bool:
        """This connection has answered all that was open when it began: it is worth as much as the one before it."""
        return self.is_connected and self._remote.complete and self._requests.caught_up and self._auth.settled

    @property
    def auth_state(self) -> AuthState:
        return self._auth.state

    @property
    def wanted(self) -> FetchToken | RefreshAfter | None:
        """What the driver is to do about the token; the answer is `token_fetched`, `fetch_failed` or `refresh_due`."""
        return self._auth.wanted

    # --- The caller ---

    def subscribe(self, path: str, arguments: bytes) -> int:
        """A query id; the same one for the same query. Each call needs its `unsubscribe`."""
        return self._queries.add(path, arguments)

    def unsubscribe(self, query_id: int) -> None:
        key = self._queries.key(query_id)
        self._queries.remove(query_id)
        if query_id not in self._queries:
            self._remote.forget(query_id)
            self._shown.forget(key)

    def result(self, query_id: int) -> Result | None:
        """What a new subscriber is shown at once: what this connection has shown, or what is expected."""
        if not self.is_connected:
            return None
        key = self._queries.key(query_id)
        return self._shown.expected(key) or (self._shown.get(key) if self._remote.get(query_id) is not None else None)

    def shown(self, query_id: int) -> Result | None:
        """What was shown last, by this connection or by one before it of which it has not taken the place yet."""
        return self._shown.get(self._queries.key(query_id))

    def mutation(self, path: str, arguments: bytes) -> int:
        """A request id, which `Update.completions` names in the end."""
        return self._requests.mutation(path, arguments)

    def mutation_expecting(self, path: str, arguments: bytes, update: OptimisticUpdate) -> tuple[int, Update]:
        """A mutation whose change is shown at once, until the server shows it or it fails.

        Raises what `update` raises; then there is no mutation.
        """
        changes = self._shown.add(self._requests.next_id, update)
        return self._requests.mutation(path, arguments), self._update(changes, [], [])

    def action(self, path: str, arguments: bytes) -> int:
        """A request id, which `Update.completions` names in the end."""
        return self._requests.action(path, arguments)

    # --- Who the caller is ---

    def begin_auth(self) -> None:
        """Tokens can be fetched from now on. Nothing is sent until the first has come."""
        self._collect()
        self._auth.begin()

    def clear_auth(self) -> None:
        self._collect()
        self._auth.clear()

    def token_fetched(self, token: str | None) -> Update:
        """The answer to `wanted`."""
        self._collect()
        self._auth.fetched(token)
        return Update(auth=self._auth.take_change())

    def fetch_failed(self, error: str) -> Update:
        """The other answer: the application's own error."""
        self._collect()
        self._auth.fetch_failed(error)
        return Update(auth=self._auth.take_change())

    def refresh_due(self) -> None:
        self._auth.refresh_due()

    # --- The connection ---

    def connected(self) -> None:
        """A new socket is open. All that the server must know is told again."""
        assert not self.is_connected
        self.is_connected = True
        self._outgoing = []
        self._must_greet = True
        self._auth.restart()
        self._remote = RemoteResults(self._queries.restart())
        self._requests.restart()

    def disconnected(self, reason: str) -> Update:
        """The socket is gone; `reason` is told to the server next time."""
        assert self.is_connected
        self.is_connected = False
        self._close_reason = reason
        return Update(completions=tuple(self._requests.disconnect()), auth=self._auth.take_change())

    def take_outgoing(self) -> list[ClientMessage]:
        """The messages to send now. Ask after every other call; there are none without a connection."""
        if not self.is_connected:
            return []
        self._collect()
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _collect(self) -> None:
        """What can be sent as things are now has its place before whatever is set next."""
        if not self.is_connected or self._auth.paused:
            return
        if self._must_greet:
            self._must_greet = False
            self._outgoing.append(
                Connect(self._session_id, self._connection_count, self._close_reason, self._max_observed_ts)
            )
            self._connection_count += 1
        for message in (self._auth.take_message(), self._queries.take_change()):
            if message is not None:
                self._outgoing.append(message)
        self._outgoing.extend(self._requests.take_sendable())

    def receive(self, message: ServerMessage) -> Update:
        """Raises ProtocolBroken if the connection must be given up, RequestRefused if the admin key was refused."""
        assert self.is_connected
        match message:
            case Transition():
                return self._receive_transition(message)
            case MutationResponse() | ActionResponse():
                return self._receive_response(message)
            case Ping():
                return Update()
            case FatalError(error):
                raise ProtocolBroken(f"FatalError: {error}")
            case AuthError():
                return self._receive_auth_error(message)

    def _receive_transition(self, message: Transition) -> Update:
        if message.end.query_set > self._queries.version:
            raise ProtocolBroken(f"a Transition answers query set {message.end.query_set}, which was never sent")
        if message.end.identity > self._auth.version:
            raise ProtocolBroken(f"a Transition answers identity {message.end.identity}, which was never sent")
        results = self._remote.apply(message)
        self._auth.transition(message.start.identity, message.end.identity)
        self._observe(message.end.ts)
        logs: list[LogLines] = []
        for modification in message.modifications:
            if isinstance(modification, QueryUpdated | QueryFailed) and modification.query_id in self._queries:
                self._queries.set_journal(modification.query_id, modification.journal)
                if modification.log_lines:
                    logs.append(LogLines(self._queries.path(modification.query_id), modification.log_lines))
        completions = self._requests.reach(message.end.ts)
        changes = self._shown.show(
            {self._queries.key(query_id): result for query_id, result in results.items() if query_id in self._queries},
            [completion.request_id for completion in completions],
            restarted=message.start == INITIAL_VERSION,
        )
        return self._update(changes, completions, logs)

    def _receive_response(self, message: MutationResponse | ActionResponse) -> Update:
        path = self._requests.path(message.request_id)
        logs = [LogLines(path, message.log_lines)] if path is not None and message.log_lines else []
        if isinstance(message, MutationResponse) and message.ts is not None:
            self._observe(message.ts)
        completions = self._requests.answer(message, self._remote.version.ts)
        changes = self._shown.drop([completion.request_id for completion in completions])
        return self._update(changes, completions, logs)

    def _update(
        self, changes: Mapping[QueryKey, Result | None], completions: list[Completion], logs: list[LogLines]
    ) -> Update:
        faults = tuple(self._shown.take_faults())
        return Update(self._by_id(changes), tuple(completions), tuple(logs), self._auth.take_change(), faults)

    def _by_id(self, changes: Mapping[QueryKey, Result | None]) -> dict[int, Result | None]:
        """What concerns a live query."""
        found: dict[int, Result | None] = {}
        for key, result in changes.items():
            query_id = self._queries.find(key)
            if query_id is not None:
                found[query_id] = result
        return found

    def _receive_auth_error(self, message: AuthError) -> Update:
        if self._auth.is_admin:
            raise RequestRefused(message.error, code="Unauthenticated")
        if self._auth.refused(message):
            raise ProtocolBroken(f"AuthError: {message.error}")
        return Update()

    def _observe(self, ts: int) -> None:
        self._max_observed_ts = max(ts, self._max_observed_ts or 0)
