"""The issuer that the tests of tokens rest on: what it publishes verifies what it mints."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import jwt
import pytest

from tests.oidc_issuer import ALGORITHMS, AUDIENCE, DISCOVERY, JWKS, running_issuer


def fetched(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        return json.load(answer)


def test_published_keys_verify_minted_tokens() -> None:
    with running_issuer() as issuer:
        key_set_url = fetched(issuer.url + DISCOVERY)["jwks_uri"]
        for algorithm in ALGORITHMS:
            token = fetched(f"{issuer.url}/mint?alg={algorithm}", {"sub": "grace", "name": "Grace"})["token"]
            header = jwt.get_unverified_header(token)
            (key,) = [key for key in fetched(key_set_url)["keys"] if key["kid"] == header["kid"]]
            assert header["alg"] == key["alg"] == algorithm
            claims = jwt.decode(token, jwt.PyJWK(key), algorithms=[algorithm], audience=AUDIENCE, issuer=issuer.url)
            assert (claims["sub"], claims["name"]) == ("grace", "Grace")
        assert issuer.fetches == {DISCOVERY: 1, JWKS: 3}


def test_a_key_that_is_rotated_is_published_no_longer() -> None:
    with running_issuer() as issuer:
        old = issuer.key("ES256")
        new = issuer.rotate("ES256")
        published = [key["kid"] for key in fetched(issuer.url + JWKS)["keys"]]
        assert new.kid in published
        assert old.kid not in published


def test_an_issuer_that_is_down() -> None:
    with running_issuer() as issuer:
        issuer.failing = True
        with pytest.raises(urllib.error.HTTPError, match="503"):
            fetched(issuer.url + JWKS)
        issuer.failing = False
        assert fetched(issuer.url + JWKS) == issuer.key_set
