"""A chain: runs of one worker, each of which sees what those before it want to write, before that is validated.

    worker   ─ run 1 ─── run 2 ─── run 3 ───►        run 2 reads what run 1 has written, and is founded on it
                  │         │         │
    server        ▼         ▼         ▼
               accept 1  accept 2  refuse 3          run 4, which has seen run 3, is refused as well: a new origin

Where many want the same row, waiting for each other's validation would leave the worker idle for the length of a way to
the server and back. In a chain they are sent one behind the other and follow each other as fast as they run.

`origin` names what has been founded on each other. A run of an origin has seen every earlier commit of the same origin,
be it in the store, in the view of what is pending, or as the worker's own; so none of these is a conflict for it, and
every other commit is. That holds because outcomes come in the order of the runs, because a run is only accepted if the
last one that it has seen was, and because an origin ends with the first refusal. Each run of a chain that wants to
write is accepted or refused, whatever becomes of its caller: one that has broken the chain off holds it up until then.

Until it is validated a run may have seen what never was: one before it that is refused, beside newer commits of others.
So nothing that it says is believed before, not even an error, or that it has nothing to write; and whatever it has met,
even what made it fail, is in its read set.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from evolute.database.write_set import WriteSet
from evolute.errors import Withdrawn
from evolute.storage.keyspace import SESSION_RECORDS_RANGE

NO_ORIGIN = 0
_origins = itertools.count(NO_ORIGIN + 1)


class ChainMark(NamedTuple):
    """What a worker is told with a request: the last run of that origin that was accepted."""

    origin: int
    accepted_id: int


class Chain:
    """The server's side, one for each worker. Ids are those of requests, and ascend."""

    __slots__ = ("accepted_ts", "mark")

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """A new origin: what was run so far, and has not been accepted, never will be."""
        self.mark = ChainMark(next(_origins), 0)
        self.accepted_ts = 0


class Link(NamedTuple):
    """The place of one run in its chain: behind `after_id`, the last run whose writes it has seen, or 0."""

    chain: Chain
    origin: int
    request_id: int
    after_id: int

    def require_founded(self) -> int:
        """The timestamp of what it has seen, 0 for nothing. Raises Withdrawn if that was not accepted."""
        if self.origin != self.chain.mark.origin or self.after_id > self.chain.mark.accepted_id:
            raise Withdrawn
        return self.chain.accepted_ts if self.after_id else 0

    def accept(self, commit_ts: int) -> None:
        self.chain.mark = ChainMark(self.origin, self.request_id)
        self.chain.accepted_ts = commit_ts

    def refuse(self) -> None:
        """It will not be committed, and nothing can be that has seen it."""
        if self.origin == self.chain.mark.origin:
            self.chain.renew()


class ChainedWrites:
    """The worker's side: what its runs want to write, until the view or the store has it.

    At most `bytes_max` of it. A run that wants to write more breaks the chain off: nothing is in it until that run has
    been accepted, or refused. So does one whose documents hold the timestamp of its own commit, which nobody knows yet:
    who wants the same row could only be told to come again.
    """

    __slots__ = ("_broken_off_id", "_bytes", "_bytes_max", "_runs", "origin")

    def __init__(self, bytes_max: int) -> None:
        self.origin = NO_ORIGIN
        self._bytes_max = bytes_max
        self._bytes = self._broken_off_id = 0
        self._runs: deque[tuple[int, int, WriteSet]] = deque()

    def begin(self, mark: ChainMark) -> bool:
        """Before a run: whether it is of the chain. Forgets what its snapshot and view have, or what was refused."""
        if mark.origin != self.origin:
            self.origin = mark.origin
            self._clear()
            self._broken_off_id = 0
        while self._runs and self._runs[0][0] <= mark.accepted_id:
            self._bytes -= self._runs.popleft()[1]
        return self._broken_off_id <= mark.accepted_id

    def add(self, request_id: int, write_set: WriteSet) -> None:
        """After a run of the chain that wants to write."""
        size = write_set.size
        self._bytes += size
        self._runs.append((request_id, size, write_set))
        if self._bytes > self._bytes_max or _is_to_be_read_stamped(write_set):
            self._clear()
            self._broken_off_id = request_id

    def _clear(self) -> None:
        self._runs.clear()
        self._bytes = 0

    @property
    def last_id(self) -> int:
        """The last run that is in `puts`; 0 if there is none."""
        return self._runs[-1][0] if self._runs else 0

    def puts(self) -> tuple[dict[bytes, bytes | None], Mapping[bytes, int]]:
        """All of it as one, and which values wait for the timestamp of a commit that nobody knows yet."""
        merged: dict[bytes, bytes | None] = {}
        stamped: dict[bytes, int] = {}
        for _, _, write_set in self._runs:
            merged.update(write_set.puts)
            if stamped:
                for key in write_set.puts.keys() & stamped.keys():
                    del stamped[key]
            stamped.update(write_set.stamped)
        return merged, stamped


def _is_to_be_read_stamped(write_set: WriteSet) -> bool:
    """Whether others are likely to read what waits for a timestamp; the record of a session's mutation is not."""
    return any(not key.startswith(SESSION_RECORDS_RANGE[0]) for key in write_set.stamped)
