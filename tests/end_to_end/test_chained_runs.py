"""Runs of a chain in real workers: whatever becomes of one, the next is of a chain again; and who dies, dies twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from evolute.execution.attempts import FRESH
from evolute.execution.executor import _abandon
from evolute.execution.request import FunctionOutcome
from evolute.limits import KIB
from tests.end_to_end.backend_under_test import DIES, QUICK, BackendUnderTest, Deaths
from tests.unit.function_store import call

SOURCE = """
@mutation
def write(ctx: MutationCtx, size: int = 1) -> None:
    ctx.db.insert("texts", {"text": "x" * size})

@mutation
def die(ctx: MutationCtx, pipe: str) -> None:
    dies(pipe)
"""


def in_chain(served: BackendUnderTest, size: int = 1) -> asyncio.Future[FunctionOutcome]:
    """A run of a chain that wants to write so much, in the only worker. It is not committed yet."""
    return served.backend.pool.run("mutation", (call("m:write", "mutation", size=size),), fresh=True)


async def require_chain(served: BackendUnderTest) -> None:
    """The worker has a chain: a run is of it, and so is the one behind it."""
    for outcome in await asyncio.gather(in_chain(served), in_chain(served)):
        assert outcome.chained is not None
        assert outcome.write_set
        outcome.abandon()


LIMITS = replace(
    QUICK,
    arguments_bytes_max=100 * KIB,
    result_bytes_max=100 * KIB,
    pending_view_bytes_max=50 * KIB,
    frame_bytes_max=300 * KIB,
)
TOO_MUCH = LIMITS.pending_view_bytes_max
"""So much that the chain is broken off until it is known what has become of it."""


def test_a_chain_goes_on_whatever_becomes_of_a_run_that_has_broken_it_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, {"m.py": DIES + SOURCE}, LIMITS, workers=1) as served:
            await require_chain(served)
            (waiting, behind) = in_chain(served, TOO_MUCH), in_chain(served)
            abandoned = await waiting
            assert (await behind).chained is None, "it is not known yet what becomes of the one before it"
            abandoned.abandon()
            await require_chain(served)

            in_chain(served, TOO_MUCH).cancel()  # its caller goes away before it has ended
            assert (await in_chain(served)).chained is None
            await require_chain(served)

            ended = in_chain(served, TOO_MUCH)
            await asyncio.wait((ended,))
            _abandon(ended)  # as if its caller were cancelled in this very moment
            await require_chain(served)

            large = in_chain(served, LIMITS.frame_bytes_max)  # of whose outcome the server gets no write set
            assert "frame_bytes_max" in str((await large).results[0].error)
            await require_chain(served)

    asyncio.run(scenario())


@pytest.mark.parametrize("lives", [2, 3])
def test_a_second_death_is_the_call_s_error_in_a_chain_too(tmp_path: Path, lives: int) -> None:
    async def scenario() -> None:
        deaths = Deaths(tmp_path / "deaths", lives)
        async with BackendUnderTest(tmp_path, {"m.py": DIES + SOURCE}) as served:
            executor = served.backend.executor
            await executor._attempt_mutation(call("m:die", "mutation", pipe=deaths.path), FRESH)
            await served.wait_deaths(2)
            assert served.backend.pool.statistics().deaths == 2
        deaths.close()

    asyncio.run(scenario())
