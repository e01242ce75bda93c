"""Golden scripts: what the client's state machine sends and says, step by step.

A script is a sequence of steps. A line that begins with `> ` is a command; the lines under it, up to the next command,
comment or empty line, are exactly what must come of it:

    send {…}               a message to the server, as it is on the wire
    result 0 = […]         the new result of query 0; `fault 0 = …` if it failed
    taken back 0           query 0 has no result any more
    complete 0 = …         request 0 is complete; `failed`, `lost`
    log path: …            a line that a function printed
    broken: … / refused: … the connection is to be given up; the key is wrong
    wanted: …              what the driver is to do about the token from now on
    auth: …                what the application is told of it

Versions are written `query set.identity.ts`. With SCRIPTS_REWRITE=1 in the environment the scripts take on what came.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute.limits import Limits
from evolute.protocol import codec
from evolute.protocol.messages import (
    ActionResponse,
    AdminToken,
    AuthError,
    Failure,
    FatalError,
    Modification,
    MutationResponse,
    Ping,
    QueryFailed,
    QueryRemoved,
    QueryUpdated,
    ServerMessage,
    StateVersion,
    Success,
    Transition,
)
from evolute_client.errors import RequestRefused
from evolute_client.local_store import LocalStore
from evolute_client.remote_results import ProtocolBroken
from evolute_client.requests import Lost
from evolute_client.state_machine import StateMachine, Update

SCRIPTS = Path(__file__).parent / "client_sessions"
SESSION_ID = "fe4ea738-6bf6-4f40-a5c9-b983e49bed56"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda script: script.stem)
def test_script(script: Path) -> None:
    session = Session()
    played = []
    for kind, text in lines_of(script.read_text()):
        played.append(text)
        if kind == "command":
            played.extend(session.perform(text.removeprefix("> ")))
    came = "\n".join(played) + "\n"
    if os.environ.get("SCRIPTS_REWRITE"):
        script.write_text(came)
    assert came == script.read_text()


def lines_of(script: str) -> Iterator[tuple[str, str]]:
    """The lines that are not outcomes."""
    for line in script.splitlines():
        if line.startswith("> "):
            yield "command", line
        elif not line or line.startswith("#"):
            yield "prose", line


class Session:
    """One state machine, and the commands of the scripts."""

    def __init__(self) -> None:
        self.machine = StateMachine(SESSION_ID)
        self.wanted: object = None

    def perform(self, command: str) -> Iterator[str]:
        name, _, rest = command.partition(" ")
        perform = getattr(self, f"do_{name}")
        try:
            yield from perform(rest)
            yield from (f"send {codec.encode_client(message).decode()}" for message in self.machine.take_outgoing())
        except ProtocolBroken as error:
            yield f"broken: {error}"
        except RequestRefused as error:
            yield f"refused: {error}"
        if self.machine.wanted is not self.wanted:
            self.wanted = self.machine.wanted
            yield f"wanted: {self.wanted}"

    # --- The caller ---

    def do_client(self, rest: str) -> Iterator[str]:
        """A fresh client: `in-flight N` bounds the requests, `key K [as JSON]` gives it an admin key."""
        words = dict(zip(rest.split()[::2], rest.split()[1::2], strict=True))
        limits = Limits(session_mutations_max=2 * int(words.get("in-flight", "500")))
        acting_as = words["as"].encode() if "as" in words else None
        token = AdminToken(words["key"], acting_as) if "key" in words else None
        self.machine = StateMachine(SESSION_ID, token=token, limits=limits)
        yield from ()

    def do_subscribe(self, rest: str) -> Iterator[str]:
        path, arguments = rest.split(" ", 1)
        yield f"query {self.machine.subscribe(path, arguments.encode())}"

    def do_unsubscribe(self, rest: str) -> Iterator[str]:
        self.machine.unsubscribe(int(rest))
        yield from ()

    def do_mutation(self, rest: str) -> Iterator[str]:
        """`PATH ARGUMENTS [; append QUERY ARGUMENTS VALUE | ; set QUERY ARGUMENTS VALUE | ; count QUERY]…`

        What follows is its optimistic update. `append` does so if there is a result; `count` sets `counts` to how
        many results there are of a query.
        """
        call, *changes = rest.split(" ; ")
        path, arguments = call.split(" ", 1)
        if not changes:
            yield f"request {self.machine.mutation(path, arguments.encode())}"
            return
        try:
            request, update = self.machine.mutation_expecting(
                path, arguments.encode(), lambda store: alter(store, changes)
            )
        except ValueError as error:
            yield f"raised {error}"
            return
        yield f"request {request}"
        yield from shown(update)

    def do_action(self, rest: str) -> Iterator[str]:
        path, arguments = rest.split(" ", 1)
        yield f"request {self.machine.action(path, arguments.encode())}"

    def do_look(self, rest: str) -> Iterator[str]:
        """What a new subscriber of a query is shown at once; without a query, who the client is."""
        if not rest:
            yield f"look {self.machine.auth_state}; caught up: {self.machine.caught_up}"
            return
        yield f"look {rest} = {self.machine.result(int(rest))}; caught up: {self.machine.caught_up}"

    # --- Who the caller is ---

    def do_begin_auth(self, rest: str) -> Iterator[str]:
        self.machine.begin_auth()
        yield from ()

    def do_clear_auth(self, rest: str) -> Iterator[str]:
        self.machine.clear_auth()
        yield from ()

    def do_token(self, rest: str) -> Iterator[str]:
        """`NAME`, `NAME for SECONDS`, or nothing: what the fetcher gives."""
        name, _, seconds = rest.partition(" for ")
        token = None if not rest else jwt(name, {"iat": 1000, "exp": 1000 + float(seconds)}) if seconds else name
        yield from shown(self.machine.token_fetched(token))

    def do_fetch_failed(self, rest: str) -> Iterator[str]:
        yield from shown(self.machine.fetch_failed(rest))

    def do_refresh_due(self, rest: str) -> Iterator[str]:
        self.machine.refresh_due()
        yield from ()

    # --- The connection ---

    def do_connected(self, rest: str) -> Iterator[str]:
        self.machine.connected()
        yield from ()

    def do_disconnected(self, rest: str) -> Iterator[str]:
        yield from shown(self.machine.disconnected(rest))

    def do_transition(self, rest: str) -> Iterator[str]:
        """`START END [; updated ID JSON | failed ID "text" [JSON] | removed ID | …log "line" | …journal J]`"""
        versions, *changes = rest.split(" ; ")
        start, end = (StateVersion(*map(int, text.split("."))) for text in versions.split())
        yield from self.receive(Transition(start, end, tuple(modification(change) for change in changes)))

    def do_mutated(self, rest: str) -> Iterator[str]:
        """`ID at TS JSON`"""
        request_id, _, ts, value = rest.split(" ", 3)
        yield from self.receive(MutationResponse(int(request_id), Success(value.encode()), int(ts)))

    def do_mutation_failed(self, rest: str) -> Iterator[str]:
        """`ID "text" [JSON]`"""
        request_id, text, *data = shlex.split(rest)
        failure = Failure(text, data[0].encode() if data else None)
        yield from self.receive(MutationResponse(int(request_id), failure, None))

    def do_acted(self, rest: str) -> Iterator[str]:
        """`ID JSON [log line]`"""
        request_id, value, *lines = shlex.split(rest)
        yield from self.receive(ActionResponse(int(request_id), Success(value.encode()), tuple(lines)))

    def do_ping(self, rest: str) -> Iterator[str]:
        yield from self.receive(Ping())

    def do_fatal(self, rest: str) -> Iterator[str]:
        yield from self.receive(FatalError(rest))

    def do_auth_error(self, rest: str) -> Iterator[str]:
        """`VERSION TEXT`: the token that was sent after that version is refused."""
        version, text = rest.split(" ", 1)
        yield from self.receive(AuthError(text, int(version), True))

    def do_expired(self, rest: str) -> Iterator[str]:
        """`VERSION`: the token that was good has ended."""
        yield from self.receive(AuthError("Convex token identity expired", int(rest), False))

    def receive(self, message: ServerMessage) -> Iterator[str]:
        """By way of the wire, so that the codec is in every script."""
        yield from shown(self.machine.receive(codec.decode_server(codec.encode_server(message))))


def alter(store: LocalStore, changes: list[str]) -> None:
    """An optimistic update in words. `refuse` raises ValueError if the value is in the list."""
    for change in changes:
        kind, path, *rest = change.split(" ")
        arguments = json.loads(rest[0]) if rest else {}
        shown = store.get_query(path, arguments)
        match kind:
            case "append" if shown is not None:
                store.set_query(path, arguments, [*shown, json.loads(rest[1])])
            case "set":
                store.set_query(path, arguments, json.loads(rest[1]))
            case "count":
                entries = store.get_all_queries(path)
                store.set_query("counts", {}, [[entry.arguments, len(entry.value)] for entry in entries])
            case "refuse" if shown is not None and json.loads(rest[1]) in shown:
                raise ValueError(f"{rest[1]} is shown already")


def jwt(name: str, claims: dict[str, float]) -> str:
    """Signed by nobody: the client never checks."""
    return f"head.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.{name}"


def modification(text: str) -> Modification:
    kind, query_id, *rest = shlex.split(text, posix=True)
    named = dict(word.split("=", 1) for word in rest if word.startswith(("log=", "journal=")))
    plain = [word for word in rest if not word.startswith(("log=", "journal="))]
    log_lines, journal = (named["log"],) if "log" in named else (), named.get("journal")
    match kind:
        case "updated":
            return QueryUpdated(int(query_id), plain[0].encode(), log_lines, journal)
        case "failed":
            data = plain[1].encode() if len(plain) > 1 else None
            return QueryFailed(int(query_id), plain[0], data, log_lines, journal)
        case "removed":
            return QueryRemoved(int(query_id))
    raise ValueError(text)


def shown(update: Update) -> Iterator[str]:
    for printed in update.logs:
        yield from (f"log {printed.path}: {line}" for line in printed.lines)
    for query_id, result in update.results.items():
        kinds = {Success: "result", Failure: "fault", type(None): "taken back"}
        yield f"{kinds[type(result)]} {query_id}{'' if result is None else ' = ' + outcome(result)}"
    for completion in update.completions:
        names = {Success: "complete", Failure: "failed", Lost: "lost"}
        yield f"{names[type(completion.result)]} {completion.request_id} = {outcome(completion.result)}"
    yield from (f"update failed: {fault}" for fault in update.faults)
    if update.auth is not None:
        yield "auth: confirmed" if update.auth.authenticated else f"auth: given up: {update.auth.error}"


def outcome(result: Success | Failure | Lost) -> str:
    match result:
        case Success(value):
            return value.decode()
        case Failure(message, data):
            return json.dumps(message) + ("" if data is None else f" data {data.decode()}")
        case Lost(message):
            return message
