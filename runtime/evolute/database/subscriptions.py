"""Subscriptions: who is told when what he has read is no longer what the store holds.

A token is a read set and a timestamp at which what was read is known to be good. Whoever subscribes to a token is told
once, of the first commit after that timestamp that touches the read set; until then the result is good at every
timestamp that the log publishes, with nothing to be done for it:

    token.ts        subscribe                                broken_at
       ├───────────────┼────────────────────────────────────────┤
       │  the log is   │  every publication stabs the interval  │  told and removed;
       │  asked        │  map: not hit means still good         │  a new run makes a new token
       ╰──── good at every published timestamp from here ───────╯ until here

Everything here is synchronous and happens on the event loop's thread; publications come from the committer, in the
order of their timestamps, in the turn in which they are published. So there is no moment between asking the log and
entering the map in which a commit could slip through.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from evolute.database.interval_map import IntervalMap
from evolute.database.read_set import ReadSet
from evolute.database.write_log import LogReader
from evolute.errors import OutOfRetention, Overloaded
from evolute.limits import Limits


class Token(NamedTuple):
    """What was read, and a timestamp at which it is known to be good. The read set does not change any more."""

    read_set: ReadSet
    ts: int


@dataclass(frozen=True)
class SubscriptionStatistics:
    """The subscriptions at one moment."""

    live: int
    intervals: int
    """Distinct points and ranges of the live ones."""
    broken: int
    """Subscriptions that a commit has broken since the start."""


class Subscription:
    """One token that is being watched. It ends by being broken, once, or by `close`, whichever comes first."""

    __slots__ = ("_number", "_on_broken", "_subscriptions", "broken_at", "read_set", "ts")

    def __init__(
        self, subscriptions: Subscriptions, number: int, token: Token, on_broken: Callable[[int], None]
    ) -> None:
        self._subscriptions: Subscriptions | None = subscriptions
        self._number = number
        self._on_broken = on_broken
        self.read_set, self.ts = token
        self.broken_at: int | None = None
        """The token is good at every published timestamp before this one; None while it is good at all of them.
        After `close` it is not kept up any more."""

    @property
    def token(self) -> Token:
        return Token(self.read_set, self.ts)

    def close(self) -> None:
        """Ends the watch; `on_broken` is not called any more. Idempotent."""
        if self._subscriptions is not None:
            self._subscriptions._remove(self)
            self._subscriptions = None


class Subscriptions:
    """All live subscriptions of the database."""

    def __init__(self, log: LogReader, limits: Limits) -> None:
        self._log = log
        self._subscriptions_max = limits.subscriptions_max
        self._map: IntervalMap[Subscription] = IntervalMap()
        self._numbers = itertools.count()
        self._broken = 0

    def subscribe(self, token: Token, on_broken: Callable[[int], None]) -> Subscription:
        """Watches `token`; `on_broken(commit_ts)` is called, synchronously, by the commit that breaks it.

        If the token is broken already, or so old that the log cannot tell, `broken_at` is set on return, to the
        earliest that it can be, and `on_broken` is never called. `on_broken` must be quick and must not raise; it may
        subscribe and close. Raises Overloaded at `subscriptions_max`.
        """
        if len(self._map) >= self._subscriptions_max:
            raise Overloaded(
                f"There are {len(self._map)} live subscriptions, as many as subscriptions_max allows. "
                "Close some, or raise the limit."
            )
        subscription = Subscription(self, next(self._numbers), token, on_broken)
        if self._is_broken(token):
            subscription.broken_at = token.ts + 1
            subscription._subscriptions = None
        else:
            self._map.insert(subscription, token.read_set)
        return subscription

    def publish(self, commit_ts: int, keys: Collection[bytes]) -> None:
        """The committer's part: breaks every subscription that `keys` touch. Commits come in order, each once.

        Within a batch the log publishes all commits before the first of them comes here, so that a token may be newer
        than the commit. That commit is part of what it has read and never breaks it.
        """
        hits = self._map.stab(keys)
        if not hits:
            return
        broken = [subscription for subscription in hits if subscription.ts < commit_ts]
        broken.sort(key=lambda subscription: subscription._number)
        for subscription in broken:
            self._map.remove(subscription, subscription.read_set)
            subscription.broken_at = commit_ts
        self._broken += len(broken)
        # Only now, with the map at rest, the callbacks: they may subscribe anew, or close those that come after them.
        for subscription in broken:
            if subscription._subscriptions is not None:
                subscription._subscriptions = None
                subscription._on_broken(commit_ts)

    def statistics(self) -> SubscriptionStatistics:
        return SubscriptionStatistics(live=len(self._map), intervals=self._map.count_intervals(), broken=self._broken)

    def _is_broken(self, token: Token) -> bool:
        try:
            return self._log.first_published_touch(token.read_set, token.ts) is not None
        except OutOfRetention:
            return True

    def _remove(self, subscription: Subscription) -> None:
        if subscription.broken_at is None:
            self._map.remove(subscription, subscription.read_set)
