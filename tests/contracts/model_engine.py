"""The engine as its contract reads, in forty lines: a dictionary, copied for each reader and sorted for each scan.

The contract tests run on it and on LmdbEngine, and the mirror test drives both and compares every answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from evolute.errors import FateUnknown
from evolute.storage.engine import EngineStatistics


class ModelReader:
    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self._rows = dict(rows)
        self._open = True

    def get(self, key: bytes) -> bytes | None:
        assert self._open
        return self._rows.get(key)

    def scan(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        keys = sorted((k for k in self._rows if start <= k and (end is None or k < end)), reverse=reverse)
        for key in keys:
            assert self._open
            yield key, self._rows[key]

    def close(self) -> None:
        self._open = False


class ModelEngine:
    """Nothing of it is durable; it exists to be compared with."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._open = True

    def reader(self, *, unbounded: bool = False) -> ModelReader:
        return ModelReader(self._rows)

    def write(self, puts: Mapping[bytes, bytes | None], *, on_puts: Callable[[], None] | None = None) -> None:
        if not self._open:
            raise FateUnknown("closed")
        rows = dict(self._rows)
        for key, value in puts.items():
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value
        if on_puts is not None:
            on_puts()
        self._rows = rows

    def check_readers(self) -> int:
        return 0

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(len(self._rows), 0, 0, 0, 0, 0, 0)

    def close(self) -> None:
        self._open = False
