"""Credentials: the admin key, users' tokens, and what a token or an Authorization header makes of its bearer.

The admin key is made at the first start and kept in the data folder, for the owner's eyes only: whoever has it may call
internal functions and act as any user. Further keys are `execution/key_ring.py`'s. None appears in a log. A key is
written `evolute|<secret>`; only the secret counts, so that the names which tools put before it do no harm. The secret
holds no `:`, because `Convex <key>:<base64 of JSON>` is how HTTP callers act as a user.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from evolute.auth.token_verifier import TokenVerifier, VerifiedUser
from evolute.clock import random_bytes
from evolute.errors import BadAdminKey, DiskFault, InvalidAuthHeader, InvalidValue, KeyIsReadOnly, Unauthorized
from evolute.execution.key_ring import KEY_PREFIX, SECRET_BYTES, FoundKey, digest_of
from evolute.protocol.messages import AdminToken, NoToken, Token, UserToken
from evolute.sync.identity import ANONYMOUS, Identity
from evolute.values import wire_codec


def read_or_create_admin_key(path: Path) -> str:
    """The key in the file at `path`, which is made, readable by its owner alone, if there is none. Raises DiskFault."""
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        key = KEY_PREFIX + random_bytes(SECRET_BYTES).hex()
        _write_for_owner(path, key)
    except (OSError, UnicodeDecodeError) as error:
        raise DiskFault(f"The admin key in {path} cannot be read: {error}") from error
    if not _secret_of(key) or ":" in _secret_of(key):
        raise DiskFault(f"{path} holds no admin key. Remove the file, and the next start makes a new one.")
    return key


def _write_for_owner(path: Path, text: str) -> None:
    """Whole or not at all: a start that is cut short must not leave an empty key."""
    draft = path.with_suffix(".draft")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise DiskFault(f"The admin key cannot be written to {path}: {error}") from error


FindKey: TypeAlias = Callable[[str], FoundKey | None]
"""The admin key with a secret."""


class Authenticator:
    """Knows the admin keys, and who the bearer of a token is."""

    def __init__(self, admin_key: str, find_key: FindKey, verifier: TokenVerifier) -> None:
        """`find_key` knows the admin keys beside `admin_key`."""
        self._find_key = find_key
        self._verifier = verifier
        self._digest = digest_of(_secret_of(admin_key))

    def identity_of(self, token: Token) -> Identity | Awaitable[Identity]:
        """Now, unless the keys of a token's issuer have to be fetched first.

        Raises, or lets the Awaitable raise, Unauthorized; and IssuerUnavailable if nobody knows what a token is worth.
        """
        match token:
            case NoToken():
                return ANONYMOUS
            case UserToken(value):
                user = self._verifier.verify(value)
                return _identity_of(user) if isinstance(user, VerifiedUser) else _wait_identity_of(user)
            case AdminToken(key, acting_as):
                return self._admin(_secret_of(key), acting_as)

    def _admin(self, secret: str, acting_as: bytes | None) -> Identity:
        """Raises BadAdminKey, KeyIsReadOnly, and Unauthorized for an identity to act as that names nobody."""
        named = self._find_key(secret)
        if named is None and not hmac.compare_digest(digest_of(secret), self._digest):
            raise BadAdminKey
        if acting_as is not None and named is not None and named.read_only:
            raise KeyIsReadOnly(f"The admin key {named.name!r} is read-only, and acts as nobody.")
        attributes = None if acting_as is None else _user_identity(acting_as)
        if named is None:
            return Identity(attributes, is_admin=True)
        return Identity(attributes, is_admin=True, key_name=named.name, is_read_only=named.read_only)

    def identity_of_header(self, authorization: str | None) -> Identity | Awaitable[Identity]:
        """The bearer of an HTTP request's Authorization header; as `identity_of`."""
        if authorization is None:
            return ANONYMOUS
        scheme, _, credentials = authorization.strip().partition(" ")
        match scheme.lower():
            case "convex":
                return self.identity_of(_admin_token(credentials.strip()))
            case "bearer":
                return self.identity_of(UserToken(credentials.strip()))
            case _:
                text = "The Authorization header must begin with `Bearer `, or with `Convex ` before an admin key."
                raise InvalidAuthHeader(text)


def _identity_of(user: VerifiedUser) -> Identity:
    return Identity(user.attributes, expires_ns=user.expires_ns)


async def _wait_identity_of(user: Awaitable[VerifiedUser]) -> Identity:
    return _identity_of(await user)


def _secret_of(key: str) -> str:
    """Tools write names before it: `evolute|secret`, `prod:name|secret`, `preview:team:project|name|secret`."""
    return key.rpartition("|")[2]


def _admin_token(credentials: str) -> AdminToken:
    name, separator, rest = credentials.rpartition("|")
    secret, colon, encoded = rest.partition(":")
    if not colon:
        return AdminToken(credentials)
    try:
        acting_as = wire_codec.encode(wire_codec.decode(base64.b64decode(encoded, validate=True)))
    except (binascii.Error, ValueError, InvalidValue) as error:
        raise Unauthorized("After the `:` of an admin key comes the base64 of the JSON of an identity.") from error
    return AdminToken(name + separator + secret, acting_as)


def _user_identity(acting_as: bytes) -> bytes:
    """The identity to act as, with its tokenIdentifier. Raises Unauthorized."""
    attributes = wire_codec.decode_canonical(acting_as)
    if not isinstance(attributes, dict):
        raise Unauthorized("The identity to act as must be an object.")
    identifier, issuer, subject = (attributes.get(name) for name in ("tokenIdentifier", "issuer", "subject"))
    if isinstance(identifier, str):
        return acting_as
    if not isinstance(issuer, str) or not isinstance(subject, str):
        raise Unauthorized("The identity to act as must have a tokenIdentifier, or both an issuer and a subject.")
    return wire_codec.encode({**attributes, "tokenIdentifier": f"{issuer}|{subject}"})
