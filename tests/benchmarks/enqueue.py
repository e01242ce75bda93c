"""What one `ctx.scheduler.run_after` costs inside a mutation: many of them in one, less a mutation that does nothing.

In this process, on a real store, by the same code that a worker runs. Times are processor time of the thread, which
other processes disturb the least; the smallest of the rounds is what it costs, the median how steady that is.

uv run python -m tests.benchmarks.enqueue
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from evolute import garbage_collector
from evolute.execution.request import Call
from evolute.values.wire_codec import encode
from tests.benchmarks.measures import Figures, arguments_of, percentile, show
from tests.unit.function_store import FunctionStore

MODULE = """
@internal_mutation
def nothing(ctx: MutationCtx) -> None:
    pass

@mutation
def enqueue(ctx: MutationCtx, count: int) -> None:
    for _ in range(count):
        ctx.scheduler.run_after(0, nothing)
"""


def run_us(store: FunctionStore, count: int, *, commit: bool) -> float:
    request = store.request("mutation", Call("jobs:enqueue", encode({"count": count}), kind="mutation"))
    with store.snapshot() as snapshot:
        begun_s = time.thread_time()
        outcome = store.runner.run(request, snapshot)
        elapsed_us = (time.thread_time() - begun_s) * 1e6
    assert outcome.write_set is not None, outcome.results[0].error
    if commit:
        store.commit(outcome.write_set)
    return elapsed_us


def measure(options: argparse.Namespace) -> Figures:
    garbage_collector.search_seldom()  # as a worker does
    each: list[float] = []
    with tempfile.TemporaryDirectory(prefix="evolute-benchmark-") as folder:
        store = FunctionStore(Path(folder), {"jobs.py": MODULE})
        for _ in range(options.rounds):
            empty_us = run_us(store, 0, commit=False)
            each.append((run_us(store, options.jobs, commit=True) - empty_us) / options.jobs)
    return {
        "run_after min us": min(each),
        "run_after p50 us": percentile(each, 0.5),
        "per mutation": options.jobs,
        "rounds": options.rounds,
    }


def main() -> None:
    parser = arguments_of("Measures the cost of scheduling inside a mutation.")
    parser.add_argument("--jobs", type=int, default=1000, help="in one mutation")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    show("run_after inside a mutation", measure(options), as_json=options.json)


if __name__ == "__main__":
    main()
