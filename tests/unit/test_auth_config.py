"""`auth_config.py`: what may be declared, and every mistake in it, all at once."""

from __future__ import annotations

import base64
import importlib.util
import json
import marshal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute import CustomJwtProvider, OidcProvider
from evolute.errors import DefinitionError
from evolute.limits import Limits
from evolute.registry import auth_loader
from evolute.registry.loader import load, read_folder
from evolute.registry.registry import Registry, RegistryReport

HEAD = "from evolute import CustomJwtProvider, OidcProvider\n"
KEY_SET = "data:application/json;base64," + base64.b64encode(b'{"keys": []}').decode()


@pytest.fixture(autouse=True)
def _imports_are_undone() -> Iterator[None]:
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.split(".")[0] == "app":
            del sys.modules[name]


def load_auth(folder: Path, text: str | None) -> Registry:
    app = folder / "app"
    app.mkdir()
    if text is not None:
        (app / "auth_config.py").write_text(HEAD + text)
    return load(read_folder(app, Limits()), Limits())


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(DefinitionError) as raised:
        load_auth(folder, text)
    return str(raised.value).split("\n\n")[1:]


def test_what_is_declared_reaches_the_server(tmp_path: Path) -> None:
    registry = load_auth(
        tmp_path,
        f"""
providers = [
    OidcProvider(domain="login.example", application_id="app"),
    CustomJwtProvider(issuer="anything", jwks="http://keys.example:8080/jwks.json", algorithm="EdDSA"),
    CustomJwtProvider(issuer="https://i", jwks="{KEY_SET}", algorithm="ES256", application_id="app"),
]
""",
    )
    wire = marshal.loads(marshal.dumps(registry.report()))
    assert RegistryReport.from_wire(wire).auth_providers == (
        OidcProvider("login.example", "app"),
        CustomJwtProvider("anything", "http://keys.example:8080/jwks.json", "EdDSA"),
        CustomJwtProvider("https://i", KEY_SET, "ES256", "app"),
    )


def test_a_folder_without_the_file_has_no_providers(tmp_path: Path) -> None:
    assert RegistryReport.from_wire(load_auth(tmp_path, None).report()).auth_providers == ()


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    no_json, no_keys = "data:,nothing", "data:," + json.dumps({"key": 1}).replace('"', "%22")
    found = faults(
        tmp_path,
        f"""
providers = [
    OidcProvider(domain="ftp://login.example", application_id="app"),
    OidcProvider(domain="https://", application_id="app"),
    OidcProvider(domain="login.example", application_id=""),
    OidcProvider(domain=7, application_id="app"),
    CustomJwtProvider(issuer="", jwks="https://k", algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks="keys.json", algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks=None, algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks="data:none", algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks="{no_json}", algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks="{no_keys}", algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks="data:;base64,%%", algorithm="RS256"),
    CustomJwtProvider(issuer="i", jwks="https://k", algorithm="none"),
    CustomJwtProvider(issuer="i", jwks="https://k", algorithm="RS256", application_id=7),
    OidcProvider(domain="login.example", application_id="app"),
    OidcProvider(domain="login.example", application_id="app"),
    "login.example",
]
""",
    )
    assert found == [
        "auth_config.py: providers[0]: `domain` is an http or https address, not 'ftp://login.example'",
        "auth_config.py: providers[1]: `domain` is an http or https address, not 'https://'",
        "auth_config.py: providers[2]: `application_id` is a text, not ''",
        "auth_config.py: providers[3]: `domain` is an http or https address, not 7",
        "auth_config.py: providers[4]: `issuer` is a text, not ''",
        "auth_config.py: providers[5]: `jwks` is an http or https address, or a data: URL, not 'keys.json'",
        "auth_config.py: providers[6]: `jwks` is an http or https address, or a data: URL, not None",
        "auth_config.py: providers[7]: `jwks` is a data: URL that holds no JSON: it has no comma",
        "auth_config.py: providers[8]: `jwks` is a data: URL that holds no JSON: "
        "Expecting value: line 1 column 1 (char 0)",
        'auth_config.py: providers[9]: `jwks` is a data: URL that holds no key set, which is {"keys": […]}',
        "auth_config.py: providers[10]: `jwks` is a data: URL that holds no JSON: its base64 is broken: "
        "Only base64 data is allowed",
        "auth_config.py: providers[11]: `algorithm` is one of RS256, ES256, EdDSA, not 'none'",
        "auth_config.py: providers[12]: `application_id` is a text, not 7",
        "auth_config.py: providers[14] is the same as providers[13]; remove one of them",
        "auth_config.py: providers[15] is an OidcProvider(…) or a CustomJwtProvider(…), not 'login.example'",
    ]


@pytest.mark.parametrize("text", ["", "providers = None", "providers = OidcProvider('a', 'b')"])
def test_a_file_without_providers(tmp_path: Path, text: str) -> None:
    assert faults(tmp_path, text) == [
        "auth_config.py: it has no providers; write `providers = [OidcProvider(…), CustomJwtProvider(…)]`"
    ]


def test_without_pyjwt_the_folder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the extra is not installed: Python finds no such module."""

    def find_spec(name: str) -> object:
        return None if name in ("jwt", "cryptography") else importlib.util.find_spec(name)

    monkeypatch.setattr(auth_loader, "find_spec", find_spec)
    assert faults(tmp_path, "providers = []") == [
        "auth_config.py: checking the signatures of tokens needs PyJWT and cryptography, and jwt and cryptography "
        "cannot be imported: install evolute[auth] (`uv add 'evolute[auth]'`)"
    ]
