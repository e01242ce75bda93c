"""A server that is killed at any moment has lost nothing that it promised, and does nothing twice.

`--seed N` repeats a campaign's choices, `--rounds N` makes it longer: `pytest tests/crash --rounds 1000`.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from evolute import failpoints
from tests.crash.campaign import Campaign, Report
from tests.crash.crashes import EagerClient

ROUNDS = 30
FAILPOINTS = (*failpoints.COMMITTER, failpoints.AFTER_IN_PROGRESS, failpoints.AFTER_ACTION_EFFECT)
HITS_MAX = {failpoints.AFTER_IN_PROGRESS: 5, failpoints.AFTER_ACTION_EFFECT: 5}
HITS_MAX_DEFAULT = 40


@pytest.fixture
def campaign(request: pytest.FixtureRequest, tmp_path: Path) -> Campaign:
    seed = request.config.getoption("--seed")
    seed = random.randrange(1_000_000) if seed is None else seed
    print(f"--seed {seed}")  # shown if the test fails
    return Campaign(tmp_path, seed)


async def run(campaign: Campaign, rounds: int) -> Report:
    """Rounds at random moments, one in between at every failpoint, and at last a server that may end in peace."""
    crashes: list[str | None] = [None] * rounds
    for name in FAILPOINTS:
        hits = campaign.chance.randint(1, HITS_MAX.get(name, HITS_MAX_DEFAULT))
        crashes.insert(campaign.chance.randrange(len(crashes) + 1), f"{name}:{hits}")
    async with campaign.load():
        for failpoint in crashes:
            if failpoint is None:
                await campaign.crash_at_a_random_moment()
                campaign.report.kills += 1
            else:
                await campaign.crash_at(failpoint)
                campaign.report.failpoints.append(failpoint)
        last = campaign.server()
        await asyncio.to_thread(last.start)
    try:
        await campaign.wait_jobs_end("load:unfinished")
        assert await asyncio.to_thread(last.stop) == 0
    finally:
        await asyncio.to_thread(last.close)
    return await campaign.verify()


def test_nothing_is_lost_and_nothing_happens_twice(campaign: Campaign, request: pytest.FixtureRequest) -> None:
    rounds = request.config.getoption("--rounds")
    report = asyncio.run(run(campaign, rounds or ROUNDS))
    print(report)
    assert report.kills + len(report.failpoints) == (rounds or ROUNDS) + len(FAILPOINTS)
    assert min(report.mutations, report.traces, report.jobs["mutation success"]) > 0


async def grow_before_and_after(campaign: Campaign, commits: int) -> tuple[int, int]:
    """The growth of the store on a fresh server, and on the one that follows when it was killed with a busy worker."""
    growth = []
    async with EagerClient(campaign.address) as client:
        for _ in range(2):
            server = campaign.server()
            try:
                await asyncio.to_thread(server.start)
                await campaign.grow(client, commits=50)
                growth.append(await campaign.grow(client, commits))
                spinning = asyncio.create_task(client.query("load:spin"))
                await asyncio.wait([spinning], timeout=0.2)
            finally:
                await asyncio.to_thread(server.close)
            spinning.cancel()
            await asyncio.wait([spinning])
    return growth[0], growth[1]


def test_a_snapshot_that_died_with_the_server_pins_no_pages(campaign: Campaign) -> None:
    before, after = asyncio.run(grow_before_and_after(campaign, commits=200))
    assert after <= before + 500_000, (before, after)
