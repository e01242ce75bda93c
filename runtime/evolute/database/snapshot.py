"""A reader together with the timestamp that it shows.

The two are read together, the timestamp *inside* the reader: what the log has published is a little older than what a
new reader sees, and a transaction that began at the wrong one of the two would be validated against the wrong commits.

With a `PendingView` the snapshot is what the store will be when the commits of the view are durable, and with
`ChainedWrites` also what it will be when those are committed that the same worker has just run.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Self

from evolute.database.chain import ChainedWrites
from evolute.database.overlay import merge
from evolute.database.pending_view import PendingView
from evolute.errors import StoreCorrupt
from evolute.storage.engine import Reader
from evolute.storage.keyspace import LAST_TS, decode_number


class Snapshot:
    """Everything committed up to `begin_ts`, and nothing after it. Owns the reader; close it soon.

    `seen` is the `withdrawals` of the view if something of it is in the snapshot, else None. `chained` comes with a
    view, and is later than `begin_ts`. `has_met_unknown` is set once a value was read with a timestamp in it that
    nobody knows yet: what was made of it is worth nothing. Raises StoreCorrupt for a store that has no last timestamp;
    the reader is closed then.
    """

    def __init__(
        self, reader: Reader, pending: PendingView | None = None, chained: ChainedWrites | None = None
    ) -> None:
        self._reader = reader
        self.begin_ts = 0
        self.seen: int | None = None
        self._pending: dict[bytes, bytes | None] = {}
        self._sorted: list[bytes] = []
        self._unknown: Mapping[bytes, int] = {}
        self.has_met_unknown = False
        try:
            last_ts = reader.get(LAST_TS)
            if last_ts is None or len(last_ts) != 8:
                raise StoreCorrupt("the store has no last timestamp: it was never opened by a server, or is damaged")
        except BaseException:
            reader.close()
            raise
        self.begin_ts = decode_number(last_ts)
        if pending is not None:
            self.begin_ts, self._pending = pending.after(self.begin_ts)
            if chained is not None and chained.last_id:
                later, self._unknown = chained.puts()
                self._pending |= later
                # The store may have some of these already, and newer values that they now hide: what others have
                # committed since the view was made does not count as seen.
                self.begin_ts = min(self.begin_ts, pending.mark.ts)
            self.seen = pending.withdrawals if self._pending else None

    def get(self, key: bytes) -> bytes | None:
        if self._pending and key in self._pending:
            if key in self._unknown:
                self.has_met_unknown = True
            return self._pending[key]
        return self._reader.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The rows with start <= key < end, lazily."""
        rows = self._reader.scan(start, end, reverse=reverse)
        if not self._pending:
            return rows
        if not self._sorted:
            self._sorted = sorted(self._pending)
        keys = self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, end)]
        if not keys:
            return rows
        if self._unknown and not self._unknown.keys().isdisjoint(keys):
            self.has_met_unknown = True
        return merge(
            rows, ((key, self._pending[key]) for key in (reversed(keys) if reverse else keys)), reverse=reverse
        )

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
