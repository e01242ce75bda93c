"""How long to wait before the next attempt to connect: doubling, capped, and spread out by chance.

Without the chance all clients of a server that restarts would come back in the same moment. How long the first wait is
depends on why the connection went: a server that says it is overloaded is left alone for longer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_MS = 100.0
LONGEST_MS = 15_000.0
UNKNOWN_MS = 1000.0
FIRST_MS_BY_REASON = {
    "ServerShuttingDown": FIRST_MS,
    "ServerRestart": FIRST_MS,
    "InternalServerError": 1000.0,
    "TooManyConcurrent": 3000.0,  # Mutations, Actions, Requests
    "Overloaded": 3000.0,
    "CommitterFullError": 3000.0,
    "ExecuteFullError": 3000.0,
    "ExpiredInQueue": 3000.0,
    "SubscriptionsWorkerFullError": 3000.0,
    "SystemTimeoutError": 3000.0,
    "TooManyWritesInTimePeriod": 3000.0,
}
"""By what the reason of the server's close frame begins with."""


def first_ms(close_reason: str | None) -> float:
    """The first wait after the server closed for `close_reason`; None if it was not the server who closed."""
    if close_reason is None:
        return FIRST_MS
    return next((ms for prefix, ms in FIRST_MS_BY_REASON.items() if close_reason.startswith(prefix)), UNKNOWN_MS)


class Backoff:
    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        """`chance` gives numbers from 0 to 1."""
        self._chance = chance
        self._failures = 0

    def next_s(self, close_reason: str | None = None) -> float:
        """Half to one and a half times the first wait, twice that, four times … 15 s."""
        delay_ms = min(first_ms(close_reason) * 2.0 ** min(self._failures, 30), LONGEST_MS)
        self._failures += 1
        return delay_ms * (0.5 + self._chance()) / 1000

    def reset(self) -> None:
        """The connection has proved itself."""
        self._failures = 0
