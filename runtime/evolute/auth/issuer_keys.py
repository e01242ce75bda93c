"""The keys of one provider, fetched when a token needs them and kept.

    age      0 ────────── fresh ─────────────────────── age_max ──────►
             used         used, and fetched anew beside  fetched before anything is believed

A token that names an unknown key has them fetched at once, because issuers change their keys; at most every
`issuer_refetch_ms_min`, because anybody can name a key. Whoever needs a document that is being fetched waits for that
one fetch. While an issuer is down its known keys are good until they are too old, and only tokens that need others are
turned away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol

import orjson

from evolute.auth.fetch import Fetch, FetchFailed
from evolute.auth.key_set import KeySet, NoKeySet, VerificationKey, read_key_set
from evolute.clock import NS_PER_MS, Clock
from evolute.errors import IssuerUnavailable, Unauthorized
from evolute.limits import Limits
from evolute.registry.auth_providers import (
    AuthProvider,
    CustomJwtProvider,
    OidcProvider,
    comparable_issuer,
    data_url_content,
)

logger = logging.getLogger("evolute.auth")

_DISCOVERY = "/.well-known/openid-configuration"
_SHOWN_CHARACTERS_MAX = 64


class IssuerKeys(Protocol):
    def find(self, key_id: str | None, algorithm: str) -> VerificationKey | Awaitable[VerificationKey]:
        """The key that a token names, now or after a fetch. Raises, or lets the Awaitable raise, Unauthorized if the
        issuer has no such key, IssuerUnavailable if that cannot be known."""
        ...


def keys_of(provider: AuthProvider, fetch: Fetch, clock: Clock, limits: Limits) -> IssuerKeys:
    if isinstance(provider, CustomJwtProvider) and provider.jwks.startswith("data:"):
        return GivenKeys(provider)
    return FetchedKeys(provider, fetch, clock, limits)


class GivenKeys:
    """Those in a data: URL."""

    def __init__(self, provider: CustomJwtProvider) -> None:
        self._issuer = provider.issuer
        self._document = data_url_content(provider.jwks)
        self._keys: KeySet | None = None

    def find(self, key_id: str | None, algorithm: str) -> VerificationKey:
        try:
            self._keys = self._keys or read_key_set(self._document)
        except NoKeySet as error:
            raise IssuerUnavailable(f"The keys of {self._issuer} cannot be used: `jwks`: {error}.") from None
        return _one_of(self._keys, self._issuer, key_id, algorithm)


class FetchedKeys:
    """Those behind an address, for an OidcProvider the one that the issuer's configuration names.

    Lives on the event loop."""

    def __init__(self, provider: AuthProvider, fetch: Fetch, clock: Clock, limits: Limits) -> None:
        self._provider = provider
        self._issuer = provider.issuer
        self._fetch = fetch
        self._clock = clock
        self._limits = limits
        self._keys: KeySet | None = None
        self._keys_ns = 0
        self._tried_ns: int | None = None
        self._failure: str | None = None
        self._fetching: asyncio.Task[None] | None = None

    def find(self, key_id: str | None, algorithm: str) -> VerificationKey | Awaitable[VerificationKey]:
        keys = self._known()
        if keys is not None and keys.matching(key_id, algorithm):
            if self._age_ms(self._keys_ns) >= self._limits.issuer_keys_fresh_ms and self._may_fetch():
                self._begin_fetch()
            return _one_of(keys, self._issuer, key_id, algorithm)
        if self._may_fetch():
            return self._find_after_fetch(key_id, algorithm)
        return self._found(key_id, algorithm)

    async def _find_after_fetch(self, key_id: str | None, algorithm: str) -> VerificationKey:
        await asyncio.shield(self._begin_fetch())
        return self._found(key_id, algorithm)

    def _found(self, key_id: str | None, algorithm: str) -> VerificationKey:
        """By what is known. That a key is unknown says nothing if its issuer did not answer when it was last asked."""
        keys = self._known()
        if keys is None or (self._failure is not None and not keys.matching(key_id, algorithm)):
            raise self._unavailable()
        return _one_of(keys, self._issuer, key_id, algorithm)

    def _known(self) -> KeySet | None:
        """The keys, unless they are too old to be believed."""
        return self._keys if self._age_ms(self._keys_ns) < self._limits.issuer_keys_age_ms_max else None

    def _age_ms(self, since_ns: int) -> float:
        """A clock that went back tells no age: then it is as old as can be."""
        age_ns = self._clock.now_ns() - since_ns
        return age_ns / NS_PER_MS if age_ns >= 0 else float("inf")

    def _may_fetch(self) -> bool:
        """Whether a fetch is under way, or the last one was long enough ago."""
        if self._fetching is not None or self._tried_ns is None:
            return True
        return self._age_ms(self._tried_ns) >= self._limits.issuer_refetch_ms_min

    def _unavailable(self) -> IssuerUnavailable:
        return IssuerUnavailable(f"The keys of {self._issuer} cannot be had at the moment: {self._failure}.")

    # --- Fetching -------------------------------------------------------------------------------------------------

    def _begin_fetch(self) -> asyncio.Task[None]:
        """The one that is under way, or a new one."""
        if self._fetching is None:
            self._tried_ns = self._clock.now_ns()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_keys())
        return self._fetching

    async def _fetch_keys(self) -> None:
        """Leaves the new keys, or why there are none."""
        try:
            self._keys = read_key_set(await self._document(await self._address()))
            self._keys_ns, self._failure = self._clock.now_ns(), None
        except (FetchFailed, NoKeySet) as error:
            self._failure = str(error)
            logger.warning("the keys of %s cannot be fetched: %s", self._issuer, error)
        finally:
            self._fetching = None

    async def _address(self) -> str:
        """Where the keys are. An issuer may move them, so it is asked each time."""
        if isinstance(self._provider, CustomJwtProvider):
            return self._provider.jwks
        assert isinstance(self._provider, OidcProvider)
        url = comparable_issuer(self._issuer) + _DISCOVERY
        try:
            configuration = orjson.loads(await self._document(url))
        except orjson.JSONDecodeError as error:
            raise FetchFailed(f"{url} is not JSON: {error}") from None
        if not isinstance(configuration, dict) or not isinstance(configuration.get("jwks_uri"), str):
            raise FetchFailed(f"{url} names no jwks_uri")
        issuer = configuration.get("issuer")
        if not isinstance(issuer, str) or comparable_issuer(issuer) != comparable_issuer(self._issuer):
            raise FetchFailed(f"{url} is the configuration of {issuer!r}")
        return str(configuration["jwks_uri"])

    async def _document(self, url: str) -> bytes:
        try:
            return await self._fetch(url)
        except FetchFailed as error:
            raise FetchFailed(f"{url} {error}") from None


def _one_of(keys: KeySet, issuer: str, key_id: str | None, algorithm: str) -> VerificationKey:
    """Raises Unauthorized."""
    found = keys.matching(key_id, algorithm)
    if len(found) == 1:
        return found[0]
    named = "which its token does not name (kid)" if key_id is None else repr(key_id[:_SHOWN_CHARACTERS_MAX])
    why = f"{issuer} has {'several keys' if found else 'no key'} for {algorithm}, {named}"
    raise Unauthorized(f"Could not verify the token's signature. {why}.")
