"""Reads what `auth_config.py` declares: the providers of users' tokens, every mistake with its place in the list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import ModuleType

from evolute.registry.auth_providers import AUTH_FILE, AuthProvider, CustomJwtProvider, OidcProvider

_NEEDED = ("jwt", "cryptography")


def read(modules: Mapping[str, ModuleType], sources: Iterable[str], faults: list[str]) -> list[AuthProvider]:
    """The providers of a deployment whose modules, by path, have been imported. What is wrong is added to `faults`."""
    if AUTH_FILE not in modules:
        return []  # there is none, or it is broken, which has been said
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        faults.append(
            f"{AUTH_FILE}: checking the signatures of tokens needs PyJWT and cryptography, and "
            f"{' and '.join(missing)} cannot be imported: install evolute[auth] (`uv add 'evolute[auth]'`)"
        )
    declared = getattr(modules[AUTH_FILE], "providers", None)
    if not isinstance(declared, list | tuple):
        faults.append(f"{AUTH_FILE}: it has no providers; write `providers = [OidcProvider(…), CustomJwtProvider(…)]`")
        return []
    providers: list[AuthProvider] = []
    for index, provider in enumerate(declared):
        where = f"{AUTH_FILE}: providers[{index}]"
        if not isinstance(provider, OidcProvider | CustomJwtProvider):
            faults.append(f"{where} is an OidcProvider(…) or a CustomJwtProvider(…), not {provider!r}")
        elif provider.fault is not None:
            faults.append(f"{where}: {provider.fault}")
        elif provider in providers:
            faults.append(f"{where} is the same as providers[{declared.index(provider)}]; remove one of them")
        else:
            providers.append(provider)
    return providers
