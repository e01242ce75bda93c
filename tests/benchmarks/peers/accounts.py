"""The accounts in SQLite, as a competent user would keep them: WAL mode, every commit synced, one connection.

It knows the standard library only, because it runs with the interpreter of a peer's own environment. The statements run
on the event loop: a transfer holds it for the time of one sync, and a thread for each would cost more than that gives
back (FastAPI with `def` instead of `async def`, which is its thread pool, was slower here).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

TABLE = "CREATE TABLE accounts (number INTEGER PRIMARY KEY, balance INTEGER NOT NULL)"


class NoAccount(LookupError):
    """There is no account of that number."""


class Accounts:
    def __init__(self, path: Path, count: int, balance: int) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(TABLE)
        self._connection.execute("BEGIN")
        rows = ((number, balance) for number in range(count))
        self._connection.executemany("INSERT INTO accounts VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def transfer(self, from_id: int, to_id: int, amount: int) -> None:
        """Two reads by an index and two updates in one transaction. Raises NoAccount, and nothing has happened."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            source, target = self._balance(from_id), self._balance(to_id)
            execute("UPDATE accounts SET balance = ? WHERE number = ?", (source - amount, from_id))
            execute("UPDATE accounts SET balance = ? WHERE number = ?", (target + amount, to_id))
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")

    def total(self) -> int:
        found: int = self._connection.execute("SELECT sum(balance) FROM accounts").fetchone()[0]
        return found

    def close(self) -> None:
        self._connection.close()

    def _balance(self, number: int) -> int:
        row = self._connection.execute("SELECT balance FROM accounts WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise NoAccount(f"there is no account {number}")
        balance: int = row[0]
        return balance
