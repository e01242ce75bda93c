"""The public keys of an issuer, as it publishes them (RFC 7517), and the one question: is this signature theirs?

A key is used for one algorithm only, the one of its type: RSA for RS256, the curve P-256 for ES256, Ed25519 for EdDSA.
So nobody can have a public key taken for the secret of another algorithm. Keys that are of no use here are passed over,
for an issuer may publish others beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import orjson

RSA_BITS_MIN: Final = 2048
_OF_TYPE: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}


class NoKeySet(ValueError):
    """A document is no key set, or holds no key that can be used."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """`public` is of cryptography's."""

    key_id: str | None
    algorithm: str
    public: Any

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        return bool(_algorithm(self.algorithm).verify(signed, self.public, signature))


@dataclass(frozen=True, slots=True)
class KeySet:
    keys: tuple[VerificationKey, ...]

    def matching(self, key_id: str | None, algorithm: str) -> list[VerificationKey]:
        """The keys that may have signed: the one of that id, or all of the algorithm if the token names none."""
        return [key for key in self.keys if key.algorithm == algorithm and key_id in (None, key.key_id)]


def read_key_set(document: bytes) -> KeySet:
    """Raises NoKeySet."""
    try:
        tree = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise NoKeySet(f"it is not JSON: {error}") from None
    entries = tree.get("keys") if isinstance(tree, dict) else None
    if not isinstance(entries, list):
        raise NoKeySet('it is no key set, which is {"keys": […]}')
    keys = tuple(_usable(entry for entry in entries if isinstance(entry, dict)))
    if not keys:
        raise NoKeySet("it holds no key for RS256, ES256 or EdDSA that can be used")
    return KeySet(keys)


def _usable(entries: Iterable[dict[str, Any]]) -> Iterable[VerificationKey]:
    from jwt.exceptions import PyJWTError

    for entry in entries:
        kind, curve = entry.get("kty"), entry.get("crv")
        algorithm = _OF_TYPE.get((kind, None if kind == "RSA" else curve)) if isinstance(kind, str) else None
        key_id = entry.get("kid")
        if algorithm is None or entry.get("alg", algorithm) != algorithm or not (key_id is None or type(key_id) is str):
            continue
        operations = entry.get("key_ops", ["verify"])
        if not isinstance(operations, list) or "verify" not in operations:
            continue
        if entry.get("use", "sig") != "sig" or "d" in entry:  # no signature's, or not public
            continue
        try:
            public = _algorithm(algorithm).from_jwk(entry)
        except (PyJWTError, ValueError, TypeError):
            continue
        if algorithm != "RS256" or public.key_size >= RSA_BITS_MIN:
            yield VerificationKey(key_id, algorithm, public)


@cache
def _algorithm(name: str) -> Any:
    """PyJWT's, imported when the first token comes: a server without providers does without."""
    from jwt import algorithms

    match name:
        case "RS256":
            return algorithms.RSAAlgorithm(algorithms.RSAAlgorithm.SHA256)
        case "ES256":
            return algorithms.ECAlgorithm(algorithms.ECAlgorithm.SHA256)
        case _:
            return algorithms.OKPAlgorithm()
