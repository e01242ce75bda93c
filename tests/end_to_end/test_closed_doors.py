"""An attempt at every door of tokens and keys that should be closed: refused by name, over HTTP and websocket."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Iterator

import pytest

from tests.end_to_end.auth_under_test import assert_refused, auth_error, call, session, sources, value
from tests.oidc_issuer import OidcIssuer, running_issuer, signing_input
from tests.server_thread import ServerThread

UNSIGNED = "Its algorithm (alg) is 'none'"


@pytest.fixture(scope="module")
def issuer() -> Iterator[OidcIssuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def server(issuer: OidcIssuer) -> Iterator[ServerThread]:
    with ServerThread(sources(issuer)) as server:
        yield server


def admin(server: ServerThread, operation: str, key: str | None = None, /, **fields: object) -> dict[str, object]:
    """An operation of the admin API that succeeds."""
    headers = {"Authorization": f"Convex {key or server.admin_key}"}
    reply = server.request("POST", f"/api/admin/{operation}", fields, headers=headers)
    assert reply.status == 200, reply
    answer: dict[str, object] = reply.json
    return answer


def new_key(server: ServerThread, name: str, *, read_only: bool = False) -> str:
    return str(admin(server, "keys/create", name=name, readOnly=read_only)["key"])


# --- Tokens -----------------------------------------------------------------------------------------------------------


def bad_tokens(issuer: OidcIssuer) -> dict[str, tuple[str, str, str]]:
    """By name: the token, the code and a part of the text that it is refused with."""
    key, now_s = issuer.key("RS256"), int(time.time())
    hs256 = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    confused = hmac.digest(key.public_pem, signing_input(hs256, issuer.claims({})), hashlib.sha256)
    header, _, signature = issuer.token(sub="ada").split(".")
    _, of_grace, _ = issuer.token(sub="grace").split(".")
    stranger = OidcIssuer(issuer.url).key("RS256")
    return {
        "expired": (issuer.token(exp=now_s - 60), "Unauthenticated", "The token expired at"),
        "not yet valid": (issuer.token(nbf=now_s + 60), "Unauthenticated", "is not valid before"),
        "for ever": (issuer.token(exp=None), "Unauthenticated", "no time at which it expires"),
        "wrong audience": (issuer.token(aud="another-app"), "NoAuthProvider", "its audience (aud) 'another-app'"),
        "wrong issuer": (issuer.token(iss="https://eve.example"), "NoAuthProvider", "'https://eve.example'"),
        "unsigned": (issuer.forged({"alg": "none", "typ": "JWT"}, b""), "Unauthenticated", UNSIGNED),
        "signature cut off": (
            issuer.forged({"alg": "RS256", "kid": key.kid}, b""),
            "Unauthenticated",
            "not that of the",
        ),
        "HS256 with the public key": (issuer.forged(hs256, confused), "Unauthenticated", "(alg) is 'HS256'"),
        "another user's claims": (f"{header}.{of_grace}.{signature}", "Unauthenticated", "not that of the key"),
        "a stranger's key": (issuer.token(key=stranger, header={"kid": key.kid}), "Unauthenticated", "not that of"),
        "an unknown key": (issuer.token(header={"kid": "made-up"}), "Unauthenticated", "no key for RS256, 'made-up'"),
        "a custom issuer's, of another algorithm": (
            issuer.token(iss="https://custom.example"),
            "Unauthenticated",
            "are signed with ES256",
        ),
        "a logout token": (issuer.token(header={"typ": "logout+jwt"}), "InvalidAuthHeader", "'logout+jwt'"),
        "no token": ("not-a-token", "InvalidAuthHeader", "three parts of base64url"),
    }


NAMES = list(bad_tokens(OidcIssuer("http://127.0.0.1:1")))


@pytest.mark.parametrize("name", NAMES)
def test_bad_tokens(server: ServerThread, issuer: OidcIssuer, name: str) -> None:
    token, code, text = bad_tokens(issuer)[name]
    for kind, path in (("query", "notes:who"), ("mutation", "notes:write"), ("action", "notes:act")):
        assert_refused(call(server, kind, path, f"Bearer {token}"), 401, code, text)
    with session(server) as client:
        client.authenticate(tokenType="User", value=token)
        client.add("notes:who")
        assert text in auth_error(client)
        assert not client.results


def test_headers_that_are_none(server: ServerThread, issuer: OidcIssuer) -> None:
    for header in ("Basic dXNlcg==", "Bearer", issuer.token(), "Token x"):
        assert_refused(call(server, "query", "notes:who", header), 401, "InvalidAuthHeader")
    assert_refused(call(server, "query", "notes:who", "Convex " + issuer.token()), 401, "BadAdminKey")
    reply = server.request("POST", f"/api/query?adminKey={issuer.token()}", {"path": "notes:who", "args": {}})
    assert_refused(reply, 401, "BadAdminKey")


def test_another_users_identity(server: ServerThread, issuer: OidcIssuer) -> None:
    """Neither a claim, nor a header, nor a message makes one user another."""
    claims = {"subject": "grace", "issuer": "eve", "tokenIdentifier": f"{issuer.url}|grace", "impersonating": "grace"}
    acting = base64.b64encode(json.dumps({"tokenIdentifier": f"{issuer.url}|grace"}).encode()).decode()
    token = issuer.token(claims, sub="eve")
    identity = value(call(server, "query", "notes:who", f"Bearer {token}"))
    assert identity["tokenIdentifier"] == f"{issuer.url}|eve"
    assert (identity["subject"], identity["issuer"]) == ("eve", issuer.url)
    value(call(server, "mutation", "notes:write", f"Bearer {issuer.token(sub='grace')}", text="grace's"))
    assert value(call(server, "query", "notes:mine", f"Bearer {token}")) == []
    assert_refused(call(server, "query", "notes:mine", f"Bearer {token}:{acting}"), 401, "InvalidAuthHeader")
    with session(server) as client:
        client.authenticate(
            tokenType="User", value=token, impersonating={"issuer": issuer.url, "subject": "grace"}, acting_as={}
        )
        client.value(client.add("notes:mine"), [])


def test_functions_and_tables_that_are_nobodys_but_the_servers(server: ServerThread, issuer: OidcIssuer) -> None:
    """Internal and missing functions look the same to all users (trap 51); /api/function is an admin's (trap 45)."""
    for header in (None, f"Bearer {issuer.token()}"):
        texts = {}
        for path in ("notes:secret", "notes:missing"):
            reply = call(server, "query", path, header)
            assert (reply.status, reply.json["status"]) == (200, "error")
            texts[path] = reply.json["errorMessage"].partition("Server Error\n")[2].replace(path, "PATH")
        assert texts["notes:secret"] == texts["notes:missing"] == "Could not find public function for 'PATH'."
        reply = server.request(
            "POST",
            "/api/function",
            {"path": "notes:secret", "args": {}},
            headers={"Authorization": header} if header else {},
        )
        assert_refused(reply, 403, "BadDeployKey")
    for path in ("notes:keys", "notes:system_keys"):
        reply = call(server, "query", path)
        assert "SystemTableError" in reply.json["errorMessage"] or "ystem table" in reply.json["errorMessage"], reply


# --- Admin keys -------------------------------------------------------------------------------------------------------


def test_a_full_key_may_all_that_the_first_one_may(server: ServerThread, issuer: OidcIssuer) -> None:
    key = new_key(server, "full")
    assert value(call(server, "query", "notes:secret", f"Convex {key}")) == "nobody"
    grace = {"issuer": issuer.url, "subject": "grace-2"}
    acting = base64.b64encode(json.dumps(grace).encode()).decode()
    assert value(call(server, "query", "notes:secret", f"Convex {key}:{acting}")) == "grace-2"
    assert value(call(server, "mutation", "notes:nested", f"Convex {key}:{acting}")) == ["grace-2"] * 3
    for spelling in ("impersonating", "acting_as"):  # trap 29
        with session(server) as client:
            client.authenticate(tokenType="Admin", value=key, **{spelling: grace})
            client.value(client.add("notes:secret"), "grace-2")
            assert client.mutate("notes:write", text=spelling)["result"] == "grace-2"
    admin(server, "jobs/pause", key)
    admin(server, "jobs/resume", key)
    assert admin(server, "keys/list", key)["keys"]


def test_a_read_only_key_changes_nothing(server: ServerThread) -> None:
    key = new_key(server, "looks", read_only=True)
    assert value(call(server, "query", "notes:secret", f"Convex {key}")) == "nobody"
    headers = {"Authorization": f"Convex {key}"}
    assert server.request("GET", "/api/check_admin_key", headers=headers).json["isReadOnly"] is True
    for operation in ("jobs/list", "crons/list", "statistics", "keys/list"):
        admin(server, operation, key)
    refusal = (403, "ReadOnlyAdminKey", "The admin key 'looks' is read-only")
    assert_refused(call(server, "mutation", "notes:write", f"Convex {key}", text="x"), *refusal)
    assert_refused(call(server, "action", "notes:act", f"Convex {key}"), *refusal)
    for path in ("notes:write", "notes:act"):
        for endpoint in ("/api/function", f"/api/run/{path.replace(':', '/')}"):
            reply = server.request("POST", endpoint, {"path": path, "args": {"text": "x"}}, headers=headers)
            assert_refused(reply, *refusal)
    writes = ("jobs/cancel", "jobs/retry", "jobs/purge", "jobs/pause", "jobs/resume", "crons/run")
    for operation in (*writes, "keys/create", "keys/revoke"):
        assert_refused(server.request("POST", f"/api/admin/{operation}", {"name": "looks"}, headers=headers), *refusal)
    acting = base64.b64encode(b'{"tokenIdentifier": "i|grace"}').decode()
    assert_refused(call(server, "query", "notes:who", f"Convex {key}:{acting}"), *refusal)
    with session(server) as client:
        client.authenticate(tokenType="Admin", value=key)
        client.value(client.add("notes:secret"), "nobody")
        for kind, path in (("Mutation", "notes:write"), ("Action", "notes:act")):
            answer = client.answer(client.request(kind, path, text="x"))
            assert not answer["success"]
            assert "The admin key 'looks' is read-only: it runs queries, and this is" in answer["result"]
    with session(server) as client:
        client.authenticate(tokenType="Admin", value=key, impersonating={"tokenIdentifier": "i|grace"})
        assert auth_error(client) == "The admin key 'looks' is read-only, and acts as nobody."


def test_a_revoked_key_is_worth_nothing_at_once(server: ServerThread) -> None:
    key, other = new_key(server, "short-lived"), new_key(server, "other")
    with session(server) as client, session(server) as stays:
        client.authenticate(tokenType="Admin", value=key)
        client.value(client.add("notes:secret"), "nobody")
        stays.authenticate(tokenType="Admin", value=other)
        stays.value(stays.add("notes:secret"), "nobody")
        admin(server, "keys/revoke", name="short-lived")
        assert auth_error(client, attempted=False) == "The admin key 'short-lived' has been revoked."
        assert stays.mutate("notes:write", text="x")["success"]
    assert_refused(call(server, "query", "notes:secret", f"Convex {key}"), 401, "BadAdminKey")
    assert_refused(call(server, "query", "notes:everything", f"Convex {key}"), 401, "BadAdminKey")
    with session(server) as client:
        client.authenticate(tokenType="Admin", value=key)
        assert "admin key is not this server's" in auth_error(client)
    headers = {"Authorization": f"Convex {server.admin_key}"}
    reply = server.request("POST", "/api/admin/keys/revoke", {"name": "short-lived"}, headers=headers)
    assert_refused(reply, 400, "BadRequest", "There is no admin key 'short-lived'.")


@pytest.mark.parametrize("change", ["", "0", "prefix", "hash", "upper"])
def test_what_is_almost_a_key(server: ServerThread, change: str) -> None:
    name = f"almost-{change}"
    secret = new_key(server, name).partition("|")[2]
    wrong = {
        "": "",
        "0": secret[:-1] + ("0" if secret[-1] != "0" else "1"),
        "prefix": secret[:32],
        "hash": hashlib.sha256(secret.encode()).hexdigest(),
        "upper": secret.upper() + "A",
    }[change]
    assert_refused(call(server, "query", "notes:who", f"Convex evolute|{wrong}"), 401, "BadAdminKey")


def test_no_secret_is_logged_or_shown(
    server: ServerThread, issuer: OidcIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, token, bad = new_key(server, "quiet"), issuer.token(sub="quiet"), issuer.token(sub="quiet", aud="x")
    texts = []
    for header in (f"Convex {key}", f"Convex {key}x", f"Bearer {token}", f"Bearer {bad}", key, f"Convex {token}"):
        texts.append(call(server, "query", "notes:who", header).body.decode())
    for fields in ({"tokenType": "Admin", "value": key + "x"}, {"tokenType": "User", "value": bad}):
        with session(server) as client:
            client.authenticate(**fields)
            texts.append(auth_error(client))
    texts.append(json.dumps(admin(server, "keys/list")))
    whole = "\n".join([*texts, caplog.text])
    for secret in (key.partition("|")[2], server.admin_key.partition("|")[2], token, bad, bad.rpartition(".")[2]):
        assert secret not in whole
        assert hashlib.sha256(secret.encode()).hexdigest() not in whole
