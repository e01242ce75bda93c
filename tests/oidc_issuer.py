"""An OpenID Connect issuer with keys of its own, for tests: a real one, over HTTP on loopback.

    GET  /.well-known/openid-configuration     where the rest is
    GET  /jwks                                 the public keys, as they are now
    POST /mint {claims}                        a token for whoever asks: {"token": "…"}

Tests turn its keys (`rotate`), count what is fetched of it (`fetches`), make it fail (`failing`), hold its answers
back (`gate`) or have it answer nonsense (`answers`). `token` mints without HTTP, also tokens that nobody should accept.

Run by itself: `python -m tests.oidc_issuer --port 8099`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

ALGORITHMS = ("RS256", "ES256", "EdDSA")
AUDIENCE = "evolute-tests"
LIFETIME_S = 3600
START_S_MAX = 30
DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/jwks"

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class SigningKey:
    kid: str
    algorithm: str
    private: PrivateKey

    @property
    def public_jwk(self) -> dict[str, Any]:
        return {**_jwk(self.private), "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    @property
    def public_pem(self) -> bytes:
        """What whoever confuses algorithms would take for the secret of an HMAC."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _new_private_key(algorithm: str) -> PrivateKey:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            raise ValueError(f"no keys for {algorithm}; there are {', '.join(ALGORITHMS)}")


def _jwk(private: PrivateKey) -> dict[str, Any]:
    match private:
        case rsa.RSAPrivateKey():
            return RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            return ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case _:
            return OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)


class OidcIssuer:
    """`url` is where it is reached, without a slash at the end. Starts with one key of each algorithm.

    `routes` go beside its own: whoever needs a page to log in at adds it there. `answers` has what is sent instead of
    the real answer at a path. While `gate` is clear, fetches are counted and wait.
    """

    def __init__(self, url: str, *, routes: Sequence[BaseRoute] = (), now_s: Callable[[], float] = time.time) -> None:
        self.url = url
        self.keys: dict[str, SigningKey] = {}
        self.fetches: Counter[str] = Counter()
        self.failing = False
        self.answers: dict[str, Response] = {}
        self.gate = threading.Event()
        self.gate.set()
        self._now_s = now_s
        self._keys_made = 0
        for algorithm in ALGORITHMS:
            self.add_key(algorithm)
        own = [
            Route(DISCOVERY, self._counted(self._configuration)),
            Route(JWKS, self._counted(self._key_set)),
            Route("/mint", self._mint, methods=["POST"]),
        ]
        cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
        self.app = Starlette(routes=[*own, *routes], middleware=[cors])

    # --- Keys ---------------------------------------------------------------------------------------------------------

    def add_key(self, algorithm: str = "RS256") -> SigningKey:
        """A further key, published from now on."""
        self._keys_made += 1
        key = SigningKey(f"{algorithm.lower()}-{self._keys_made}", algorithm, _new_private_key(algorithm))
        self.keys[key.kid] = key
        return key

    def rotate(self, algorithm: str = "RS256") -> SigningKey:
        """A new key in place of all of this algorithm, which are published no longer."""
        self.keys = {kid: key for kid, key in self.keys.items() if key.algorithm != algorithm}
        return self.add_key(algorithm)

    def key(self, algorithm: str = "RS256") -> SigningKey:
        """The newest of this algorithm."""
        return [key for key in self.keys.values() if key.algorithm == algorithm][-1]

    @property
    def key_set(self) -> dict[str, Any]:
        return {"keys": [key.public_jwk for key in self.keys.values()]}

    # --- Tokens -------------------------------------------------------------------------------------------------------

    def claims(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a good token for `sub: ada`, with `changes`; a change to None leaves the claim out."""
        now_s = int(self._now_s())
        good = {"iss": self.url, "sub": "ada", "aud": AUDIENCE, "iat": now_s, "exp": now_s + LIFETIME_S}
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def token(
        self,
        changes: Mapping[str, Any] | None = None,
        *,
        algorithm: str = "RS256",
        key: SigningKey | None = None,
        header: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """A token, signed by `key` or the newest of `algorithm`. A `header` field of None is left out."""
        signer = key or self.key(algorithm)
        given = {"kid": signer.kid, "typ": "JWT", **(header or {})}
        without_none = {name: value for name, value in given.items() if value is not None}
        claims = self.claims({**(changes or {}), **more})
        return jwt.encode(claims, signer.private, algorithm=signer.algorithm, headers=without_none)

    def forged(self, header: Mapping[str, Any], signature: bytes, **changes: Any) -> str:
        """What no library would mint: any header over good claims, with any signature."""
        return forged(header, self.claims(changes), signature)

    # --- Endpoints ----------------------------------------------------------------------------------------------------

    def _counted(self, document: Callable[[], Mapping[str, Any]]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            path = request.url.path
            self.fetches[path] += 1
            assert self.gate.wait(START_S_MAX), "nobody opened the gate"
            if self.failing:
                return Response("the issuer is down", 503)
            return self.answers.get(path) or JSONResponse(document())

        return endpoint

    def _configuration(self) -> Mapping[str, Any]:
        return {
            "issuer": self.url,
            "jwks_uri": self.url + JWKS,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": list(ALGORITHMS),
            "code_challenge_methods_supported": ["S256"],
        }

    def _key_set(self) -> Mapping[str, Any]:
        return self.key_set

    async def _mint(self, request: Request) -> Response:
        changes = await request.json()
        return JSONResponse({"token": self.token(changes, algorithm=request.query_params.get("alg", "RS256"))})


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes) -> str:
    return f"{_part(header)}.{_part(claims)}.{_unpadded(signature)}"


def signing_input(header: Mapping[str, Any], claims: Mapping[str, Any]) -> bytes:
    return f"{_part(header)}.{_part(claims)}".encode()


def _part(tree: Mapping[str, Any]) -> str:
    return _unpadded(json.dumps(tree).encode())


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _server(app: Starlette) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, log_level="warning", access_log=False))


@contextmanager
def running_issuer(routes: Sequence[BaseRoute] = (), *, now_s: Callable[[], float] = time.time) -> Iterator[OidcIssuer]:
    """One on a free port of this machine, on a thread, while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        issuer = OidcIssuer(f"http://127.0.0.1:{listener.getsockname()[1]}", routes=routes, now_s=now_s)
        server = _server(issuer.app)
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listener])), name="oidc-issuer", daemon=True
        )
        thread.start()
        try:
            yield issuer  # the socket listens already: who comes before the server waits for it
        finally:
            issuer.gate.set()
            server.should_exit = True
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenID Connect issuer for tests.")
    parser.add_argument("--port", type=int, default=8099)
    port: int = parser.parse_args().port
    with socket.create_server(("127.0.0.1", port)) as listener:
        issuer = OidcIssuer(f"http://127.0.0.1:{listener.getsockname()[1]}")
        print(issuer.url, flush=True)
        asyncio.run(_server(issuer.app).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
