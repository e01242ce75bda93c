"""The chance of each run: random bytes, new for every request."""

from __future__ import annotations

from collections.abc import Iterator

from evolute.clock import random_bytes

SEED_BYTES = 32
SEEDS_PER_READING = 64


def seeds() -> Iterator[bytes]:
    """Random, each new. Many are read at a time: to read lets go of the interpreter, which the writer thread takes."""
    while True:
        data = random_bytes(SEED_BYTES * SEEDS_PER_READING)
        yield from (data[start : start + SEED_BYTES] for start in range(0, len(data), SEED_BYTES))
