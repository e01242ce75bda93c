"""A change of the schema survives every crash, beside clients that write: it is gone on with, and nothing is lost.

Each round saves a schema with a new index that lacks the last one, and kills the server at a failpoint or at a random
moment while the one is built and the other dropped. `--seed N` repeats a campaign's choices.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from evolute import failpoints
from evolute.config import FAILPOINT_VARIABLE
from evolute.storage.keyspace import INDEX_WORK_RANGE
from evolute_client import Client
from tests.crash.crashes import Crashes
from tests.end_to_end.server_process import ServerProcess

FUNCTIONS = Path(__file__).parent / "functions_under_change"
ROWS = 600
NUMBERS = 40
RANDOM_KILLS = 2
DIES_S_MAX = 15.0
# Activating is also what a server does when it starts.
HITS = {failpoints.BEFORE_ACTIVATION: 2}
HITS_MAX = {failpoints.AFTER_FILL: 6, failpoints.AFTER_DROP: 6}
SMALL_CHUNKS = {"EVOLUTE_BACKFILL_ROWS_MAX": "100", "EVOLUTE_BACKFILL_BUSY_ROWS_PER_S": "2000"}


class SchemaCampaign(Crashes):
    """What was acknowledged, by owner and number; None for a row that was removed."""

    def __init__(self, folder: Path, seed: int) -> None:
        functions = shutil.copytree(FUNCTIONS, folder / "functions")
        super().__init__(folder, seed, functions, environment=SMALL_CHUNKS)
        self.version = 0
        self.acknowledged: dict[tuple[str, int], int | None] = {}
        self._busy: set[tuple[str, int]] = set()

    def server(self, failpoint: str | None = None) -> ServerProcess:
        environment = self._environment | ({} if failpoint is None else {FAILPOINT_VARIABLE: failpoint})
        return ServerProcess(self._functions, self.data, command="dev", port=self._port, environment=environment)

    def save_next(self) -> None:
        self.version += 1
        text = (FUNCTIONS / "schema.py").read_text()
        (self._functions / "schema.py").write_text(text.replace("by_n_0", f"by_n_{self.version}"))

    async def call(self, client: Client, name: str) -> None:
        """Each name has numbers of its own, so the last answer is what is true."""
        owner = f"{name} {next(self.names) % 2}"
        number = self.chance.randrange(NUMBERS)
        if (owner, number) in self._busy:
            return
        self._busy.add((owner, number))
        if self.chance.random() < 0.2:
            await client.mutation("rows:remove", owner=owner, number=number)
            self.acknowledged[owner, number] = None
        else:
            n = self.chance.randrange(97)
            await client.mutation("rows:put", owner=owner, number=number, n=n)
            self.acknowledged[owner, number] = n
        self._busy.discard((owner, number))

    async def crash(self, failpoint: str | None) -> None:
        """Kills the server at a failpoint; if there is none, a moment after the save."""
        server = self.server(failpoint)
        try:
            begun = asyncio.create_task(asyncio.to_thread(server.wait_for, r"http://", seconds=DIES_S_MAX))
            await asyncio.wait({begun})
            if server.process.poll() is None and begun.exception() is None:
                self.save_next()
                if failpoint is None:
                    await asyncio.sleep(self.chance.uniform(0.3, 1.5))
                    server.kill()
            async with asyncio.timeout(DIES_S_MAX):
                while server.process.poll() is None:  # noqa: ASYNC110 - a process has no event
                    await asyncio.sleep(0.02)
            assert server.process.returncode == -9, server.output[-3000:]
        except TimeoutError:
            raise AssertionError(f"{failpoint} was not reached in {DIES_S_MAX} s:\n{server.output[-3000:]}") from None
        finally:
            await asyncio.to_thread(server.close)
        async with self.stored():
            pass  # it is sound

    def verify(self, through: list[list[object]]) -> None:
        """The index has every row that was promised, in its order."""
        assert through == sorted(through, key=lambda row: (row[2], row[0]))
        rows = {(str(owner), number): n for owner, number, n in through}
        assert len(rows) == len(through)
        promised = {key: n for key, n in self.acknowledged.items() if n is not None}
        seeded = {("nobody", number): number % 97 for number in range(ROWS)}
        assert rows == {**promised, **seeded}


async def run(campaign: SchemaCampaign) -> None:
    crashes: list[str | None] = [None] * RANDOM_KILLS
    for name in failpoints.SCHEMA:
        crashes.append(f"{name}:{HITS.get(name) or campaign.chance.randint(1, HITS_MAX.get(name, 1))}")
    campaign.chance.shuffle(crashes)
    first = campaign.server()
    await asyncio.to_thread(first.start)
    async with Client(first.url) as client:
        for number in range(0, ROWS, 200):
            await client.mutation("rows:seed", first=number, count=200)
    assert await asyncio.to_thread(first.stop) == 0
    first.close()
    async with campaign.clients_at_work(campaign.call):
        for failpoint in crashes:
            await campaign.crash(failpoint)
        last = campaign.server()
        await asyncio.to_thread(last.start)
    try:
        async with Client(last.url) as client:
            campaign.verify(await client.query("rows:through", index=f"by_n_{campaign.version}"))
        assert await asyncio.to_thread(last.stop) == 0
    finally:
        await asyncio.to_thread(last.close)
    async with campaign.stored() as transaction:
        assert transaction.table("rows") is not None
        building = [parsed for parsed, _ in transaction.scan_raw(*INDEX_WORK_RANGE)]
        assert len(building) <= len(crashes)


def test_a_change_of_the_schema_survives_every_crash(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seed = request.config.getoption("--seed")
    seed = random.randrange(1_000_000) if seed is None else seed
    print(f"--seed {seed}")  # shown if the test fails
    asyncio.run(run(SchemaCampaign(tmp_path, seed)))
