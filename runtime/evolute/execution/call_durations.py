"""How long calls took, by kind: a histogram that is kept as they end and read as a frozen value."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BUCKETS_MS: Final = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 60_000, 600_000)


@dataclass(frozen=True)
class KindDurations:
    """The calls of one kind since the start. `counts[i]` took at most `BUCKETS_MS[i]` and longer than those before it;
    the last of them took longer than any bucket."""

    counts: tuple[int, ...]
    total_ms: float
    errors: int


class CallDurations:
    """For the event loop's thread only."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kept] = {}

    def add(self, kind: str, duration_ms: float, *, failed: bool) -> None:
        kept = self._kinds.get(kind)
        if kept is None:
            kept = self._kinds[kind] = _Kept()
        kept.counts[bisect_left(BUCKETS_MS, duration_ms)] += 1
        kept.total_ms += duration_ms
        kept.errors += failed

    def statistics(self) -> Mapping[str, KindDurations]:
        return {
            kind: KindDurations(tuple(kept.counts), kept.total_ms, kept.errors) for kind, kept in self._kinds.items()
        }


class _Kept:
    __slots__ = ("counts", "errors", "total_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_MS) + 1)
        self.total_ms = 0.0
        self.errors = 0
