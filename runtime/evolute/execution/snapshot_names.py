"""Names and numbers of tables for who has no transaction: validators of actions, and of calls from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.limits import Limits

T = TypeVar("T")


class SnapshotNames:
    """Names and numbers of tables for validators, read from short snapshots and remembered: they never change."""

    def __init__(self, open_snapshot: Callable[[], Snapshot], limits: Limits) -> None:
        self._open_snapshot = open_snapshot
        self._limits = limits
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def table_number(self, name: str) -> int | None:
        number = self._numbers.get(name)
        if number is None:
            number = self._read(lambda transaction: transaction.table_number(name))
            if number is not None:
                self._numbers[name] = number
        return number

    def table_name(self, number: int) -> str | None:
        name = self._names.get(number)
        if name is None:
            name = self._read(lambda transaction: transaction.table_name(number))
            if name is not None:
                self._names[number] = name
        return name

    def _read(self, read: Callable[[Transaction], T]) -> T:
        with self._open_snapshot() as snapshot:
            transaction = Transaction(snapshot, limits=self._limits, now_ns=0, seed=b"", writable=False)
            return read(transaction)
