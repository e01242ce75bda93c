"""`evolute jobs` and `evolute crons` over a real server: tables, JSON, paging, and one line for what cannot be done."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_cli import evolute

PATIENCE_S = 30.0

WORK = """
from evolute import ActionCtx, MutationCtx, action, internal_mutation, mutation

@internal_mutation
def note(ctx: MutationCtx, text: str) -> None:
    if text.startswith("bad"):
        raise ValueError(text + chr(27) + "[31m")
    ctx.db.insert("notes", {"text": text})

@action(pool="mail")
async def send(ctx: ActionCtx, text: str) -> None:
    await ctx.run_mutation(note, text=text)

@internal_mutation
def tick(ctx: MutationCtx) -> None:
    ctx.db.insert("ticks", {})

@mutation
def plan(ctx: MutationCtx, target: str, text: str, delay: float = 0) -> str:
    return ctx.scheduler.run_after(delay, "work:" + target, text=text)
"""
SOURCES = {
    "work.py": WORK,
    "crons.py": """
from evolute import Crons, weekly
from functions.work import tick

crons = Crons()
crons.add("weekly tick", weekly(day="monday", hour=3), tick)
""",
    "pools.py": """
from evolute import Pool

pools = {"mail": Pool(concurrency=2)}
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("cli jobs")
    functions = folder / "functions"
    functions.mkdir()
    for name, text in SOURCES.items():
        (functions / name).write_text(text)
    with ServerProcess(functions, folder / "data") as server:
        yield server


def run(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return evolute(*arguments, "--url", server.url, "--data", str(server.data))


def told(server: ServerProcess, *arguments: str) -> str:
    done = run(server, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told_json(server: ServerProcess, *arguments: str) -> Any:
    return json.loads(told(server, *arguments, "--json"))


def plan(server: ServerProcess, target: str, text: str, delay: float = 0) -> str:
    with RawSession(server.url) as client:
        return str(client.mutate("work:plan", target=target, text=text, delay=delay)["result"])


def wait_state(server: ServerProcess, job_id: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job: dict[str, Any] = told_json(server, "jobs", "show", job_id)
        if job["state"] == state:
            return job
        assert time.monotonic() < deadline, job


def test_jobs_are_listed_and_shown(server: ServerProcess) -> None:
    later = plan(server, "note", "later", 3_600_000)
    bad = plan(server, "note", "bad news")
    shown = wait_state(server, bad, "failed")
    assert shown["args"] == {"text": "bad news"}
    assert "ValueError: bad news" in shown["error"]
    table = told(server, "jobs", "list")
    heading, *lines = table.splitlines()
    assert heading.split() == ["ID", "FUNCTION", "STATE", "POOL", "TIME", "(UTC)", "NOTE"]
    rows = {line.split()[0]: line for line in lines}
    assert re.search(rf"^{later}  work:note  pending  default  \S+ \S+  due at [-\d]+ [:\d]+ UTC$", rows[later])
    assert re.search(rf"^{bad}  work:note  failed   default  \S+ \S+  Uncaught ValueError: bad news", rows[bad])
    assert "\x1b" not in table, "a terminal is not told what to do by an error's text"
    assert heading.index("STATE") == rows[later].index("pending") == rows[bad].index("failed")
    details = told(server, "jobs", "show", later)
    assert re.search(r'^arguments\s+\{"text":"later"\}$', details, re.MULTILINE)
    assert re.search(r"^why\s+due at", details, re.MULTILINE)
    assert [job["id"] for job in told_json(server, "jobs", "list", "--state", "pending")["jobs"]] == [later]
    assert told_json(server, "jobs", "list", "--stuck")["jobs"] == []
    assert told(server, "jobs", "cancel", later) == f"{later} canceled\n"
    assert told_json(server, "jobs", "show", later)["state"] == "canceled"


def test_long_lists_go_on(server: ServerProcess) -> None:
    made = [plan(server, "send", str(number), 3_600_000 + number) for number in range(5)]
    pool = ("--pool", "mail")
    first = run(server, "jobs", "list", "--state", "pending", *pool, "--limit", "3")
    position = re.search(r"There is more: --after '(.*)'", first.stderr)
    assert position is not None
    assert [line.split()[0] for line in first.stdout.splitlines()[1:]] == made[:3]
    rest = told_json(server, "jobs", "list", "--state", "pending", *pool, "--after", position[1])
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == (made[3:], None)
    newest = told_json(server, "jobs", "list", "--order", "newest", *pool, "--limit", "2")
    assert [job["id"] for job in newest["jobs"]] == made[:2:-1]
    assert told_json(server, "jobs", "cancel", *made) == {"canceled": made}


def test_dead_letters_are_run_again_and_thrown_away(server: ServerProcess) -> None:
    told(server, "jobs", "purge", "--failed", "--finished")
    bad = [plan(server, "note", f"bad {number}") for number in range(2)]
    for job_id in bad:
        wait_state(server, job_id, "failed")
    assert told(server, "jobs", "retry", bad[0]) == f"{bad[0]} retried\n"
    wait_state(server, bad[0], "failed")
    assert told(server, "jobs", "retry", "--all", "--function", "work:tick") == "0 jobs retried\n"
    assert told_json(server, "jobs", "retry", "--all") == {"retried": 2}
    for job_id in bad:
        wait_state(server, job_id, "failed")
    assert told(server, "jobs", "purge", "--finished") == "0 jobs purged\n"
    assert told(server, "jobs", "purge", "--failed") == "2 jobs purged\n"
    assert told_json(server, "jobs", "list")["jobs"] == []


def test_what_is_paused_says_so(server: ServerProcess) -> None:
    assert told(server, "jobs", "pause", "--pool", "mail") == "paused: the pool mail\n"
    job_id = plan(server, "send", "held")
    assert "the pool mail is paused" in told(server, "jobs", "list", "--state", "pending")
    assert told(server, "jobs", "pause") == "paused: everything, the pool mail\n"
    assert told(server, "jobs", "list").endswith("paused: everything, the pool mail\n")
    assert told_json(server, "jobs", "resume") == {"paused": {"everything": False, "pools": ["mail"]}}
    assert told(server, "jobs", "resume", "--pool", "mail") == "nothing is paused\n"
    wait_state(server, job_id, "success")


def test_crons_are_listed_and_run(server: ServerProcess) -> None:
    (before,) = told_json(server, "crons", "list")["crons"]
    assert told(server, "crons", "run", "weekly tick") == "the cron weekly tick is due now\n"
    deadline = time.monotonic() + PATIENCE_S
    while told_json(server, "crons", "list")["crons"][0]["lastRun"] is None:
        assert time.monotonic() < deadline
    heading, line = told(server, "crons", "list").splitlines()
    assert heading.startswith("NAME")
    assert re.search(r"^weekly tick  work:tick  weekly\(.*day=monday.*\)  pending  \S+ 03:00:00  .* success$", line)
    assert told_json(server, "crons", "list")["crons"][0]["nextTime"] == before["nextTime"]


def test_what_cannot_be_done_is_one_line(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("evolute|wrong")
    gone = plan(server, "note", "short")
    wait_state(server, gone, "success")
    cases = [
        (["jobs", "show", "nonsense"], 1, "Unable to decode ID"),
        (["jobs", "cancel", gone], 1, f"The job {gone} has ended already: success."),
        (["jobs", "retry", gone], 1, "Only failed jobs are run again"),
        (["jobs", "pause", "--pool", "emial"], 1, "There is no pool 'emial'. There are: default, mail."),
        (["jobs", "resume"], 1, "Not everything is paused"),
        (["jobs", "list", "--function", "a b"], 1, "'a b'"),
        (["jobs", "list", "--after", "x"], 1, "'x' is no position"),
        (["jobs", "list", "--key-file", str(tmp_path / "key")], 1, "admin key"),
        (["jobs", "list", "--key-file", str(tmp_path / "none")], 1, "there is no admin key at"),
        (["crons", "run", "nobody"], 1, "There is no cron 'nobody'."),
        (["jobs", "retry"], 2, "name the jobs, or give --all"),
        (["jobs", "purge"], 2, "say which: --failed, --finished or both"),
    ]
    for arguments, code, words in cases:
        done = run(server, *arguments)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert words in done.stderr, arguments
        assert "Traceback" not in done.stderr
        assert code == 2 or len(done.stderr.splitlines()) == 1, done.stderr
    nobody = evolute("jobs", "list", "--url", "http://127.0.0.1:1", "--data", str(server.data))
    assert (nobody.returncode, len(nobody.stderr.splitlines())) == (1, 1)
    assert "cannot reach http://127.0.0.1:1" in nobody.stderr
