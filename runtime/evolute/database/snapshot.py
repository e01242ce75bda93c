"""A reader together with the timestamp that it shows.

The two are read together, the timestamp *inside* the reader: what the log has published is a little older than what a
new reader sees, and a transaction that began at the wrong one of the two would be validated against the wrong commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from evolute.errors import StoreCorrupt
from evolute.storage.engine import Reader
from evolute.storage.keyspace import LAST_TS, decode_number


class Snapshot:
    """Everything committed up to `begin_ts`, and nothing after it. Owns the reader; close it soon.

    Raises StoreCorrupt for a store that has no last timestamp; the reader is closed then.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.begin_ts = 0
        try:
            last_ts = reader.get(LAST_TS)
            if last_ts is None or len(last_ts) != 8:
                raise StoreCorrupt("the store has no last timestamp: it was never opened by a server, or is damaged")
        except BaseException:
            reader.close()
            raise
        self.begin_ts = decode_number(last_ts)

    def get(self, key: bytes) -> bytes | None:
        return self._reader.get(key)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """The rows with start <= key < end, lazily."""
        return self._reader.scan(start, end, reverse=reverse)

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
