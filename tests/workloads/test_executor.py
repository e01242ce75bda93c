"""Whatever goes wrong, everybody sees one history: bank, cycle, mirror and appends at one backend.

The paths that make it fast are the ones that are walked: views of what is pending, lines and crowds, batches, runs
that were sent ahead and are run elsewhere. `--seed N` repeats what was drawn, `--seeds N` runs so many from there on:
`pytest tests/workloads/test_executor.py --seeds 100 -rP` shows the figures, too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from tests.workloads.appends import Appends
from tests.workloads.bank import Bank
from tests.workloads.cycle import Cycle
from tests.workloads.executor_load import Faults, Load, Report, Workload, in_process_files_may_grow, limits_drawn
from tests.workloads.mirror import Mirror

CALLERS, STEPS, WATCHERS = 20, 40, 3
IN_TIME_S_MAX = 120


async def run(folder: Path, seed: int, faults: Faults) -> Report:
    random = Random(seed)
    limits = limits_drawn(random)
    few = random.random() < 0.6
    load = Load(folder, random.randrange(10**9), faults, limits)
    workloads: list[Workload] = [
        Bank(accounts=3 if few else 40),
        Cycle(nodes=5 if few else 40),
        Mirror(names=2 if few else 20),
        Appends(lists=random.choice((1, 2, 3)) if few else 12),
    ]
    async with asyncio.timeout(IN_TIME_S_MAX), load:
        await load.run(workloads, callers=CALLERS, steps=STEPS, watchers=WATCHERS)
    return load.report


def test_there_is_one_history_whatever_goes_wrong(tmp_path: Path, seed: int) -> None:
    faults = Faults.drawn(Random(seed))
    with in_process_files_may_grow():
        report = asyncio.run(run(tmp_path, seed, faults))
    print(f"seed {seed}: {faults}: {report}")
    assert report.calls == CALLERS * STEPS
    assert report.conflicts > 0 < report.edges
