"""How often jobs of a pool may start: tokens that come at a steady rate, and of which few can be saved.

A tenth of a second's worth is saved at most (but always one token), so that the rate holds in every second and not only
on average. The clock may step: a step backwards brings no tokens, one forwards no more than can be saved.
"""

from __future__ import annotations

import math

from evolute.clock import NS_PER_S

SAVED_S = 0.1


class TokenBucket:
    """Full at first. All times are a clock's, given by the caller."""

    def __init__(self, per_second: float, now_ns: int) -> None:
        self.per_second = per_second
        self._saved_max = max(1.0, per_second * SAVED_S)
        self._tokens = self._saved_max
        self._since_ns = now_ns

    def tokens(self, now_ns: int) -> int:
        """How many may start now."""
        self._refill(now_ns)
        return math.floor(self._tokens + 1e-9)

    def take(self, count: int, now_ns: int) -> None:
        self._refill(now_ns)
        self._tokens -= count

    def ready_ns(self, now_ns: int) -> int:
        """When there is a token."""
        self._refill(now_ns)
        missing = max(0.0, 1 - self._tokens)
        return now_ns + math.ceil(missing / self.per_second * NS_PER_S)

    def _refill(self, now_ns: int) -> None:
        elapsed_s = max(0, now_ns - self._since_ns) / NS_PER_S
        self._tokens = min(self._saved_max, self._tokens + elapsed_s * self.per_second)
        self._since_ns = now_ns
