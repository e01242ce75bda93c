"""What one transaction may still read and write.

Every count is raised before it is compared and a read is never given back, so a function that swallows the error meets
it again at its next read. What is exceeded is remembered: the transaction cannot commit any more. Nested calls share
their caller's budget; the writes of a nested mutation that was rolled back are given back, its reads are not
(semantics C7, F).
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from evolute.errors import LimitReached
from evolute.limits import MIB, Limits

READ_ADVICE = (
    "Consider using smaller limits in your queries, paginating your queries, "
    "or using indexed queries with a selective index range expressions."
)


class WriteCounts(NamedTuple):
    """How much had been written at a savepoint."""

    documents: int
    bytes: int
    system_documents: int
    system_bytes: int


class ReadsLeft(NamedTuple):
    """How much may still be read."""

    documents: int
    bytes: int


class Budget:
    """Counts for one transaction. `exceeded` is the first limit that was reached, or None."""

    __slots__ = (
        "_bytes_read_max",
        "_documents_read_max",
        "_limits",
        "bytes_read",
        "bytes_written",
        "documents_read",
        "documents_written",
        "exceeded",
        "system_bytes_written",
        "system_documents_written",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._documents_read_max = limits.documents_read_max
        self._bytes_read_max = limits.bytes_read_max
        self.documents_read = 0
        self.bytes_read = 0
        self.documents_written = 0
        self.bytes_written = 0
        self.system_documents_written = 0
        self.system_bytes_written = 0
        self.exceeded: LimitReached | None = None

    def count_read(self, size_bytes: int) -> None:
        """One document was read. Raises LimitReached."""
        self.documents_read += 1
        self.bytes_read += size_bytes
        if self.documents_read > self._documents_read_max:
            self._refuse("documents read", f"{self._documents_read_max}", "documents_read_max", READ_ADVICE)
        if self.bytes_read > self._bytes_read_max:
            self._refuse("bytes read", f"{self._bytes_read_max} bytes", "bytes_read_max", READ_ADVICE)

    def reads_left(self) -> ReadsLeft:
        return ReadsLeft(self._documents_read_max - self.documents_read, self._bytes_read_max - self.bytes_read)

    def count_write(self, size_bytes: int, *, user_table: bool = True) -> None:
        """One document was written; writing it again counts again. Raises LimitReached."""
        limits = self._limits
        if not user_table:
            self._count_system_write(size_bytes)
            return
        self.documents_written += 1
        self.bytes_written += size_bytes
        if self.documents_written > limits.documents_written_max:
            self._refuse("writes", f"{limits.documents_written_max}", "documents_written_max")
        if self.bytes_written > limits.bytes_written_max:
            self._refuse("bytes written", _size(limits.bytes_written_max), "bytes_written_max")

    def _count_system_write(self, size_bytes: int) -> None:
        """A row of the runtime's own, such as a job."""
        limits = self._limits
        self.system_documents_written += 1
        self.system_bytes_written += size_bytes
        if self.system_documents_written > limits.system_documents_written_max:
            self._refuse(
                "system table writes", f"{limits.system_documents_written_max}", "system_documents_written_max"
            )
        if self.system_bytes_written > limits.system_bytes_written_max:
            text = _size(limits.system_bytes_written_max)
            self._refuse("bytes written to system tables", text, "system_bytes_written_max")

    def used(self) -> dict[str, int]:
        """How much of each limit was used, by the name of its setting."""
        return {
            "documents_read_max": self.documents_read,
            "bytes_read_max": self.bytes_read,
            "documents_written_max": self.documents_written,
            "bytes_written_max": self.bytes_written,
            "system_documents_written_max": self.system_documents_written,
            "system_bytes_written_max": self.system_bytes_written,
        }

    def uncounted(self) -> Uncounted:
        """What is read meanwhile is not counted: the runtime's own rows, whose number and size have other bounds."""
        return Uncounted(self)

    def written(self) -> WriteCounts:
        return WriteCounts(
            self.documents_written, self.bytes_written, self.system_documents_written, self.system_bytes_written
        )

    def give_back(self, counts: WriteCounts) -> None:
        """The writes since `counts` was taken were rolled back."""
        self.documents_written, self.bytes_written = counts.documents, counts.bytes
        self.system_documents_written, self.system_bytes_written = counts.system_documents, counts.system_bytes

    def exceed(self, error: LimitReached) -> LimitReached:
        """A limit that is counted elsewhere was reached; returns the error to be raised."""
        self.exceeded = self.exceeded or error
        return error

    def _refuse(self, what: str, limit: str, setting: str, advice: str = "") -> None:
        text = f"Too many {what} in a single function execution (limit: {limit})"
        text += f". {advice} The setting is `{setting}`." if advice else f". The setting is `{setting}`."
        raise self.exceed(LimitReached(text))


def _size(size_bytes: int) -> str:
    return f"{size_bytes // MIB} MiB" if size_bytes % MIB == 0 else f"{size_bytes} bytes"


class Uncounted:
    """While inside, the budget has no end; then it is what it was before. Made for every look at a job."""

    __slots__ = ("_before", "_budget")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> None:
        budget = self._budget
        self._before = budget.documents_read, budget.bytes_read, budget._documents_read_max, budget._bytes_read_max
        budget._documents_read_max = budget._bytes_read_max = sys.maxsize

    def __exit__(self, *_: object) -> None:
        budget = self._budget
        budget.documents_read, budget.bytes_read, budget._documents_read_max, budget._bytes_read_max = self._before
