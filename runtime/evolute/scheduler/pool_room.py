"""How much more of a pool may run: its free places, and its tokens if it has a rate."""

from __future__ import annotations

from collections import Counter

from evolute.scheduler.token_bucket import TokenBucket


class PoolRoom:
    """Counts what runs of one pool. `has_more` is whether jobs that are due were left for want of room."""

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()
        self.running = 0
        self.concurrency = 0
        self.has_more = False
        self._bucket: TokenBucket | None = None

    def limit(self, concurrency: int, per_second: float | None, now_ns: int) -> None:
        """What the deployment says, which may have changed."""
        self.concurrency = concurrency
        if per_second is None:
            self._bucket = None
        elif self._bucket is None or self._bucket.per_second != per_second:
            self._bucket = TokenBucket(per_second, now_ns)

    def free(self, now_ns: int) -> int:
        places = self.concurrency - self.running
        return places if self._bucket is None else min(places, self._bucket.tokens(now_ns))

    def waits_for_time(self, now_ns: int) -> bool:
        """Whether there is a place, and no token to start a job with."""
        return self._bucket is not None and self.running < self.concurrency and self._bucket.tokens(now_ns) < 1

    def why_full(self, pool: str, now_ns: int) -> str | None:
        """Why no job of it can be started now; None if one can."""
        if self.running >= self.concurrency:
            return f"the pool {pool} is full: {self.running} of {self.concurrency} run"
        if self._bucket is not None and self._bucket.tokens(now_ns) < 1:
            return f"the pool {pool} has used up its rate of {self._bucket.per_second:g} per second"
        return None

    def ready_ns(self, now_ns: int) -> int:
        assert self._bucket is not None
        return self._bucket.ready_ns(now_ns)

    def started(self, name: str, now_ns: int) -> None:
        self.running += 1
        self.by_name[name] += 1
        if self._bucket is not None:
            self._bucket.take(1, now_ns)

    def ended(self, name: str) -> None:
        self.running -= 1
        self.by_name[name] -= 1
        if not self.by_name[name]:
            del self.by_name[name]
