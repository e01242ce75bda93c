"""Servers die, and what their clients have seen can still have happened one after the other, and not a moment earlier.

The clients append to lists and read them, of which few are many conflicts: so transactions are founded on commits that
are not durable when the server is killed, at a failpoint of the committer or at a random moment; some servers lose a
worker before. A mutation that was sent again may have happened the first time. In the end the dependencies of all that
was seen have no cycle, nor with the order in which it was told. `--seed N` repeats a campaign's choices, `--rounds N`
makes it longer: `pytest tests/crash/test_history_crashes.py --rounds 200 -rP` shows the figures, too.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from pathlib import Path

import pytest

from evolute import failpoints
from evolute_client.async_client import Client
from tests.crash.crashes import CALLS_AT_ONCE, CLIENTS, Crashes, EagerClient
from tests.workloads.appends import APPENDS_MAX, READS_MAX
from tests.workloads.executor_load import FUNCTIONS
from tests.workloads.serializability import Done, check

ROUNDS = 3
LISTS = 4
VALUES_EACH = 60
HITS_MAX = 30


class HistoryCampaign(Crashes):
    """What clients were told, and between which moments."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed, FUNCTIONS, robs=True)
        self.history: list[Done] = []
        self._moments = itertools.count(1)
        self._values = itertools.count(1)
        self._appended = 0

    async def call(self, client: Client, name: str) -> None:
        first = self._appended // (LISTS * VALUES_EACH) * LISTS
        names = range(first, first + LISTS)
        reads = self.chance.sample(names, self.chance.randint(0, READS_MAX))
        appends = self.chance.sample(names, self.chance.randint(1, APPENDS_MAX)) if self.chance.random() < 0.8 else []
        value = next(self._values)
        done = Done(next(self._moments), dict.fromkeys(appends, value))
        if appends:
            seen = await client.mutation(
                "appends:read_and_append", reads=reads, appends=appends, value=value, pause_ms=0
            )
        else:
            seen = await client.query("appends:read", reads=reads)
        done.ended = next(self._moments)
        done.reads = dict(zip(reads, seen, strict=True))
        self._appended += len(appends)
        self.history.append(done)

    async def verify(self) -> int:
        """On a running server."""
        async with EagerClient(self.address) as client:
            names = sorted({name for done in self.history for name in done.appends})
            last = {name: (await client.query("appends:read", reads=[name]))[0] for name in names}
        return check(self.history, last)


async def run(campaign: HistoryCampaign, rounds: int) -> str:
    crashes: list[str | None] = [None] * rounds
    for name in failpoints.COMMITTER:
        hits = campaign.chance.randint(1, HITS_MAX)
        crashes.insert(campaign.chance.randrange(len(crashes) + 1), f"{name}:{hits}")
    async with campaign.clients_at_work(campaign.call):
        for failpoint in crashes:
            if failpoint is None:
                await campaign.crash_at_a_random_moment()
            else:
                await campaign.crash_at(failpoint)
        last = campaign.server()
        await asyncio.to_thread(last.start)
    try:
        edges = await campaign.verify()
        assert await asyncio.to_thread(last.stop) == 0
    finally:
        await asyncio.to_thread(last.close)
    async with campaign.stored():
        pass  # it is sound
    return f"{len(crashes)} kills, {len(campaign.robbed)} robbed, {len(campaign.history)} calls, {edges} edges"


def test_what_clients_have_seen_has_an_order_whenever_servers_die(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--seed")
    seed = random.randrange(1_000_000) if seed is None else seed
    print(f"--seed {seed}")  # shown if the test fails
    campaign = HistoryCampaign(tmp_path, seed)
    print(asyncio.run(run(campaign, request.config.getoption("--rounds") or ROUNDS)))
    assert len(campaign.history) > CLIENTS * CALLS_AT_ONCE
