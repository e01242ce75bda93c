"""A write that a transaction makes only if somebody looks: that a job is in progress, in the job's own transaction.

    defer ──► the document, or a range of its table, is read ──► made, before it is read
      └─────► withdrawn, because another write takes its place ──► never made

So a row that changes twice in one transaction, and that nobody reads in between, is read, checked and encoded once. One
that is neither withdrawn nor looked for is made when the write set is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Deferral(NamedTuple):
    document_key: bytes
    table_number: int
    write: Callable[[], None]


class DeferredWrite:
    """At most one waits. A savepoint keeps `waiting`, and a rollback puts it back: what was made since is undone."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: Deferral | None = None

    def defer(self, document_key: bytes, table_number: int, write: Callable[[], None]) -> None:
        assert self.waiting is None, "one write can be deferred at a time"
        self.waiting = Deferral(document_key, table_number, write)

    def withdraw(self, document_key: bytes) -> None:
        """The write to this document need not be made any more, if it waits."""
        if self.waiting is not None and self.waiting.document_key == document_key:
            self.waiting = None

    def make_for_document(self, document_key: bytes) -> None:
        if self.waiting is not None and self.waiting.document_key == document_key:
            self.make()

    def make_for_table(self, table_number: int) -> None:
        if self.waiting is not None and self.waiting.table_number == table_number:
            self.make()

    def make(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.write()
