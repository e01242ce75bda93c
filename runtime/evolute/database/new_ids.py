"""The internal ids of a transaction's new documents: from its seed in counter mode, so that a run can be repeated."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from evolute.clock import NS_PER_S
from evolute.values.document_id import RANDOM_BYTES, new_internal_id

NS_PER_DAY: Final = 24 * 3600 * NS_PER_S


class NewIds:
    """`seed` (random bytes, new for each attempt) makes all of them, in their order."""

    __slots__ = ("_day", "_made", "_random", "_seed")

    def __init__(self, seed: bytes, now_ns: int) -> None:
        self._seed = seed
        self._day = now_ns // NS_PER_DAY
        self._made = 0
        self._random: blake2b | None = None

    def next(self) -> bytes:
        if self._random is None:  # most transactions make no documents
            self._random = blake2b(digest_size=RANDOM_BYTES, key=self._seed, person=b"document id")
        random = self._random.copy()  # of the seed, which is hashed once
        random.update(self._made.to_bytes(8, "big"))
        self._made += 1
        return new_internal_id(random.digest(), self._day)
