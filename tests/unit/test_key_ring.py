"""Admin keys: made once, good until they are revoked, and nothing of them kept but a hash."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import pytest

from evolute.errors import BadRequest
from evolute.execution.key_ring import FoundKey, KeyRing, ShownKey, digest_of
from evolute.limits import Limits
from evolute.system import admin_keys
from evolute.system.admin_keys import AdminKey
from evolute.testing import LocalBackend

T = TypeVar("T")


def wait(backend: LocalBackend, awaitable: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
    return backend._wait(awaitable)


def ring_of(backend: LocalBackend, limits: Limits | None = None) -> KeyRing:
    ring = KeyRing(backend.executor, backend.clock, limits or Limits())
    wait(backend, ring.load())
    return ring


def secret_of(key: str) -> str:
    """With no ':' after the '|', or nobody could act as a user with it (trap 44)."""
    assert re.fullmatch(r"evolute\|[0-9a-f]{64}", key)
    return key.partition("|")[2]


def test_a_key_is_good_until_it_is_revoked() -> None:
    with LocalBackend() as backend:
        ring = ring_of(backend)
        full = secret_of(wait(backend, ring.create("ci", read_only=False)))
        looking = secret_of(wait(backend, ring.create("dash.board-1", read_only=True)))
        revoked: list[str] = []
        ring.on_revoked(revoked.append)
        assert (ring.find(full), ring.find(looking)) == (FoundKey("ci", False), FoundKey("dash.board-1", True))
        assert ring.find(full[:-1]) is ring.find("") is ring.find(digest_of(full).hex()) is None
        wait(backend, ring.revoke("ci"))
        assert revoked == ["ci"]
        assert ring.find(full) is None
        assert ring.find(looking) is not None
        with pytest.raises(BadRequest, match="There is no admin key 'ci'"):
            wait(backend, ring.revoke("ci"))
        assert ring.find(secret_of(wait(backend, ring.create("ci", read_only=True)))) == FoundKey("ci", True)


def test_keys_survive_a_restart_and_revoked_ones_do_not() -> None:
    with LocalBackend() as backend:
        ring = ring_of(backend)
        good, bad = (secret_of(wait(backend, ring.create(name, read_only=False))) for name in ("good", "bad"))
        wait(backend, ring.revoke("bad"))
        again = ring_of(backend)
        assert again.find(good) == FoundKey("good", False)
        assert again.find(bad) is None


def test_what_is_shown_and_what_is_kept_hold_no_secret() -> None:
    with LocalBackend() as backend:
        ring = ring_of(backend)
        created_ms = backend.clock.now_ns() / 1e6
        secret = secret_of(wait(backend, ring.create("ci", read_only=True)))
        assert [key._replace(created_ms=0) for key in ring.shown()] == [ShownKey("ci", True, 0, None)]
        backend.clock.set_ns(backend.clock.now_ns() + 5_000_000_000)
        ring.find(secret)
        (key,) = ring.shown()
        assert key.used_ms == created_ms + 5000
        run = wait(backend, backend.executor.run_system(admin_keys.all_keys))
        assert run.value == [AdminKey("ci", True, digest_of(secret), key.created_ms)]
        with backend.database.snapshot() as snapshot:
            stored = [data for _, data in snapshot.scan(b"", b"\xff" * 32)]
        assert any(b'"ci"' in data for data in stored)
        assert not any(secret.encode() in data for data in stored)


@pytest.mark.parametrize("name", ["", "a:b", "a|b", "a b", "-a", "é", "a" * 65, "a\n"])
def test_names_that_no_key_may_have(name: str) -> None:
    with LocalBackend() as backend, pytest.raises(BadRequest, match="The name of an admin key is"):
        wait(backend, ring_of(backend).create(name, read_only=True))


def test_keys_are_few() -> None:
    with LocalBackend() as backend:
        ring = ring_of(backend, Limits(admin_keys_max=2))
        wait(backend, ring.create("a", read_only=True))
        with pytest.raises(BadRequest, match="There is an admin key 'a' already"):
            wait(backend, ring.create("a", read_only=False))
        wait(backend, ring.create("b", read_only=True))
        with pytest.raises(BadRequest, match="admin_keys_max"):
            wait(backend, ring.create("c", read_only=True))
        assert [key.name for key in ring.shown()] == ["a", "b"]
