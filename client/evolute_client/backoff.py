"""How long to wait before the next attempt to connect: doubling, capped, and spread out by chance.

Without the chance all clients of a server that restarts would come back in the same moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_MS = 100.0
LONGEST_MS = 15_000.0


class Backoff:
    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """`chance` gives numbers from 0 to 1."""
        self._chance = chance
        self._failures = 0

    def next_s(self) -> float:
        """Half to one and a half times 100 ms, 200 ms, 400 ms … 15 s."""
        delay_ms = min(FIRST_MS * 2.0 ** min(self._failures, 30), LONGEST_MS)
        self._failures += 1
        return delay_ms * (0.5 + self._chance()) / 1000

    def reset(self) -> None:
        """The connection has proved itself."""
        self._failures = 0
