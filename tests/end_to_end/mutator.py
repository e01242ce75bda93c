"""Bytes that are hardly right: what was right, changed a little by a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Sequence

NUMBERS = (b"-1", b"0", b"4294967295", b"4294967296", b"9223372036854775808", b"1e400", b"0.5", b"-0.0", b"NaN")
TOKENS = (
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b'"\\ud800"',
    b"\xff",
    b"\x00",
    b"\xed\xa0\x80",
    b"[" * 500,
    b'{"$float":"',
)


class Mutator:
    def __init__(self, seed: int, corpus: Sequence[bytes]) -> None:
        self.random = random.Random(seed)
        self._corpus = corpus

    def any(self) -> bytes:
        """One of the corpus, as it is."""
        return self.random.choice(self._corpus)

    def changed(self, data: bytes) -> bytes:
        """`data` with one to four changes."""
        for _ in range(self.random.randint(1, 4)):
            data = self.random.choice(self._changes)(self, data)
        return data

    def _place(self, data: bytes) -> tuple[int, int]:
        start = self.random.randint(0, len(data))
        return start, min(len(data), start + self.random.choice((0, 1, 1, 2, 8, 64)))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self.random.randrange(len(data))
        return data[:at] + bytes((data[at] ^ 1 << self.random.randrange(8),)) + data[at + 1 :]

    def _drop(self, data: bytes) -> bytes:
        start, end = self._place(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        start, end = self._place(data)
        return data[:end] + data[start:end] * self.random.choice((1, 2, 100)) + data[end:]

    def _replace(self, data: bytes) -> bytes:
        start, end = self._place(data)
        return data[:start] + self.random.choice(NUMBERS + TOKENS) + data[end:]

    def _number(self, data: bytes) -> bytes:
        """Another number where there is one."""
        digits = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
        if not digits:
            return data
        at = self.random.choice(digits)
        return data[:at] + self.random.choice(NUMBERS) + data[at + 1 :]

    def _splice(self, data: bytes) -> bytes:
        """Its beginning, and the end of another."""
        other = self.any()
        return data[: self._place(data)[0]] + other[self._place(other)[0] :]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._place(data)[0]]

    _changes = (_flip, _drop, _repeat, _replace, _number, _number, _splice, _cut)
