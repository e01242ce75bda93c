"""The admin keys that are good at this moment: the one of the data folder, and those that were made later.

    create ──► a row, in a commit ──┐
                                    ├──► in that commit's publishing turn: known here ──► find
    revoke ──► no row, in a commit ─┘                                      └──► listeners: sessions of that key end

Only this process writes to the store, so what is known here is what the rows say.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from evolute.clock import NS_PER_MS, Clock, random_bytes
from evolute.errors import BadRequest
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.system import admin_keys
from evolute.system.admin_keys import AdminKey

KEY_PREFIX: Final = "evolute|"
SECRET_BYTES: Final = 32
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)


class ShownKey(NamedTuple):
    """`used_ms` is when it was last shown to this server, None if not since it started."""

    name: str
    read_only: bool
    created_ms: float
    used_ms: float | None


class FoundKey(NamedTuple):
    """What a key may."""

    name: str
    read_only: bool


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """Lives on the event loop. `load` before anything else."""

    def __init__(self, executor: Executor, clock: Clock, limits: Limits) -> None:
        self._executor = executor
        self._clock = clock
        self._limits = limits
        self._keys: dict[str, AdminKey] = {}
        self._used_ms: dict[str, float] = {}
        self._on_revoked: list[Callable[[str], None]] = []

    async def load(self) -> None:
        run = await self._executor.run_system(admin_keys.all_keys)
        self._keys = {key.name: key for key in run.value}

    def on_revoked(self, listener: Callable[[str], None]) -> None:
        """`listener` hears the name of each key from the moment on in which it is good no longer."""
        self._on_revoked.append(listener)

    def find(self, secret: str) -> FoundKey | None:
        """The key with that secret. It takes the same time whichever it is, and however much of the secret is right."""
        digest = digest_of(secret)
        found = None
        for key in self._keys.values():
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            return None
        self._used_ms[found.name] = self._clock.now_ns() / NS_PER_MS
        return FoundKey(found.name, found.read_only)

    def shown(self) -> list[ShownKey]:
        """In the order in which they were made."""
        return [
            ShownKey(key.name, key.read_only, key.created_ms, self._used_ms.get(key.name))
            for key in self._keys.values()
        ]

    async def create(self, name: str, *, read_only: bool) -> str:
        """The new key, which nobody can be told again. Raises BadRequest."""
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"The name of an admin key is 1 to 64 ASCII letters, digits, `_`, `.` and `-`, not {name[:100]!r}."
            )
        secret, keys_max = random_bytes(SECRET_BYTES).hex(), self._limits.admin_keys_max
        digest = digest_of(secret)
        run = await self._executor.run_system(
            lambda transaction: admin_keys.add(transaction, name, digest, read_only=read_only, keys_max=keys_max)
        )
        self._keys[name] = run.value
        return KEY_PREFIX + secret

    async def revoke(self, name: str) -> None:
        """From the commit on the key is worth nothing, also for who is connected with it. Raises BadRequest."""

        def forget(commit_ts: int) -> None:
            self._keys.pop(name, None)
            self._used_ms.pop(name, None)
            for listener in self._on_revoked:
                listener(name)

        await self._executor.run_system(lambda transaction: admin_keys.remove(transaction, name), on_commit=forget)
