"""Whether a history of list appends can have happened one after the other: a graph of what must have come first.

    T1 appends 1 to x        T2 reads x = [1], appends 2 to x        T3 reads x = [1]

    ww   T1 ──► T2    2 comes right after 1 in the list
    wr   T1 ──► T2    T2 has seen 1 as the last element
    rw   T3 ──► T2    T3 has not seen 2, the next element after the last that it saw
    time T1 ──► T2    T1 was over before T2 began

Every list is only appended to and no value is appended twice, so the last reading of a list shows in which order its
values were written, and every other reading says between which two of them it was made. If the graph has a cycle no
order explains what was seen. With the edges of time the order is one in which nobody is told of the past: strict
serializability. The timestamps that the server gave are not believed but checked: they must be one of the orders.

After Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations".
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

List = int  # the name of a list


@dataclass(eq=False)
class Done:
    """One transaction. `began` and `ended` are places in the order of all beginnings and ends; `ended` is None if
    nobody was told how it ended, and then it has seen nothing. `ts` is the commit's, or a query's snapshot's, if it is
    known; that of a `query` may be older than its beginning, if nothing that it has read was changed since.
    """

    began: int
    appends: Mapping[List, int] = field(default_factory=dict)
    reads: Mapping[List, Sequence[int]] = field(default_factory=dict)
    ended: int | None = None
    ts: int | None = None
    query: bool = False

    def __repr__(self) -> str:
        return f"<{self.began}–{self.ended} ts {self.ts} appends {dict(self.appends)} reads {dict(self.reads)}>"


class Edge(NamedTuple):
    before: Done
    after: Done
    why: str


class NotSerializable(AssertionError):
    """What was seen cannot have happened in any order."""


def check(history: Sequence[Done], last: Mapping[List, Sequence[int]]) -> int:
    """`last` is how the lists were read in the end; all that was certainly appended is in the history.

    Returns the number of edges that were proved to have no cycle. Raises NotSerializable.
    """
    writers = _writers(history, last)
    edges = [*_dependencies(history, last, writers)]
    _require_order_of_timestamps(edges)
    return len(edges) + _require_no_cycle(history, edges)


def _writers(history: Sequence[Done], last: Mapping[List, Sequence[int]]) -> dict[tuple[List, int], Done]:
    writers: dict[tuple[List, int], Done] = {}
    for done in history:
        for name, value in done.appends.items():
            assert (name, value) not in writers, "the values of a workload are unique"
            writers[name, value] = done
    for name, values in last.items():
        if len(set(values)) < len(values):
            raise NotSerializable(f"list {name} holds a value twice: {values}")
        for value in values:
            if (name, value) not in writers:
                raise NotSerializable(f"list {name} holds {value}, which nobody has appended with success: {values}")
    for (name, value), done in writers.items():
        if done.ended is not None and value not in last.get(name, ()):
            raise NotSerializable(f"{value} was appended to list {name} and is lost: {done}")
    return writers


def _dependencies(
    history: Sequence[Done], last: Mapping[List, Sequence[int]], writers: Mapping[tuple[List, int], Done]
) -> Iterator[Edge]:
    for name, values in last.items():
        for earlier, later in itertools.pairwise(values):
            yield Edge(writers[name, earlier], writers[name, later], f"ww on {name}")
    for done in history:
        for name, seen in done.reads.items():
            values = last.get(name, ())
            if list(seen) != list(values[: len(seen)]):
                raise NotSerializable(f"{done} has seen a list {name} that never was: it became {values}")
            if seen and writers[name, seen[-1]] is not done:
                yield Edge(writers[name, seen[-1]], done, f"wr on {name}")
            if len(seen) < len(values) and writers[name, values[len(seen)]] is not done:
                yield Edge(done, writers[name, values[len(seen)]], f"rw on {name}")


def _require_order_of_timestamps(edges: Sequence[Edge]) -> None:
    for before, after, why in edges:
        if before.ts is None or after.ts is None:
            continue
        in_order = before.ts < after.ts if after.appends else before.ts <= after.ts
        if not in_order:
            raise NotSerializable(f"the timestamps are in another order than what was seen ({why}): {before}, {after}")


def _require_no_cycle(history: Sequence[Done], edges: Sequence[Edge]) -> int:
    """With the edges of time: from each end to a mark, from mark to mark, from the last mark to what begins then."""
    whys = {(before, after): why for before, after, why in edges}
    graph: graphlib.TopologicalSorter[Done | int] = graphlib.TopologicalSorter()
    for before, after, _ in edges:
        graph.add(after, before)
    moments = sorted(
        [(done.began, done, False) for done in history]
        + [(done.ended, done, True) for done in history if done.ended is not None],
        key=lambda moment: moment[0],
    )
    mark: int | None = None
    latest_ts = 0
    for moment, done, is_end in moments:
        if is_end:
            graph.add(moment, *(() if mark is None else (mark,)), done)
            mark, latest_ts = moment, max(latest_ts, done.ts or 0)
        elif mark is not None:
            graph.add(done, mark)
            if done.ts is None or done.query:
                continue
            in_order = done.ts > latest_ts if done.appends else done.ts >= latest_ts
            if not in_order:
                raise NotSerializable(f"at {latest_ts} something had ended before this began: {done}")
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        cycle: list[Done | int] = error.args[1]
        raise NotSerializable(_told(cycle, whys)) from None
    return len(moments)


def _told(cycle: Sequence[Done | int], whys: Mapping[tuple[Done, Done], str]) -> str:
    """graphlib gives it backwards or forwards; each edge is one of those that are known, or one of time."""
    steps = [step for step in cycle if isinstance(step, Done)]
    lines = ["each of these must have come before the next, and the last is the first:"]
    for one, other in zip(steps, [*steps[1:], steps[0]], strict=True):
        why = whys.get((one, other)) or whys.get((other, one)) or "time"
        lines.append(f"  {one}  {why}")
    return "\n".join(lines)
