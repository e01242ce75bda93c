"""Golden scripts: what the server's session sends and asks for, step by step.

A script is a sequence of steps. A line that begins with `> ` is a command; the lines under it, up to the next command,
comment or empty line, are exactly what must come of it:

    send {…}                        a message to the client, as on the wire, but with timestamps as numbers
    mutation 0 m:send {…} …         a mutation starts; `action` likewise; by whom, and the session's key
    compute from 7: …; held: …      results are needed, of at least timestamp 7
    await burst, retry …, close …   the other effects

The clock stands at 1000 ms and the server's latest timestamp is 100, unless a command says otherwise or shows a later
one. Tokens are looked at at once: `ada` is Ada's, `ada@2000` until 2000 ms. Only for `later …` something must be
fetched, and `verify` comes, until `verified` or `refused` says what the token is worth. With SCRIPTS_REWRITE=1 in the
environment the scripts take on what came.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from evolute.clock import NS_PER_MS
from evolute.database.read_set import ReadSet
from evolute.errors import BadAdminKey, NoAuthProvider, Unauthorized
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call, CallError, CallResult, Outcome
from evolute.limits import Limits
from evolute.protocol.messages import AdminToken, NoToken, Token, UserToken
from evolute.sync.effects import (
    AwaitBurst,
    Close,
    Compute,
    Effect,
    RetryLater,
    Send,
    StartAction,
    StartMutation,
    Verify,
)
from evolute.sync.identity import ANONYMOUS, Identity
from evolute.sync.session import Session
from evolute.sync.transition import Disclosure

SCRIPTS = Path(__file__).parent / "sessions"
NOW_NS = 1_000_000_000
PUBLISHED_TS = 100


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda script: script.stem)
def test_script(script: Path) -> None:
    driver = Driver()
    played = []
    for kind, text in lines_of(script.read_text()):
        played.append(text)
        if kind == "command":
            played.extend(driver.perform(text.removeprefix("> ")))
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


class Driver:
    """Stands where `connection` stands: commands are what happened, the effects are printed instead of performed."""

    def __init__(self) -> None:
        self.results: dict[str, QueryResult] = {}
        self.computed: Compute | None = None
        self.retries: list[RetryLater] = []
        self.do_session("")

    def perform(self, command: str) -> Iterator[str]:
        name, _, rest = command.partition(" ")
        for effect in getattr(self, f"do_{name}")(rest) or ():
            if isinstance(effect, Verify) and not is_slow(effect.token):
                yield from map(self.shown, self.verified(effect.token))
            else:
                yield self.shown(effect)

    def verified(self, token: Token) -> list[Effect]:
        try:
            return self.session.authenticated(identity_of(token))
        except Unauthorized as error:
            return self.session.refused(str(error))

    def do_session(self, rest: str) -> None:
        """A new connection: `redact`, or a limit like `session_mutations_max=2`."""
        words = rest.split()
        limits = Limits(**{name: int(value) for name, _, value in (word.partition("=") for word in words) if value})
        disclosure = Disclosure(redact="redact" in words, new_request_id=lambda: "0123456789abcdef")
        self.session = Session(limits=limits, disclosure=disclosure, on_dirty=lambda: None)
        self.now_ns = NOW_NS
        self.published_ts = PUBLISHED_TS

    def do_now(self, rest: str) -> None:
        """The clock stands at so many milliseconds."""
        self.now_ns = int(rest) * NS_PER_MS

    def do_published(self, rest: str) -> None:
        """So late is it, for all that anybody else has committed."""
        self.published_ts = int(rest)

    def do_revoked(self, rest: str) -> list[Effect]:
        """The admin key of that name."""
        return self.session.key_revoked(rest)

    def do_verified(self, rest: str) -> list[Effect]:
        """The token that took its time is that of `ada` or `ada@2000`."""
        return self.verified(UserToken(rest))

    def do_refused(self, rest: str) -> list[Effect]:
        return self.session.refused(rest)

    def do_client(self, rest: str) -> list[Effect]:
        return self.session.receive(rest, now_ns=self.now_ns, published_ts=PUBLISHED_TS)

    def do_binary(self, rest: str) -> list[Effect]:
        return self.session.receive(rest.encode(), now_ns=NOW_NS, published_ts=PUBLISHED_TS)

    def do_turn(self, rest: str) -> list[Effect]:
        """The event loop turns, and no input is waiting."""
        return self.session.begin(now_ns=self.now_ns, published_ts=self.published_ts)

    def do_burst_over(self, rest: str) -> list[Effect]:
        return self.session.burst_over()

    def do_committed(self, rest: str) -> None:
        self.published_ts = int(rest)
        self.session.mutation_committed(self.published_ts)

    def do_mutated(self, rest: str) -> list[Effect]:
        """`TS VALUE [; log line]…`, or `failed MESSAGE [; data DATA] [; log line]…`"""
        outcome = outcome_of(rest)
        self.published_ts = max(self.published_ts, outcome.ts)
        return self.session.mutation_done(outcome, now_ns=self.now_ns, published_ts=self.published_ts)

    def do_acted(self, rest: str) -> list[Effect]:
        """`REQUEST` and then as for `mutated`."""
        request_id, rest = rest.split(" ", 1)
        return self.session.action_done(int(request_id), outcome_of(rest))

    def do_results(self, rest: str) -> list[Effect]:
        """`TS [; m:list {} = VALUE | m:list {} ! [code CODE] MESSAGE]…`: the computation ends at TS."""
        assert self.computed is not None
        ts, *answers = rest.split(" ; ")
        wanted = {named(call): call for call in self.computed.stale}
        wanted |= {named(result.call): result.call for result in self.computed.held}
        results: dict[Call, QueryResult] = {}
        for answer in answers:
            query, value, error = answer, None, None
            if " = " in answer:
                query, text = answer.split(" = ", 1)
                value = text.encode()
            else:
                query, text = answer.split(" ! ", 1)
                error = CallError(text)
                if text.startswith("code "):
                    _, code, text = text.split(" ", 2)
                    error = CallError(text, code=code)
            call = wanted[query]
            results[call] = self.results[query] = QueryResult(
                call, CallResult(value, error, ("[LOG] 'ran'",), ReadSet()), int(ts), 0
            )
        self.computed = None
        self.published_ts = max(self.published_ts, int(ts))
        return self.session.results_ready(int(ts), results, now_ns=NOW_NS)

    def do_touch(self, rest: str) -> None:
        """A commit touches what these queries read: the query cache's part."""
        for query in rest.split(" ; "):
            result = self.results[query]
            result.become_broken(result.begin_ts + 1)

    def do_sent(self, rest: str) -> list[Effect]:
        """The socket has taken the Transition."""
        return self.session.transition_sent()

    def do_retry(self, rest: str) -> list[Effect]:
        retry = self.retries.pop(0)
        return self.session.retry_due(retry.query_id, retry.result)

    def do_finish(self, rest: str) -> list[Effect]:
        """The server is asked to stop."""
        return self.session.finish()

    def do_gone(self, rest: str) -> None:
        """The socket is gone; nothing may be held any more."""
        self.session.close()
        assert not any(result.held for result in self.results.values())

    def shown(self, effect: Effect) -> str:
        match effect:
            case Send(message, is_transition):
                text = readable(message)
                assert is_transition == ('"type":"Transition"' in text)
                return f"send {text}"
            case StartMutation(request_id, call):
                return f"mutation {request_id} {called(call)}"
            case StartAction(request_id, call):
                return f"action {request_id} {called(call)}"
            case Compute(stale, held, at_least_ts):
                self.computed = effect
                held_names = ", ".join(named(result.call) for result in held)
                return f"compute from {at_least_ts}: {', '.join(map(called, stale))}; held: {held_names}".rstrip()
            case AwaitBurst():
                return "await burst"
            case Verify(token):
                assert isinstance(token, UserToken)
                return f"verify {token.value}"
            case RetryLater(query_id, _, delay_ms):
                self.retries.append(effect)
                return f"retry {query_id} after {delay_ms} ms"
            case Close(code, reason):
                return f"close {code} {reason}".rstrip()


def identity_of(token: Token) -> Identity:
    match token:
        case NoToken():
            return ANONYMOUS
        case AdminToken("demo|looks"):
            return Identity(is_admin=True, key_name="looks", is_read_only=True)
        case AdminToken("demo|secret", acting_as):
            return Identity(acting_as, is_admin=True)
        case AdminToken():
            raise BadAdminKey("The admin key is wrong.")
        case UserToken(value):
            return user_of(value)


def is_slow(token: Token) -> bool:
    return isinstance(token, UserToken) and token.value.startswith("later ")


def user_of(token: str) -> Identity:
    name, _, until_ms = token.partition("@")
    if not name.isalpha():
        raise NoAuthProvider("No auth provider is configured.")
    identity = {"issuer": "i", "subject": name, "tokenIdentifier": f"i|{name}"}
    return Identity(orjson.dumps(identity), expires_ns=int(until_ms) * NS_PER_MS if until_ms else None)


def outcome_of(text: str) -> Outcome:
    head, *rest = text.split(" ; ")
    data = next((item.removeprefix("data ").encode() for item in rest if item.startswith("data ")), None)
    log_lines = tuple(item.removeprefix("log ") for item in rest if item.startswith("log "))
    first, _, tail = head.partition(" ")
    if first == "failed":
        return Outcome(None, CallError(tail, data), log_lines, 0)
    return Outcome(tail.encode(), None, log_lines, int(first))


def named(call: Call) -> str:
    return f"{call.path} {call.arguments.decode()}"


def called(call: Call) -> str:
    caller = "public" if call.public_only else "admin"
    if call.identity is not None:
        caller += f" as {call.identity.decode()}"
    session = "" if call.session is None else f" once as {call.session[0][:8]}|{call.session[1]}"
    return f"{named(call)} ({caller}{session})"


def readable(message: bytes) -> str:
    """The message with its timestamps as numbers."""

    def walk(tree: object) -> object:
        if isinstance(tree, dict):
            return {name: number(item) if name == "ts" else walk(item) for name, item in tree.items()}
        return [walk(item) for item in tree] if isinstance(tree, list) else tree

    def number(ts: str | None) -> int | None:
        return None if ts is None else int.from_bytes(base64.b64decode(ts), "little")

    return orjson.dumps(walk(orjson.loads(message))).decode()
