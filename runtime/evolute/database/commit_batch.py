"""Transactions on their way to the disk: one arrival each, and the batch in which several are written as one.

    arrival  ts 103   puts {a: 1, b: 2}                  batch   {a: 3, b: 2, c: 103, LAST_TS: 104}
    arrival  ts 104   puts {a: 3, c: COMMIT_TS}    ──►

An arrival's caller waits for `done`, and may have gone away by the time that its fate is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from evolute.clock import monotonic_ns
from evolute.database.chain import Link
from evolute.database.fill import Fill
from evolute.database.pending_view import Puts
from evolute.database.read_set import ReadSet
from evolute.database.write_set import WriteSet
from evolute.limits import Limits
from evolute.storage.keyspace import LAST_TS, encode_number
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, int64_json


class Arrival:
    """One transaction that wants to commit. `done` gets its commit timestamp, or the reason why there is none."""

    __slots__ = (
        "_puts",
        "arrived_ns",
        "begin_ts",
        "bytes",
        "commit_ts",
        "done",
        "fill",
        "follows",
        "link",
        "on_published",
        "on_validated",
        "read_set",
        "seen",
        "validated_ns",
        "write_set",
    )

    def __init__(
        self,
        begin_ts: int,
        read_set: ReadSet,
        write_set: WriteSet,
        on_published: Callable[[int], None] | None,
        done: asyncio.Future[int],
        fill: Fill | None = None,
        seen: int | None = None,
        on_validated: Callable[[bool], None] | None = None,
        link: Link | None = None,
    ) -> None:
        self.begin_ts = begin_ts
        self.read_set = read_set
        self.write_set = write_set
        self.on_published = on_published
        self.done = done
        self.bytes = write_set.size
        self.fill = fill
        if fill is not None:
            self.bytes += fill.size
        self.seen = seen
        self.on_validated = on_validated
        self.link = link
        self.follows = False
        """It stands because it has seen the runs before it in its chain."""
        self.commit_ts = 0
        """Given when it has been validated."""
        self.arrived_ns, self.validated_ns = monotonic_ns(), 0
        self._puts: Puts | None = None

    def puts(self) -> Puts:
        """What it changes, with every stamped value's timestamp filled in. It must have been validated."""
        if self._puts is None:
            self._puts = self._stamped() if self.write_set.stamped or self.fill is not None else self.write_set.puts
        return self._puts

    def _stamped(self) -> Puts:
        puts = {**self.write_set.puts, **({} if self.fill is None else self.fill.entries)}
        for key, count in self.write_set.stamped.items():
            value = puts[key]
            assert value is not None
            puts[key] = value.replace(COMMIT_TS_PLACEHOLDER, int64_json(self.commit_ts), count)
        return puts

    def refuse(self) -> None:
        """It is not going to be pending: its chain must not wait for that."""
        if self.link is not None:
            self.link.refuse()

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(self.commit_ts)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class CommitBatch:
    """Validated arrivals that become durable together, in the order of their timestamps; never empty for long.

    The writer was given it at `begun_ns` and had it written at `written_ns`.
    """

    __slots__ = ("arrivals", "begun_ns", "bytes", "first_ts", "last_ts", "written_ns")

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.bytes = 0
        self.first_ts = self.last_ts = 0
        self.begun_ns = self.written_ns = 0

    def add(self, arrival: Arrival) -> None:
        arrival.validated_ns = monotonic_ns()
        self.arrivals.append(arrival)
        self.bytes += arrival.bytes
        self.first_ts = self.first_ts or arrival.commit_ts
        self.last_ts = arrival.commit_ts

    def take_out_founded_on_pending(self) -> list[Arrival]:
        """Those that have seen what was pending leave the batch; its timestamps stay."""
        taken = [arrival for arrival in self.arrivals if arrival.seen is not None]
        self.arrivals = [arrival for arrival in self.arrivals if arrival.seen is None]
        self.bytes -= sum(arrival.bytes for arrival in taken)
        return taken

    def is_full(self, limits: Limits) -> bool:
        return len(self.arrivals) >= limits.commit_batch_length_max or self.bytes >= limits.commit_batch_bytes_max

    def puts(self) -> dict[bytes, bytes | None]:
        """All of it as one storage write, with LAST_TS."""
        puts: dict[bytes, bytes | None] = {}
        for arrival in self.arrivals:
            puts.update(arrival.puts())
        puts[LAST_TS] = encode_number(self.last_ts)
        return puts
