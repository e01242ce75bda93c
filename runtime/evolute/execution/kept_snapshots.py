"""Snapshots that a transaction worker keeps for a while, so that queries can be run as of an earlier time.

    request kept=7, no function     open one, and answer with its timestamp
    request kept=7, queries         run them in it; refused if it is not here (any more)
    request kept=-7                 let it go

A snapshot that is kept keeps pages of the store from being used again, so the server lets go of it in time. Should the
server have forgotten it, which happens if another worker died at the wrong moment, the next request of any kind does.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.clock import NS_PER_MS, monotonic_ns
from evolute.database.snapshot import Snapshot
from evolute.execution.request import SNAPSHOT_GONE, FunctionOutcome, FunctionRequest
from evolute.execution.runner import Runner
from evolute.limits import Limits
from evolute.storage.engine import Engine


@dataclass(frozen=True)
class _Kept:
    snapshot: Snapshot
    until_ns: int


class KeptSnapshots:
    """Of one worker, on its one thread."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._keep_ns = 2 * limits.pinned_snapshot_ms * NS_PER_MS
        self._kept: dict[int, _Kept] = {}

    def run(self, runner: Runner, request: FunctionRequest) -> FunctionOutcome:
        """What becomes of a request that has a number in `kept`."""
        if request.kept < 0:
            self._let_go(-request.kept)
            return FunctionOutcome(request.id, 0, ())
        kept = self._kept.get(request.kept)
        if request.calls:
            if kept is None:
                return FunctionOutcome(request.id, 0, (), refused=SNAPSHOT_GONE)
            return runner.run_queries(request, kept.snapshot)
        if kept is None:
            kept = _Kept(Snapshot(self._engine.reader()), monotonic_ns() + self._keep_ns)
            self._kept[request.kept] = kept
        return FunctionOutcome(request.id, kept.snapshot.begin_ts, ())

    def let_go_of_the_old(self) -> None:
        if self._kept:
            now_ns = monotonic_ns()
            for number in [number for number, kept in self._kept.items() if kept.until_ns < now_ns]:
                self._let_go(number)

    def _let_go(self, number: int) -> None:
        kept = self._kept.pop(number, None)
        if kept is not None:
            kept.snapshot.close()
