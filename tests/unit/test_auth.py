"""The admin key's file, and who the bearer of a token or a header is."""

from __future__ import annotations

import asyncio
import base64
import stat
from pathlib import Path

import pytest

from evolute.auth.fetch import HttpFetcher
from evolute.auth.token_verifier import TokenVerifier
from evolute.clock import ManualClock
from evolute.errors import BadAdminKey, DiskFault, NoAuthProvider, Unauthorized
from evolute.limits import Limits
from evolute.protocol.messages import AdminToken, NoToken, UserToken
from evolute.registry.auth_providers import AuthProvider
from evolute.server.auth import Authenticator, read_or_create_admin_key
from evolute.sync.identity import ANONYMOUS, Identity

KEY = "evolute|0123abcd"


def authenticator_of(key: str, *providers: AuthProvider) -> Authenticator:
    limits = Limits()
    verifier = TokenVerifier(lambda: providers, ManualClock(), limits, HttpFetcher(limits).get)
    return Authenticator(key, lambda secret: None, verifier)


def bearer(authenticator: Authenticator, header: str | None) -> Identity:
    async def found() -> Identity:
        identity = authenticator.identity_of_header(header)
        return identity if isinstance(identity, Identity) else await identity

    return asyncio.run(found())


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin_key"
    key = read_or_create_admin_key(path)
    assert read_or_create_admin_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["admin_key"]
    name, secret = key.split("|")
    assert name == "evolute"
    assert len(bytes.fromhex(secret)) == 32
    assert read_or_create_admin_key(tmp_path / "another") != key


@pytest.mark.parametrize("text", ["", "evolute|", "evolute|a:b", "\xff"])
def test_a_file_without_a_key_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "admin_key"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DiskFault, match="admin_key"):
        read_or_create_admin_key(path)


@pytest.mark.parametrize("written", [KEY, "0123abcd", "prod:name|0123abcd", "preview:team:project|name|0123abcd"])
def test_only_the_secret_counts(written: str) -> None:
    authenticator = authenticator_of(KEY)
    assert authenticator.identity_of(AdminToken(written)) == Identity(None, is_admin=True)
    assert bearer(authenticator, f"Convex {written}") == Identity(None, is_admin=True)


@pytest.mark.parametrize("written", ["", "|", "evolute|", "evolute|0123abce", "0123abcd|x", "evolute|0123abcdé"])
def test_any_other_secret_is_refused(written: str) -> None:
    authenticator = authenticator_of(KEY)
    with pytest.raises(BadAdminKey):
        authenticator.identity_of(AdminToken(written))
    with pytest.raises(BadAdminKey):
        bearer(authenticator, f"Convex {written}")


def test_users_are_nobody_without_a_provider() -> None:
    authenticator = authenticator_of(KEY)
    assert authenticator.identity_of(NoToken()) == ANONYMOUS
    assert bearer(authenticator, None) == ANONYMOUS
    with pytest.raises(NoAuthProvider):
        authenticator.identity_of(UserToken("a.b.c"))
    with pytest.raises(NoAuthProvider):
        bearer(authenticator, "Bearer a.b.c")
    for header in ("", "Basic dXNlcg==", KEY):
        with pytest.raises(Unauthorized):
            bearer(authenticator, header)


def test_an_admin_acts_as_a_user() -> None:
    authenticator = authenticator_of(KEY)
    named = b'{"name":"n","tokenIdentifier":"t"}'
    assert authenticator.identity_of(AdminToken(KEY, named)) == Identity(named, is_admin=True)
    issued = Identity(b'{"issuer":"i","subject":"s","tokenIdentifier":"i|s"}', is_admin=True)
    assert authenticator.identity_of(AdminToken(KEY, b'{"issuer":"i","subject":"s"}')) == issued
    encoded = base64.b64encode(b'{"subject": "s", "issuer": "i"}').decode()
    assert bearer(authenticator, f"Convex prod:{KEY}:{encoded}") == issued
    with pytest.raises(Unauthorized, match="tokenIdentifier"):
        authenticator.identity_of(AdminToken(KEY, b'{"subject":"s"}'))
    with pytest.raises(BadAdminKey):
        authenticator.identity_of(AdminToken("evolute|wrong", named))
    for encoded in ("", "%%%", base64.b64encode(b"no json").decode(), base64.b64encode(b"[]").decode()):
        with pytest.raises(Unauthorized):
            bearer(authenticator, f"Convex {KEY}:{encoded}")
