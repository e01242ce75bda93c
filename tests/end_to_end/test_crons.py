"""Crons of a real server that is killed again and again: at every failpoint, and at random moments.

Afterwards the effects are counted, in the database and outside it: a mutation has run exactly once for each recorded
run, an action at most once, and the due times of the records follow each other without a gap.
"""

from __future__ import annotations

import asyncio
import random
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from evolute import failpoints
from evolute.config import FAILPOINT_VARIABLE
from evolute.database.check import check
from evolute.limits import Limits
from evolute.storage.lmdb_engine import LmdbEngine
from tests.end_to_end.backend_under_test import QUICK, WAIT_S_MAX, BackendUnderTest
from tests.end_to_end.raw_session import post
from tests.end_to_end.server_process import ServerProcess

FAILPOINTS = (
    failpoints.AFTER_VALIDATION,
    failpoints.AFTER_PUTS,
    failpoints.AFTER_COMMIT,
    failpoints.AFTER_PUBLICATION,
    failpoints.AFTER_IN_PROGRESS,
    failpoints.AFTER_ACTION_EFFECT,
)
RANDOM_KILLS = 2
SETTLE_S = 2.5
KEEP_ALL = {"EVOLUTE_CRON_RUNS_KEPT_MAX": "100000"}
INTERRUPTED = "Transient error while executing action"

WORK = """
from pathlib import Path
from typing import Any

from evolute import ActionCtx, MutationCtx, QueryCtx, internal_action, internal_mutation, query


@internal_mutation
def count(ctx: MutationCtx) -> None:
    ctx.db.insert("counts", {})


@internal_action
async def act(ctx: ActionCtx, file: str) -> None:
    with Path(file).open("a") as effects:
        effects.write("x")


@query
def facts(ctx: QueryCtx) -> dict[str, Any]:
    return {"counts": len(ctx.db.query("counts").collect()), "runs": ctx.db.system.query("_cron_runs").collect()}
"""
CRONS = """
from app import work
from evolute import Crons, interval

crons = Crons()
crons.add("count", interval(seconds=1), work.count)
crons.add("act", interval(seconds=1), work.act, file={file!r})
"""


def facts(server: ServerProcess) -> Any:
    status, answer = post(server.url, "/api/query", {"path": "work:facts", "args": {}, "format": "json"})
    assert (status, answer["status"]) == (200, "success"), answer
    return answer["value"]


def ended_in_order(runs: list[Any], name: str) -> list[Any]:
    """The runs of a cron, each with what was skipped after it. Fails where a due time is missing or comes twice."""
    ended: list[Any] = []
    for run in runs:
        if run["name"] == name and run["status"]["kind"] == "canceled":
            ended[-1]["skipped"] = run["status"]["skipped"]
        elif run["name"] == name:
            ended.append({**run, "skipped": 0})
    for before, after in pairwise(ended):
        assert after["scheduledTime"] == before["scheduledTime"] + 1000 * (1 + before["skipped"]), (before, after)
    return ended


def test_an_action_is_in_progress_only_once_a_worker_can_take_it(tmp_path: Path) -> None:
    """What still waits for a worker is not failed by a crash, nor by an end."""
    effects = tmp_path / "effects"
    effects.touch()
    files = {
        "work.py": WORK,
        "crons.py": CRONS.format(file=str(effects)).replace("from app import", "from functions import"),
    }

    async def until_run(served: BackendUnderTest, name: str, times: int) -> list[Any]:
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                runs = [run for run in (await served.query("work:facts"))["runs"] if run["name"] == name]
                if len(runs) >= times:
                    return runs
                await asyncio.sleep(0.02)

    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, files, QUICK, actions=0) as served:
            await until_run(served, "count", 2)
            assert effects.read_text() == ""
        async with BackendUnderTest(tmp_path, files, QUICK, actions=1) as served:
            first = (await until_run(served, "act", 1))[0]
            assert first["status"]["kind"] == "success", first
            assert effects.read_text() != ""

    asyncio.run(scenario())


def test_crons_survive_every_crash(tmp_path: Path) -> None:
    app, effects = tmp_path / "app", tmp_path / "effects"
    app.mkdir()
    (app / "work.py").write_text(WORK)
    (app / "crons.py").write_text(CRONS.format(file=str(effects)))
    effects.touch()
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)

    for point in FAILPOINTS:
        environment = {**KEEP_ALL, FAILPOINT_VARIABLE: f"{point}:{chance.randint(1, 4)}"}
        crashing = ServerProcess(app, tmp_path / "data", workers=1, environment=environment)
        crashing.wait()
        crashing.__exit__(None, None, None)
    for _ in range(RANDOM_KILLS):
        with ServerProcess(app, tmp_path / "data", workers=1, environment=KEEP_ALL) as server:
            time.sleep(chance.uniform(0.5, 2))
            server.kill()

    with ServerProcess(app, tmp_path / "data", workers=1, environment=KEEP_ALL) as server:
        time.sleep(SETTLE_S)
        found = facts(server)
        server.stop()

    counted = ended_in_order(found["runs"], "count")
    assert {run["status"]["kind"] for run in counted} == {"success"}
    assert len(counted) == found["counts"]

    acted = ended_in_order(found["runs"], "act")
    succeeded = [run for run in acted if run["status"]["kind"] == "success"]
    assert {run["status"]["error"] for run in acted if run["status"]["kind"] == "failed"} <= {INTERRUPTED}
    assert len(succeeded) <= len(effects.read_text()) <= len(acted) + 1, "one more may have begun since the query"
    assert len(acted) > len(succeeded), "some were interrupted"

    engine = LmdbEngine(tmp_path / "data" / "store", Limits(), read_only=True)
    reader = engine.reader()
    assert check(reader) == []
    reader.close()
    engine.close()
