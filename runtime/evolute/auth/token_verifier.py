"""From a user's token to the user: the one place that decides whether a token is good.

    parse ──► whose is it? ──► algorithm, times ──► key ──► signature ──► attributes

Everything that can be known without a key is asked first, so that nobody waits for an issuer because of a token that is
bad in any case. The providers are those of the code that is served at the moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from evolute.auth.claims import attributes_of, check_subject, end_of, provider_of
from evolute.auth.fetch import Fetch
from evolute.auth.issuer_keys import IssuerKeys, keys_of
from evolute.auth.key_set import VerificationKey
from evolute.auth.token import UnverifiedToken, brief, parse
from evolute.clock import Clock
from evolute.errors import NoAuthProvider, Unauthorized
from evolute.limits import Limits
from evolute.registry.auth_providers import AuthProvider

Providers = Sequence[AuthProvider]


class VerifiedUser(NamedTuple):
    """`attributes` is canonical JSON, good until `expires_ns`."""

    attributes: bytes
    expires_ns: int


class TokenVerifier:
    """`providers` gives those that count now. `redact` keeps what is configured out of refusals."""

    def __init__(
        self, providers: Callable[[], Providers], clock: Clock, limits: Limits, fetch: Fetch, *, redact: bool = False
    ) -> None:
        self._providers = providers
        self._clock = clock
        self._limits = limits
        self._fetch = fetch
        self._redact = redact
        self._keys: dict[AuthProvider, IssuerKeys] = {}

    def verify(self, token: str) -> VerifiedUser | Awaitable[VerifiedUser]:
        """Now, if the key is at hand. Raises, or lets the Awaitable raise, Unauthorized or IssuerUnavailable."""
        providers = self._providers()
        if not providers:
            raise NoAuthProvider
        unverified = parse(token, self._limits)
        provider = provider_of(unverified.claims, providers, redact=self._redact)
        if unverified.algorithm not in provider.algorithms:
            raise Unauthorized(
                f"Could not verify the token's signature. Its algorithm (alg) is {brief(unverified.algorithm)}, and "
                f"tokens of {provider.issuer} are signed with {' or '.join(provider.algorithms)}."
            )
        check_subject(unverified.claims, provider)
        expires_ns = end_of(unverified.claims, self._clock.now_ns(), self._limits)
        key = self._keys_of(provider, providers).find(unverified.key_id, unverified.algorithm)
        if isinstance(key, VerificationKey):
            return _user_of(unverified, key, provider, expires_ns)
        return self._wait_user_of(unverified, key, provider, expires_ns)

    async def _wait_user_of(
        self, token: UnverifiedToken, key: Awaitable[VerificationKey], provider: AuthProvider, expires_ns: int
    ) -> VerifiedUser:
        return _user_of(token, await key, provider, expires_ns)

    def _keys_of(self, provider: AuthProvider, providers: Providers) -> IssuerKeys:
        """Those of providers that are declared no longer are forgotten."""
        if provider not in self._keys:
            self._keys = {known: keys for known, keys in self._keys.items() if known in providers}
            self._keys[provider] = keys_of(provider, self._fetch, self._clock, self._limits)
        return self._keys[provider]


def _user_of(token: UnverifiedToken, key: VerificationKey, provider: AuthProvider, expires_ns: int) -> VerifiedUser:
    """The user that the token names, if the key has signed it. Raises Unauthorized."""
    if not key.has_signed(token.signed, token.signature):
        raise Unauthorized("Could not verify the token's signature. It is not that of the key that the token names.")
    return VerifiedUser(attributes_of(token.claims, provider), expires_ns)
