"""Contestants take turns, A B C A B C, so that what else happens on the machine happens to all of them.

Every turn has new connections, for a server closes those on which nothing happens. A rate is the median of the turns; a
ratio is the median of the ratios of turns that were side by side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from tests.benchmarks.measures import CpuTimes, Figures, Running, cpu_times, percentile


def with_turns(parser: argparse.ArgumentParser, *, seconds: float, warmup: float) -> argparse.ArgumentParser:
    """The parser with the options of turns, and these defaults."""
    parser.add_argument("--seconds", type=float, default=seconds, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each; the median counts")
    parser.add_argument("--warmup", type=float, default=warmup, help="seconds of each before the measurement")
    parser.add_argument("--tell", action="store_true", help="also print what happened in every turn")
    return parser


class Loading(Protocol):
    """A Load, or what is one to something that is no server."""

    @property
    def latencies_ms(self) -> Sequence[float]: ...

    @property
    def failures(self) -> Sequence[str]: ...

    def run(self, seconds: float) -> float: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Contestant:
    name: str
    server: Running
    connect: Callable[[], Loading]


@dataclass(frozen=True)
class Turn:
    elapsed_s: float
    latencies_ms: Sequence[float]
    failures: Sequence[str]
    used: CpuTimes

    @property
    def per_s(self) -> float:
        return len(self.latencies_ms) / self.elapsed_s


Turns = dict[str, list[Turn]]


def take_turns(
    contestants: Sequence[Contestant], rounds: int, seconds: float, warmup_s: float, *, tell: bool = False
) -> Turns:
    """Each has a turn of `warmup_s` first, which is not kept. `tell` prints every other one to stderr as it ends."""
    turns: Turns = {contestant.name: [] for contestant in contestants}
    for contestant in contestants:
        _turn(contestant, warmup_s)
    for _ in range(rounds):
        for contestant in contestants:
            turn = _turn(contestant, seconds)
            turns[contestant.name].append(turn)
            if tell:
                p99_ms = percentile(turn.latencies_ms, 0.99)
                print(f"  {contestant.name}: {turn.per_s:.0f}/s, p99 {p99_ms:.1f} ms", file=sys.stderr, flush=True)
    return turns


def _turn(contestant: Contestant, seconds: float) -> Turn:
    with closing(contestant.connect()) as load:
        before = cpu_times(contestant.server)
        elapsed_s = load.run(seconds)
        used = cpu_times(contestant.server).since(before)
    return Turn(elapsed_s, load.latencies_ms, load.failures, used)


def figures_of(turns: Sequence[Turn]) -> Figures:
    """A row of the table."""
    latencies_ms = sorted(latency_ms for turn in turns for latency_ms in turn.latencies_ms)
    rates = [turn.per_s for turn in turns]
    elapsed_s, used = sum(turn.elapsed_s for turn in turns), CpuTimes.sum_of([turn.used for turn in turns])
    p50_ms, p99_ms = percentile(latencies_ms, 0.5), percentile(latencies_ms, 0.99)
    return {
        "per s": round(statistics.median(rates)),
        "from": round(min(rates)),
        "to": round(max(rates)),
        "p50 ms": p50_ms,
        "p99 ms": p99_ms,
        "max ms": latencies_ms[-1],
        "p99 / p50": p99_ms / p50_ms,
        "failed": sum(len(turn.failures) for turn in turns),
        **used.figures(elapsed_s, len(latencies_ms)),
    }


def ratio(mine: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    """How many times as fast as they."""
    return statistics.median(one.per_s / other.per_s for one, other in zip(mine, theirs, strict=True))
