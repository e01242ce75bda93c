"""Whatever is scheduled is done as often as it was promised, however often the server is killed.

`pytest tests/crash/test_scheduler_crashes.py` kills for `SECONDS`, and at every failpoint; `--rounds 2000` that often,
with a fresh data folder now and then. `--seed N` repeats a campaign's choices.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from evolute import failpoints
from evolute.clock import NS_PER_S, monotonic_ns
from tests.crash.scheduler_campaign import SchedulerCampaign

SECONDS = 90
ROUNDS_MIN = 20
ROUNDS_PER_FOLDER = 60
RANDOM_PER_CYCLE = 12
FAILPOINTS = (*failpoints.COMMITTER, *failpoints.SCHEDULER)


def crashes(chance: random.Random) -> Iterator[str | None]:
    """For ever: every failpoint and random moments, shuffled, and again."""
    while True:
        cycle = [*FAILPOINTS, *[None] * RANDOM_PER_CYCLE]
        chance.shuffle(cycle)
        yield from cycle


async def run(campaign: SchedulerCampaign, rounds: int | None) -> str:
    """So many rounds, or as many as the time allows, then a server that may end in peace. Returns its count."""
    until_ns = monotonic_ns() + SECONDS * NS_PER_S
    failpoints_left = set(FAILPOINTS)
    async with campaign.load():
        for failpoint in islice(crashes(campaign.chance), rounds):
            await campaign.crash(failpoint)
            failpoints_left.discard(failpoint or "")
            enough = campaign.kills.total() >= ROUNDS_MIN and not failpoints_left
            if rounds is None and enough and monotonic_ns() >= until_ns:
                break
        last = campaign.server()
        await asyncio.to_thread(last.start)
    try:
        await campaign.wait_jobs_end("tickets:unfinished")
        assert await asyncio.to_thread(last.stop) == 0
    finally:
        await asyncio.to_thread(last.close)
    return str(await campaign.verify())


def test_what_is_scheduled_happens_as_often_as_promised(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rounds: int | None = request.config.getoption("--rounds")
    seed: int | None = request.config.getoption("--seed")
    seed = random.randrange(1_000_000) if seed is None else seed
    kills: Counter[str] = Counter()
    while rounds is None or kills.total() < rounds:
        print(f"--seed {seed}")  # shown if the test fails
        campaign = SchedulerCampaign(tmp_path / str(seed), seed)
        (tmp_path / str(seed)).mkdir()
        counts = asyncio.run(
            run(campaign, rounds if rounds is None else min(rounds - kills.total(), ROUNDS_PER_FOLDER))
        )
        print(f"{campaign.kills.total()} kills, {len(campaign.seen)} processes; {counts}")
        kills += campaign.kills
        if rounds is None:
            assert all(kills[name] for name in FAILPOINTS)
            break
        seed += 1
    print(kills)
