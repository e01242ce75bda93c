"""Who may say who a user is: the providers that an author declares in `auth_config.py`.

    functions/auth_config.py    providers = [OidcProvider(domain="https://login.example.com", application_id="my-app")]

A provider never raises when it is made: `fault` says what is wrong with it, so that a folder that does not load names
every mistake at once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

AUTH_FILE: Final = "auth_config.py"
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class OidcProvider:
    """An OpenID Connect issuer. `domain` is its address: the `iss` of its tokens, where its configuration is found.

    `application_id` is the `aud` of the tokens: the client id that the issuer knows this application by. Signatures
    are RS256, ES256 or EdDSA.
    """

    domain: str
    application_id: str

    @property
    def issuer(self) -> str:
        return self.domain

    @property
    def algorithms(self) -> tuple[str, ...]:
        return ALGORITHMS

    @property
    def fault(self) -> str | None:
        return _url_fault("domain", self.domain) or _audience_fault(self.application_id)


@dataclass(frozen=True)
class CustomJwtProvider:
    """An issuer of JSON Web Tokens that publishes its keys at `jwks`: an http or https address, or a data: URL.

    `issuer` is the `iss` of its tokens, `algorithm` the one that they are signed with. Without `application_id` a token
    for any audience is taken.
    """

    issuer: str
    jwks: str
    algorithm: str
    application_id: str | None = None

    @property
    def algorithms(self) -> tuple[str, ...]:
        return (self.algorithm,)

    @property
    def fault(self) -> str | None:
        return (
            _text_fault("issuer", self.issuer)
            or self._jwks_fault()
            or self._algorithm_fault()
            or (None if self.application_id is None else _audience_fault(self.application_id))
        )

    def _algorithm_fault(self) -> str | None:
        known = self.algorithm in ALGORITHMS
        return None if known else f"`algorithm` is one of {', '.join(ALGORITHMS)}, not {self.algorithm!r}"

    def _jwks_fault(self) -> str | None:
        if not str(self.jwks).startswith("data:"):
            return _url_fault("jwks", self.jwks, or_data=True)
        try:
            tree = json.loads(data_url_content(self.jwks))
        except (ValueError, RecursionError) as error:
            return f"`jwks` is a data: URL that holds no JSON: {error}"
        good = isinstance(tree, dict) and isinstance(tree.get("keys"), list)
        return None if good else '`jwks` is a data: URL that holds no key set, which is {"keys": […]}'


AuthProvider: TypeAlias = OidcProvider | CustomJwtProvider


def comparable_issuer(issuer: str) -> str:
    """With its scheme and without a slash at the end: two spellings of this are one issuer."""
    return (issuer if "://" in issuer else f"https://{issuer}").rstrip("/")


def data_url_content(url: str) -> bytes:
    """What a `data:` URL holds. Raises ValueError."""
    head, comma, content = url.removeprefix("data:").partition(",")
    if not comma:
        raise ValueError("it has no comma")
    data = unquote_to_bytes(content)
    if not head.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its base64 is broken: {error}") from None


def to_wire(provider: AuthProvider) -> dict[str, Any]:
    return {"kind": "oidc" if isinstance(provider, OidcProvider) else "customJwt", **asdict(provider)}


def from_wire(wire: Mapping[str, Any]) -> AuthProvider:
    fields = {name: value for name, value in wire.items() if name != "kind"}
    return OidcProvider(**fields) if wire["kind"] == "oidc" else CustomJwtProvider(**fields)


def _text_fault(name: str, value: object) -> str | None:
    return None if isinstance(value, str) and value.strip() else f"`{name}` is a text, not {value!r}"


def _audience_fault(value: object) -> str | None:
    return _text_fault("application_id", value)


def _url_fault(name: str, value: object, *, or_data: bool = False) -> str | None:
    what = "an http or https address" + (", or a data: URL" if or_data else "")
    if not isinstance(value, str):
        return f"`{name}` is {what}, not {value!r}"
    try:
        parts = urlsplit(value if or_data else comparable_issuer(value))
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    return None if good else f"`{name}` is {what}, not {value!r}"
