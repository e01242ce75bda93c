"""Users' tokens, end to end: who functions see, who shares a result, what a client that holds a token lives through."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from evolute.limits import Limits
from tests.end_to_end.auth_under_test import SCHEMA, auth_error, call, session, sources, value
from tests.oidc_issuer import JWKS, LIFETIME_S, OidcIssuer, running_issuer
from tests.server_thread import ServerThread


@pytest.fixture(scope="module")
def issuer() -> Iterator[OidcIssuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def server(issuer: OidcIssuer) -> Iterator[ServerThread]:
    with ServerThread(sources(issuer)) as server:
        yield server


def test_every_kind_of_function_and_what_it_calls_knows_the_caller(server: ServerThread, issuer: OidcIssuer) -> None:
    bearer = f"Bearer {issuer.token(sub='grace', name='Grace')}"
    assert value(call(server, "query", "notes:who", bearer)) == {
        "tokenIdentifier": f"{issuer.url}|grace",
        "issuer": issuer.url,
        "subject": "grace",
        "name": "Grace",
    }
    assert value(call(server, "query", "notes:who")) is None
    assert value(call(server, "mutation", "notes:nested", bearer)) == ["grace"] * 3
    assert value(call(server, "action", "notes:act", bearer)) == ["grace"] * 3
    assert value(call(server, "action", "notes:block", bearer)) == ["grace"] * 2
    assert value(call(server, "mutation", "notes:nested")) == ["nobody"] * 3
    custom = issuer.token(algorithm="ES256", iss="https://custom.example", aud=None, given_name="Ida")
    assert value(call(server, "query", "notes:who", f"Bearer {custom}"))["given_name"] == "Ida"


def test_nobody_is_logged_in_in_what_a_user_schedules(server: ServerThread, issuer: OidcIssuer) -> None:
    with session(server) as client:
        client.authenticate(tokenType="User", value=issuer.token(sub="scheduler"))
        mine, all_notes = client.add("notes:mine"), client.add("notes:everything")
        client.value(mine, [])
        client.mutate("notes:write_later", text="by a job")
        client.until(lambda: "by a job" in client.result(all_notes)["value"])
        assert client.result(mine)["value"] == []


def runs(server: ServerThread) -> int:
    return server.backend.executor.query_cache.statistics().runs


def test_only_who_asks_who_is_calling_has_a_result_of_his_own(server: ServerThread, issuer: OidcIssuer) -> None:
    """T12: two users of a query that does not ask share one run; asking makes it two."""
    users = [f"Bearer {issuer.token(sub=name)}" for name in ("t12-a", "t12-b")]
    value(call(server, "mutation", "notes:write", text="t12"))
    for path, expected in (("notes:everything", 1), ("notes:who", 2), ("notes:mine", 2)):
        before = runs(server)
        for user in [*users, *users]:
            value(call(server, "query", path, user))
        assert runs(server) - before == expected, path
    # A token that is refreshed finds the result of the one before.
    before = runs(server)
    value(call(server, "query", "notes:mine", f"Bearer {issuer.token(sub='t12-a', jti='x', iat=int(time.time()) - 9)}"))
    assert runs(server) == before


def test_a_session_logs_in_changes_its_token_and_logs_out(server: ServerThread, issuer: OidcIssuer) -> None:
    with session(server) as client:
        client.authenticate(tokenType="User", value=issuer.token(sub="s1"))
        who = client.add("notes:who")
        client.until(lambda: client.result(who).get("value", {})["subject"] == "s1")
        assert client.version["identity"] == 1
        client.authenticate(tokenType="User", value=issuer.token(sub="s1", jti="2"))
        assert client.transition()["modifications"] == [], "the identity alone: nobody's results have changed"
        assert client.version["identity"] == 2
        # The mutation is asked by whoever was logged in when it was sent (trap 21).
        request = client.request("Mutation", "notes:write", text="s1")
        client.authenticate(tokenType="None")
        assert client.answer(request)["result"] == "s1"
        client.value(who, None)
        assert client.mutate("notes:write", text="s1")["result"] == "nobody"


def test_what_comes_behind_a_token_waits_while_keys_are_fetched(issuer: OidcIssuer) -> None:
    with ServerThread(sources(issuer)) as server, session(server) as client, session(server) as other:
        issuer.gate.clear()
        client.authenticate(tokenType="User", value=issuer.token(sub="w1"))
        who = client.add("notes:who")
        request = client.request("Mutation", "notes:write", text="w1")
        assert other.mutate("notes:write", text="w0")["result"] == "nobody", "others are not kept waiting"
        issuer.gate.set()
        assert client.answer(request)["result"] == "w1"
        client.until(lambda: client.result(who).get("value", {})["subject"] == "w1")


def test_a_token_that_expires_ends_the_session_when_something_is_asked(issuer: OidcIssuer) -> None:
    with (
        ServerThread(sources(issuer)) as server,
        session(server) as asking,
        session(server) as watching,
        session(server) as idle,
    ):
        for client in (asking, watching, idle):
            client.authenticate(tokenType="User", value=issuer.token(sub="e1"))
            client.value(client.add("notes:mine"), [])
        server.clock.shift_s = LIFETIME_S + 60
        late = {"iat": int(time.time()) + LIFETIME_S, "exp": int(time.time()) + 3 * LIFETIME_S}
        asking.request("Mutation", "notes:write", text="e1")
        assert auth_error(asking, attempted=False) == "Convex token identity expired"
        # Nobody has told this one. A new token in time for its next question is all it takes.
        idle.authenticate(tokenType="User", value=issuer.token(late, sub="e1"))
        # A commit touches what they read: the one whose token has expired finds out when it is to be told.
        assert idle.mutate("notes:write", text="e2")["result"] == "e1"
        idle.value(0, ["e2"])
        assert auth_error(watching, attempted=False) == "Convex token identity expired"


def test_keys_that_cannot_be_had_are_no_fault_of_the_token(issuer: OidcIssuer) -> None:
    """The client is to come again, and not to log its user out; over HTTP it is told the same."""
    with ServerThread(sources(issuer), Limits(issuer_refetch_ms_min=1)) as server:
        issuer.failing = True
        try:
            with session(server) as client:
                client.authenticate(tokenType="User", value=issuer.token())
                assert client.closed() == (1013, "AuthIssuerUnavailable")
                assert [message["type"] for message in client.heard] == []
            reply = call(server, "query", "notes:who", f"Bearer {issuer.token()}")
            assert (reply.status, reply.json["code"]) == (503, "AuthIssuerUnavailable")
            assert f"{issuer.url} cannot be had at the moment" in reply.json["message"]
            assert value(call(server, "query", "notes:who")) is None
        finally:
            issuer.failing = False
        assert value(call(server, "query", "notes:who", f"Bearer {issuer.token()}"))["subject"] == "ada"


def test_a_key_that_is_turned(issuer: OidcIssuer) -> None:
    with ServerThread(sources(issuer), Limits(issuer_refetch_ms_min=1)) as server:
        value(call(server, "query", "notes:who", f"Bearer {issuer.token()}"))
        fetches = issuer.fetches[JWKS]
        issuer.rotate("RS256")
        value(call(server, "query", "notes:who", f"Bearer {issuer.token()}"))
        assert issuer.fetches[JWKS] == fetches + 1


def test_providers_are_reloaded_with_the_code(issuer: OidcIssuer) -> None:
    with ServerThread({"schema.py": SCHEMA, "notes.py": sources(issuer)["notes.py"]}) as server:
        bearer = f"Bearer {issuer.token()}"
        assert call(server, "query", "notes:who", bearer).json["code"] == "NoAuthProvider"
        server.save("auth_config.py", sources(issuer)["auth_config.py"])
        assert value(call(server, "query", "notes:who", bearer))["subject"] == "ada"
