"""The client's state machine lives through the server's golden scripts, `sessions/*.txt`.

It is brought to say what the script's client says: its messages have to be the same. It hears what the script's server
says, and has to show and complete exactly what follows from that. What our client would never say ends a session's
replay; `OTHERS` names those sessions and says why, so that nothing is left out unseen. Who writes a script for the
server whose client is not ours puts it there.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from evolute.protocol import codec
from evolute.protocol.messages import (
    ActionResponse,
    AdminToken,
    AuthError,
    Failure,
    MutationResponse,
    QueryFailed,
    QueryRemoved,
    QueryUpdated,
    ServerMessage,
    Success,
    Transition,
)
from evolute_client.authentication import FetchToken
from evolute_client.errors import RequestRefused
from evolute_client.local_store import Result
from evolute_client.remote_results import ProtocolBroken
from evolute_client.state_machine import StateMachine, Update

SCRIPTS = Path(__file__).parent / "sessions"
SESSION_ID = "f16a2aae-fe67-48a4-9eea-6efd82f2b3b9"
LIVED_THROUGH_MIN = 18
NO_CONNECT = "our client begins with Connect"
CHANGES_KEY = "the key is given when our client is made; it is not put in the place of another identity"
NOBODY = "our client does not say that it is nobody, unless it was somebody on this connection"
NO_PROTOCOL = "our client speaks the protocol"
OTHERS: dict[str, dict[int, str]] = {
    "finish": {1: NO_CONNECT},
    "identity": {0: CHANGES_KEY, 2: NOBODY},
    "mutation": {1: NO_CONNECT},
    "mutation_order": {0: CHANGES_KEY, 3: "our client's first request is 0"},
    "opening_burst": {0: NOBODY, 1: NOBODY},
    "queries": {0: "equal queries are one query to our client"},
    "query_failures": {0: "our client's calls have one object of named arguments"},
    "token_expiry": {2: NO_CONNECT},
    "token_verification": {2: NO_CONNECT},
    "version_chain": {0: NOBODY, 1: NO_CONNECT, 2: "our client's versions go up by one"},
    "violations": {
        **dict.fromkeys((0, 1, 5), NO_PROTOCOL),
        **dict.fromkeys((2, 3, 4, 6, 7, 8, 9, 10, 12, 15, 16), NO_CONNECT),
        11: "our client says Connect once",
    },
}


class SaysOtherwise(Exception):
    """Our client would not say this here."""


def sessions_of(script: Path) -> list[list[str]]:
    """The lines of each session: those of the client, and those that the server sends."""
    sessions: list[list[str]] = [[]]
    for line in script.read_text().splitlines():
        if line == "> session" or line.startswith("> session "):
            sessions.append([])
        elif line.startswith(("> client ", "> binary ", "send ", "close ")):
            sessions[-1].append(line)
    return [session for session in sessions if session]


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda script: script.stem)
def test_script(script: Path) -> None:
    others: dict[int, str] = {}
    for number, session in enumerate(sessions_of(script)):
        try:
            Replay().play(session)
        except SaysOtherwise as difference:
            others[number] = str(difference)
    assert others.keys() == OTHERS.get(script.stem, {}).keys(), others


def test_a_good_part_of_them_is_ours() -> None:
    total = sum(len(sessions_of(script)) for script in SCRIPTS.glob("*.txt"))
    left_out = sum(len(numbers) for numbers in OTHERS.values())
    assert total - left_out >= LIVED_THROUGH_MIN, (total, left_out)


class Replay:
    """One session, and a plain model of what the client has to make of what it hears."""

    def __init__(self) -> None:
        self.machine = StateMachine(SESSION_ID)
        self.shown: dict[int, Result] = {}
        self.answered: dict[int, tuple[int, Success]] = {}
        self.ts = 0
        self.is_over = False

    def play(self, lines: list[str]) -> None:
        for burst in bursts_of(lines):
            if self.is_over:
                return  # whatever the script's client still says, nobody hears it
            if burst[0].startswith("> "):
                messages = [parsed(line.removeprefix("> client ")) for line in burst]
                for together in moments_of(messages):
                    self.say(together)
            else:
                for line in burst:
                    self.hear(line)

    # --- What the client says ---

    def say(self, messages: list[dict[str, Any]]) -> None:
        kinds = [message["type"] for message in messages]
        if not self.machine.is_connected and kinds[0] != "Connect":
            raise SaysOtherwise("our client begins with Connect")
        for message in messages:
            self.do(message)
        if kinds[0] == "Connect" and not self.machine.is_connected:
            self.machine.connected()
        said = [orjson.loads(codec.encode_client(message)) for message in self.machine.take_outgoing()]
        if kinds[0] == "Connect" and "ModifyQuerySet" not in kinds:
            said = [message for message in said if message["type"] != "ModifyQuerySet"]  # ours: nothing is wanted
        if [comparable(message) for message in said] != [comparable(message) for message in messages]:
            raise SaysOtherwise(f"our client says {said} where the script's says {messages}")

    def do(self, message: dict[str, Any]) -> None:
        """What makes our client say this."""
        match message:
            case {"type": "Connect"}:
                return
            case {"type": "Mutation" | "Action", "requestId": _, "udfPath": path, "args": [arguments]}:
                make = self.machine.mutation if message["type"] == "Mutation" else self.machine.action
                make(path, orjson.dumps(arguments))
            case {"type": "ModifyQuerySet", "modifications": list(changes)}:
                for change in changes:
                    self.change(change)
            case {"type": "Authenticate", "tokenType": "User", "value": str(token)}:
                if not isinstance(self.machine.wanted, FetchToken):
                    self.machine.begin_auth()
                self.machine.token_fetched(token)
            case {"type": "Authenticate", "tokenType": "None"}:
                self.machine.clear_auth()
            case {"type": "Authenticate", "tokenType": "Admin", "value": str(key)} if not self.machine.is_connected:
                self.machine = StateMachine(SESSION_ID, token=AdminToken(key))
            case _:
                raise SaysOtherwise(f"our client never says {message}")

    def change(self, change: dict[str, Any]) -> None:
        match change:
            case {"type": "Add", "queryId": query_id, "udfPath": str(path), "args": [dict(arguments)]}:
                if self.machine.subscribe(path, orjson.dumps(arguments)) != query_id:
                    raise SaysOtherwise("equal queries are one query to our client")
            case {"type": "Remove", "queryId": query_id} if query_id in self.machine._queries:
                self.machine.unsubscribe(query_id)
                self.shown.pop(query_id, None)
            case _:
                raise SaysOtherwise(f"our client never says {change}")

    # --- What it hears ---

    def hear(self, line: str) -> None:
        if line.startswith("close "):
            self.is_over = True
            if self.machine.is_connected:
                self.machine.disconnected(line)
            return
        message = codec.decode_server(orjson.dumps(on_the_wire(orjson.loads(line.removeprefix("send ")))))
        try:
            update = self.machine.receive(message)
        except (ProtocolBroken, RequestRefused):
            assert isinstance(message, AuthError), message
            return
        self.check(message, update)

    def check(self, message: ServerMessage, update: Update) -> None:
        complete = {completion.request_id: completion.result for completion in update.completions}
        match message:
            case Transition():
                self.ts = message.end.ts
                ripe = {number: success for number, (ts, success) in self.answered.items() if ts <= message.end.ts}
                assert complete == ripe
                self.answered = {key: value for key, value in self.answered.items() if key not in ripe}
                self.check_results(message, update)
            case MutationResponse(number, Success() as success, int(ts)) if ts > self.ts:
                self.answered[number] = ts, success
                assert complete == {}, "not before a Transition shows it"
            case MutationResponse(number, result) | ActionResponse(number, result):
                assert complete == {number: result}

    def check_results(self, message: Transition, update: Update) -> None:
        told: dict[int, Result] = {}
        for modification in message.modifications:
            match modification:
                case QueryUpdated(query_id, value):
                    told[query_id] = Success(value)
                case QueryFailed(query_id, text, data):
                    told[query_id] = Failure(text, data)
                case QueryRemoved(query_id):
                    self.shown.pop(query_id, None)
        live = {query_id: result for query_id, result in told.items() if query_id in self.machine._queries}
        assert update.results == live
        self.shown |= live
        for query_id, result in self.shown.items():
            assert self.machine.result(query_id) == result


def bursts_of(lines: list[str]) -> Iterator[list[str]]:
    """What is said by one side before the other says something."""
    burst: list[str] = []
    for line in lines:
        if burst and line.startswith("> ") != burst[0].startswith("> "):
            yield burst
            burst = []
        burst.append(line)
    yield burst


def parsed(text: str) -> dict[str, Any]:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        message = None
    if not isinstance(message, dict) or "type" not in message:
        raise SaysOtherwise("our client speaks the protocol")
    return message


def moments_of(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """What our client says at once: all that it begins with, then each message by itself."""
    opening = 0
    if messages[0]["type"] == "Connect":
        opening = 1
        while opening < len(messages) and messages[opening]["type"] in ("Authenticate", "ModifyQuerySet"):
            opening += 1
            if messages[opening - 1]["type"] == "ModifyQuerySet":
                break
        yield messages[:opening]
    for message in messages[opening:]:
        yield [message]


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Without what is the clock's or only diagnostic; a component of no name is none."""
    if message["type"] == "Connect":
        return {"type": "Connect", "sessionId": message["sessionId"]}
    return {name: value for name, value in message.items() if (name, value) != ("componentPath", "")}


def on_the_wire(tree: Any) -> Any:
    """The scripts have timestamps as numbers."""
    if isinstance(tree, dict):
        return {name: as_ts(value) if name == "ts" else on_the_wire(value) for name, value in tree.items()}
    return [on_the_wire(item) for item in tree] if isinstance(tree, list) else tree


def as_ts(number: int | None) -> str | None:
    return None if number is None else base64.b64encode(number.to_bytes(8, "little")).decode()
