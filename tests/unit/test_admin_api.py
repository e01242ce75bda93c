"""The admin API and /metrics of a real server: who may, what they answer, what they refuse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from evolute.limits import Limits
from tests.benchmarks.sync_socket import SyncSocket
from tests.server_thread import Reply, ServerThread

FUNCTIONS = {
    "m.py": """
from evolute import ActionCtx, Int64, MutationCtx, QueryCtx, action, internal_mutation, mutation, query

@internal_mutation
def work(ctx: MutationCtx, number: int, big: Int64 = Int64(7)) -> None:
    if number < 0:
        raise ValueError("a negative number")

@action(pool="mail")
async def send(ctx: ActionCtx) -> None:
    pass

@mutation
def plan(ctx: MutationCtx, target: str, delay: float = 0, number: int | None = None) -> str:
    given = {} if number is None else {"number": number}
    return ctx.scheduler.run_after(delay, f"m:{target}", **given)

@query
def state(ctx: QueryCtx, job: str) -> str:
    return ctx.db.system.get(job)["state"]["kind"]

@mutation
def note(ctx: MutationCtx) -> None:
    ctx.db.insert("notes", {})

@query
def notes(ctx: QueryCtx) -> int:
    return len(ctx.db.query("notes").collect())

@internal_mutation
def tick(ctx: MutationCtx) -> None:
    pass
""",
    "crons.py": """
from evolute import Crons, daily
from functions.m import tick

crons = Crons()
crons.add("nightly", daily(hour=3), tick)
""",
    "pools.py": """
from evolute import Pool

pools = {"mail": Pool(concurrency=2)}
""",
}
OPERATIONS = [
    *(f"jobs/{verb}" for verb in ("list", "show", "cancel", "retry", "purge", "pause", "resume")),
    "crons/list",
    "crons/run",
    "statistics",
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with ServerThread(FUNCTIONS, Limits(admin_page_rows_max=3)) as server:
        yield server


def key(server: ServerThread) -> dict[str, str]:
    return {"Authorization": f"Convex {server.admin_key}"}


def ask(server: ServerThread, operation: str, **fields: Any) -> Reply:
    return server.request("POST", f"/api/admin/{operation}", fields, headers=key(server))


def answer(server: ServerThread, operation: str, **fields: Any) -> Any:
    reply = ask(server, operation, **fields)
    assert reply.status == 200, reply.json
    return reply.json


def refusal(reply: Reply) -> tuple[int, str, str]:
    assert set(reply.json) == {"code", "message"}
    return reply.status, reply.json["code"], reply.json["message"]


def plan(server: ServerThread, target: str, **given: Any) -> str:
    reply = server.request("POST", "/api/mutation", {"path": "m:plan", "args": {"target": target, **given}})
    assert reply.json["status"] == "success", reply.json
    return str(reply.json["value"])


def wait_state(server: ServerThread, job_id: str, state: str) -> None:
    deadline = time.monotonic() + 20
    while answer(server, "jobs/show", id=job_id)["state"] != state:
        assert time.monotonic() < deadline, f"{job_id} is not {state}"
        time.sleep(0.01)


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nobody_may_without_the_key(server: ServerThread, operation: str) -> None:
    path = f"/api/admin/{operation}"
    assert refusal(server.request("POST", path, {}))[:2] == (403, "BadDeployKey")
    wrong = {"Authorization": "Convex evolute|wrong"}
    assert refusal(server.request("POST", path, {}, headers=wrong))[:2] == (401, "BadAdminKey")
    assert server.request("GET", path, headers=key(server)).status == 405


def test_metrics_need_the_key_even_from_this_machine(server: ServerThread) -> None:
    assert refusal(server.request("GET", "/metrics"))[:2] == (403, "BadDeployKey")
    wrong = {"Authorization": "Convex evolute|wrong"}
    assert refusal(server.request("GET", "/metrics", headers=wrong))[:2] == (401, "BadAdminKey")


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "fields", "code", "words"),
    [
        ("jobs/list", {"limit": 0}, "BadJsonBody", "jobs/list.limit must be at least 1"),
        ("jobs/list", {"limit": "all"}, "BadJsonBody", "jobs/list.limit must be a whole number"),
        ("jobs/list", {"state": "done"}, "BadRequest", "There is no state 'done'"),
        ("jobs/list", {"state": 1}, "BadJsonBody", "jobs/list.state must be a string"),
        ("jobs/list", {"order": "x"}, "BadRequest", "There is no order 'x'"),
        ("jobs/list", {"after": "x"}, "BadRequest", "no position"),
        ("jobs/list", {"function": "a b"}, "BadConvexFunctionIdentifier", "'a b'"),
        ("jobs/show", {}, "BadJsonBody", "jobs/show.id is missing"),
        ("jobs/show", {"id": "x"}, "InvalidId", "Unable to decode ID"),
        ("jobs/cancel", {"id": 7}, "BadJsonBody", "jobs/cancel.id must be a string"),
        ("jobs/retry", {}, "BadJsonBody", "`id`"),
        ("jobs/retry", {"all": True, "before": "now"}, "BadJsonBody", "jobs/retry.before must be a time"),
        ("jobs/purge", {}, "BadJsonBody", "jobs/purge.which is missing"),
        ("jobs/purge", {"which": "all"}, "BadRequest", "'all'"),
        ("jobs/pause", {"pool": "x"}, "BadRequest", "There are: default, mail."),
        ("jobs/resume", {}, "BadRequest", "Not everything is paused"),
        ("crons/list", {"after": "x"}, "BadRequest", "no position"),
        ("crons/run", {"name": "x"}, "BadRequest", "There is no cron 'x'"),
    ],
)
def test_what_cannot_be_is_told(
    server: ServerThread, operation: str, fields: dict[str, Any], code: str, words: str
) -> None:
    status, told, message = refusal(ask(server, operation, **fields))
    assert (status, told) == (400, code), message
    assert words in message


def test_a_bad_body_is_refused(server: ServerThread) -> None:
    for body, words in ((b"{", "not JSON"), (b"[]", "object")):
        reply = server.request("POST", "/api/admin/jobs/list", body, headers=key(server))
        status, code, message = refusal(reply)
        assert (status, code) == (400, "BadJsonBody")
        assert words in message


def test_a_job_from_list_to_purge(server: ServerThread) -> None:
    later = plan(server, "work", delay=3_600_000, number=1)
    bad = [plan(server, "work", number=-number) for number in (1, 2)]
    for job_id in bad:
        wait_state(server, job_id, "failed")
    failed = answer(server, "jobs/list", state="failed")
    assert {job["id"] for job in failed["jobs"]} == set(bad)
    assert "ValueError: a negative number" in failed["jobs"][0]["error"]
    shown = answer(server, "jobs/show", id=later)
    assert (shown["args"], shown["state"]) == ({"number": 1}, "pending")
    assert shown["why"].startswith("due at ")
    assert refusal(ask(server, "jobs/retry", id=later))[:2] == (400, "JobHasNotFailed")
    assert answer(server, "jobs/cancel", id=later) == {"canceled": 1, "was": "pending"}
    assert refusal(ask(server, "jobs/cancel", id=later))[:2] == (400, "JobHasEnded")
    assert answer(server, "jobs/retry", id=bad[0])["retried"] == 1
    wait_state(server, bad[0], "failed")
    assert answer(server, "jobs/retry", all=True, function="m:tick")["retried"] == 0
    swept = answer(server, "jobs/retry", all=True, function="m.js:work")
    assert (swept["retried"], swept["next"]) == (2, None)
    for job_id in bad:
        wait_state(server, job_id, "failed")
    assert answer(server, "jobs/purge", which="finished")["purged"] >= 1
    assert refusal(ask(server, "jobs/show", id=later))[:2] == (404, "JobNotFound")
    assert answer(server, "jobs/purge", which="failed")["purged"] == 2
    assert answer(server, "jobs/list")["jobs"] == []


def test_lists_come_in_pages(server: ServerThread) -> None:
    made = [plan(server, "work", delay=3_600_000 + number, number=1) for number in range(7)]
    found: list[str] = []
    after = None
    while True:
        page = answer(server, "jobs/list", order="due", limit=1000, after=after)
        found += [job["id"] for job in page["jobs"]]
        assert len(page["jobs"]) <= 3
        after = page["next"]
        if after is None:
            break
    assert found == made
    for job_id in made:
        answer(server, "jobs/cancel", id=job_id)


def test_pausing_a_pool_and_everything(server: ServerThread) -> None:
    assert answer(server, "jobs/pause", pool="mail") == {"paused": {"everything": False, "pools": ["mail"]}}
    job_id = plan(server, "send")
    assert answer(server, "jobs/show", id=job_id)["why"] == "the pool mail is paused"
    assert answer(server, "jobs/pause") == {"paused": {"everything": True, "pools": ["mail"]}}
    assert answer(server, "statistics")["pools"]["mail"]["backlog"] == 1
    lag = sample(metrics(server), "evolute_job_lag_seconds", pool="mail")
    assert lag > 0
    assert sample(metrics(server), "evolute_job_backlog", pool="mail") == 1
    assert sample(metrics(server), "evolute_jobs_paused", pool="(everything)") == 1
    assert sample(metrics(server), "evolute_jobs_paused", pool="mail") == 1
    answer(server, "jobs/resume")
    assert answer(server, "jobs/resume", pool="mail") == {"paused": {"everything": False, "pools": []}}
    wait_state(server, job_id, "success")


def test_crons_are_listed_and_run(server: ServerThread) -> None:
    (before,) = answer(server, "crons/list")["crons"]
    assert (before["name"], before["function"], before["lastRun"]) == ("nightly", "m:tick", None)
    assert answer(server, "crons/run", name="nightly") == {"name": "nightly"}
    deadline = time.monotonic() + 20
    while True:
        (after,) = answer(server, "crons/list")["crons"]
        if after["lastRun"] is not None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert after["lastRun"]["state"] == "success"
    assert after["nextTime"] == before["nextTime"]
    assert answer(server, "statistics")["crons"]["runs"] == 1
    assert sample(metrics(server), "evolute_cron_runs_total") == 1


# --- metrics ----------------------------------------------------------------------------------------------------------


def metrics(server: ServerThread, accept: str = "") -> dict[str, Any]:
    reply = server.request("GET", "/metrics", headers={**key(server), "Accept": accept})
    assert reply.status == 200, reply.body
    parse = openmetrics if "openmetrics" in reply.headers["content-type"] else text_string_to_metric_families
    return {family.name: family for family in parse(reply.body.decode())}


def sample(families: dict[str, Any], name: str, **labels: str) -> float:
    samples = [one for family in families.values() for one in family.samples if one.name == name]
    (found,) = [one.value for one in samples if one.labels == labels]
    return float(found)


def test_outcomes_and_durations_are_counted(server: ServerThread) -> None:
    wait_state(server, plan(server, "work", number=1), "success")
    before = metrics(server)
    well, bad = plan(server, "work", number=1), plan(server, "work", number=-1)
    wait_state(server, well, "success")
    wait_state(server, bad, "failed")
    deadline = time.monotonic() + 20
    while True:  # the end is counted in the turn after its commit
        after = metrics(server)
        failed = sample(after, "evolute_job_runs_total", function="m:work", outcome="failed")
        done = sample(after, "evolute_job_runs_total", function="m:work", outcome="success")
        if done == sample(before, "evolute_job_runs_total", function="m:work", outcome="success") + 1 and failed >= 1:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    counts = [sample(one, "evolute_call_duration_seconds_count", kind="mutation") for one in (before, after)]
    assert counts[1] == counts[0] + 4, "two that planned and two jobs"
    errors = [sample(after, "evolute_call_errors_total", kind="mutation")]
    assert errors[0] >= 1
    buckets = [one for one in after["evolute_call_duration_seconds"].samples if one.name.endswith("_bucket")]
    values = [one.value for one in buckets if one.labels["kind"] == "mutation"]
    assert values == sorted(values)
    assert values[-1] == counts[1]
    assert sample(after, "evolute_commits_total") > sample(before, "evolute_commits_total")
    assert sample(after, "evolute_workers", lane="transaction") == 1
    assert sample(after, "evolute_jobs_running", pool="default") == 0


def test_both_spellings_of_prometheus_hold_the_same(server: ServerThread) -> None:
    plain, modern = metrics(server), metrics(server, "application/openmetrics-text; version=1.0.0")
    assert plain.keys() == modern.keys()
    assert len(plain) > 25
    assert all(name.startswith("evolute_") and family.documentation for name, family in modern.items())


COMMIT_STAGES = ("validate", "batch", "sync", "publish")


def stages(server: ServerThread) -> dict[tuple[str, str], float]:
    """How often each stage has been passed through."""
    family = metrics(server)["evolute_stage_duration_seconds"]
    counted = [one for one in family.samples if one.name.endswith("_count")]
    return {(one.labels["kind"], one.labels["stage"]): one.value for one in counted}


def test_every_stage_is_timed(server: ServerThread) -> None:
    """A mutation passes through all but the line, and the query that it breaks is run and pushed."""
    client = SyncSocket(server.port)
    try:
        client.subscribe("m:notes", {})
        wait_value(client, 0)
        before = stages(server)
        client.mutate("m:note", {})
        wait_value(client, 1)
        after = stages(server)
    finally:
        client.close()
    assert {stage for stage in after if after[stage] == before[stage]} == {("mutation", "line")}
    assert after["query", "push"] == before["query", "push"] + 1
    in_commits = [after["mutation", stage] - before["mutation", stage] for stage in COMMIT_STAGES]
    assert in_commits == in_commits[:1] * len(COMMIT_STAGES)


def wait_value(client: SyncSocket, value: int) -> None:
    """Until the client's one query has been told to have this value."""
    while True:
        for message in client.receive():
            if message["type"] == "Transition" and [one["value"] for one in message["modifications"]] == [value]:
                return
