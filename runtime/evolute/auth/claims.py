"""What a token claims: whether it may be used now and by whom, and the identity that functions see.

    provider        the first whose issuer is `iss` and whose application is in `aud`
    time            exp, nbf, iat, against the server's clock and a little leeway
    attributes      issuer, subject and tokenIdentifier; the standard claims of OpenID Connect under their own names;
                    every other claim as it is, `{"a": {"b": 1}}` as `a.b`

What differs from one token of a user to the next (exp, iat, jti, …) is no attribute: a token that is refreshed leaves
the user the same, and the results of queries that know the user stay good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evolute.auth.token import brief
from evolute.clock import NS_PER_MS, NS_PER_S
from evolute.errors import InvalidAuthHeader, InvalidValue, NoAuthProvider, Unauthorized
from evolute.limits import Limits
from evolute.registry.auth_providers import AUTH_FILE, AuthProvider, OidcProvider, comparable_issuer
from evolute.values import wire_codec

Claims = Mapping[str, Any]

_TEXTS = {
    "name": "name",
    "given_name": "givenName",
    "family_name": "familyName",
    "nickname": "nickname",
    "preferred_username": "preferredUsername",
    "profile": "profileUrl",
    "picture": "pictureUrl",
    "website": "websiteUrl",
    "email": "email",
    "gender": "gender",
    "birthdate": "birthday",
    "zoneinfo": "timezone",
    "locale": "language",
    "phone_number": "phoneNumber",
}
_TRUTHS = {"email_verified": "emailVerified", "phone_number_verified": "phoneNumberVerified"}
_STANDARD = frozenset({*_TEXTS, *_TRUTHS, "address", "updated_at"})
_OF_ONE_TOKEN = frozenset({"exp", "iat", "nbf", "jti", "fva", "nonce", "at_hash", "c_hash", "s_hash"})
_OF_OIDC = frozenset({"aud", "azp", "acr", "amr", "auth_time"})
_IDENTIFYING = frozenset({"iss", "sub"})


def provider_of(claims: Claims, providers: Sequence[AuthProvider], *, redact: bool) -> AuthProvider:
    """Whose token it says it is. Raises InvalidAuthHeader, NoAuthProvider."""
    issuer, audience = claims.get("iss"), claims.get("aud")
    if not isinstance(issuer, str) or not issuer:
        raise InvalidAuthHeader("Could not parse JWT payload. It names no issuer (iss).")
    audiences = _audiences(audience)
    for provider in providers:
        if comparable_issuer(provider.issuer) == comparable_issuer(issuer) and (
            provider.application_id is None or provider.application_id in audiences
        ):
            return provider
    text = "No auth provider found matching the given token."
    if not redact:
        text += f" Its issuer (iss) is {brief(issuer)}, its audience (aud) {brief(audience)}; {_declared(providers)}"
    raise NoAuthProvider(text)


def end_of(claims: Claims, now_ns: int, limits: Limits) -> int:
    """When the token ends, leeway included. Raises Unauthorized: expired, not yet valid, or without an end."""
    leeway_ns = limits.token_leeway_ms * NS_PER_MS
    expires_ns = _time(claims, "exp")
    if expires_ns is None:
        raise Unauthorized("Could not verify token claim. It says no time at which it expires (exp).")
    if expires_ns + leeway_ns <= now_ns:
        raise Unauthorized(f"Could not verify token claim. The token expired at {_shown_time(expires_ns)}.")
    for name, what in (("nbf", "is not valid before"), ("iat", "was issued in the future, at")):
        begins_ns = _time(claims, name)
        if begins_ns is not None and begins_ns > now_ns + leeway_ns:
            raise Unauthorized(f"Could not verify token claim. The token {what} {_shown_time(begins_ns)} ({name}).")
    return expires_ns + leeway_ns


def check_subject(claims: Claims, provider: AuthProvider) -> None:
    """Raises Unauthorized if the token names nobody, or is not for this application alone."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise Unauthorized("Could not verify token claim. It names no subject (sub).")
    if isinstance(provider, OidcProvider) and len(_audiences(claims.get("aud"))) > 1:
        raise Unauthorized(
            "Could not verify OIDC token claim. It is for several audiences (aud), and an OidcProvider takes tokens "
            "that are for its application alone."
        )


def attributes_of(claims: Claims, provider: AuthProvider) -> bytes:
    """The identity as canonical JSON, of claims that passed all checks. Raises Unauthorized if they are too many."""
    issuer, subject, is_oidc = claims["iss"], claims["sub"], isinstance(provider, OidcProvider)
    passed_over = _IDENTIFYING | _OF_ONE_TOKEN | (_OF_OIDC | _STANDARD if is_oidc else frozenset())
    attributes = dict(_custom(claims, passed_over))
    if is_oidc:
        attributes |= _standard(claims)
    # Last, so that no claim can take their place.
    attributes |= {"issuer": issuer, "subject": subject, "tokenIdentifier": f"{issuer}|{subject}"}
    try:
        return wire_codec.encode(attributes)
    except InvalidValue as error:
        raise Unauthorized(f"Could not verify token claim. Its claims are no value: {error}") from None


def _audiences(audience: object) -> list[str]:
    if isinstance(audience, str):
        return [audience]
    return [one for one in audience if isinstance(one, str)] if isinstance(audience, list) else []


def _declared(providers: Sequence[AuthProvider]) -> str:
    shown = [
        provider.issuer + ("" if provider.application_id is None else f" for {provider.application_id!r}")
        for provider in providers
    ]
    return f"{AUTH_FILE} has {', '.join(shown)}."


def _time(claims: Claims, name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise Unauthorized(f"Could not verify token claim. Its `{name}` is no time in seconds: {brief(value)}.")
    return int(value * NS_PER_S)


def _shown_time(ts_ns: int) -> str:
    try:
        return datetime.fromtimestamp(ts_ns // NS_PER_S, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{ts_ns // NS_PER_S} s"


def _standard(claims: Claims) -> Iterator[tuple[str, object]]:
    """Those of the right type; a claim that is not what it should be says nothing."""
    for claim, attribute in _TEXTS.items():
        if isinstance(claims.get(claim), str):
            yield attribute, claims[claim]
    for claim, attribute in _TRUTHS.items():
        truth = claims.get(claim)
        if isinstance(truth, str):  # as some issuers spell it
            truth = {"true": True, "false": False}.get(truth.lower())
        if isinstance(truth, bool):
            yield attribute, truth
    address = claims.get("address")
    if isinstance(address, dict):
        address = address.get("formatted")
    if isinstance(address, str):
        yield "address", address
    updated = claims.get("updated_at")
    if isinstance(updated, str):
        yield "updatedAt", updated
    elif updated is not None and not isinstance(updated, bool) and isinstance(updated, int | float):
        yield "updatedAt", _shown_time(int(updated) * NS_PER_S)


def _custom(claims: Claims, passed_over: frozenset[str]) -> Iterator[tuple[str, object]]:
    """Claims that are values, under names that fields may have; objects within each other as `a.b`."""
    left = [(name, value) for name, value in reversed(list(claims.items())) if name not in passed_over]
    while left:
        name, value = left.pop()
        if isinstance(value, dict):
            left.extend((f"{name}.{inner}", one) for inner, one in reversed(list(value.items())))
        elif _is_field(name, value):
            yield name, value


def _is_field(name: str, value: object) -> bool:
    try:
        wire_codec.encode({name: value})
    except InvalidValue:
        return False
    return True
