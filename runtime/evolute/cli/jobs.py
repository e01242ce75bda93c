"""`evolute jobs`: what is scheduled, what failed and what waits for what, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from evolute.cli.admin_client import ServerAddress, address_of, address_options
from evolute.cli.table import first_line, show_fields, show_table, shown_time

STATES = ("pending", "inProgress", "success", "failed", "canceled")
UNDECIDED = ("pending", "inProgress")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
pool_option = click.option("--pool", help="Only this pool, and not everything.")


@click.group()
def jobs() -> None:
    """Look at the jobs of a running server, and change them."""


@jobs.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--function", help="Only those of this function.")
@click.option("--pool", help="Only those of this pool.")
@click.option("--stuck", is_flag=True, help="Only those that wait, or run, for longer than they should.")
@click.option("--order", type=click.Choice(("newest", "due")), help="The newest first, or the next turn first.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--after", help="Go on from here: the position at the end of the list before.")
@json_option
@address_options
def list_jobs(
    state: str | None,
    function: str | None,
    pool: str | None,
    stuck: bool,
    order: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
    url: str,
    data: Path,
    key_file: Path | None,
) -> None:
    """List jobs, with the reason why one has not ended."""
    order = order or ("due" if stuck or state in UNDECIDED else "newest")
    wanted: dict[str, object] = {"state": state, "function": function, "pool": pool, "stuck": stuck, "order": order}
    answer = _pages(address_of(url, data, key_file), "jobs", "jobs/list", wanted, limit=limit, after=after)
    if as_json:
        show_json(answer)
        return
    rows = [_row(job) for job in answer["jobs"]]
    show_table(("ID", "FUNCTION", "STATE", "POOL", "TIME (UTC)", "NOTE"), rows)
    if answer["next"] is not None:
        click.echo(f"There is more: --after '{answer['next']}'", err=True)
    _tell_paused(answer["paused"])


@jobs.command("show")
@click.argument("id")
@json_option
@address_options
def show_job(id: str, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Show all there is to know of one job."""
    job = address_of(url, data, key_file).call("jobs/show", id=id)
    if as_json:
        show_json(job)
        return
    arguments = "too long to be shown" if job["args"] is None else orjson.dumps(job["args"]).decode()
    fields = [("id", job["id"]), ("function", job["function"]), ("arguments", arguments), ("state", job["state"])]
    fields += [(name, str(job[name])) for name in ("why", "pool", "key", "onComplete") if job[name] is not None]
    if job["retry"] is not None:
        fields.append(("retry", orjson.dumps(job["retry"]).decode()))
    times = ("createdTime", "scheduledTime", "dueTime", "startedTime", "completedTime")
    fields += [(name, f"{shown_time(job[name])} UTC") for name in times if job[name] is not None]
    fields += [(name, job[name]) for name in ("error", "completionError") if job[name] is not None]
    if job["workerDeaths"]:
        fields.append(("workerDeaths", str(job["workerDeaths"])))
    for attempt in job["attempts"]:
        end = attempt.get("error")
        fields.append(("attempt", f"{shown_time(attempt['startedTime'])} UTC  {first_line(end) or 'success'}"))
    show_fields(fields)


@jobs.command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@json_option
@address_options
def cancel_jobs(ids: tuple[str, ...], as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Keep pending jobs from running, and interrupt running actions."""
    address = address_of(url, data, key_file)
    _each(ids, lambda job_id: address.call("jobs/cancel", id=job_id), "canceled", as_json=as_json)


@jobs.command("retry")
@click.argument("ids", nargs=-1, metavar="[ID…]")
@click.option("--all", "is_all", is_flag=True, help="All that have failed by now.")
@click.option("--function", help="With --all: only those of this function.")
@json_option
@address_options
def retry_jobs(
    ids: tuple[str, ...],
    is_all: bool,
    function: str | None,
    as_json: bool,
    url: str,
    data: Path,
    key_file: Path | None,
) -> None:
    """Run failed jobs again."""
    if bool(ids) == is_all or (function is not None and not is_all):
        raise click.UsageError("name the jobs, or give --all, and --function only with that")
    address = address_of(url, data, key_file)
    if ids:
        _each(ids, lambda job_id: address.call("jobs/retry", id=job_id), "retried", as_json=as_json)
        return
    _show_count("retried", _sweep(address, "jobs/retry", "retried", {"all": True, "function": function}), as_json)


@jobs.command("purge")
@click.option("--failed", is_flag=True, help="Those that failed.")
@click.option("--finished", is_flag=True, help="Those that succeeded or were canceled.")
@json_option
@address_options
def purge_jobs(failed: bool, finished: bool, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Delete jobs that have ended."""
    if not failed and not finished:
        raise click.UsageError("say which: --failed, --finished or both")
    address = address_of(url, data, key_file)
    chosen = [name for name, is_chosen in (("failed", failed), ("finished", finished)) if is_chosen]
    _show_count("purged", sum(_sweep(address, "jobs/purge", "purged", {"which": which}) for which in chosen), as_json)


@jobs.command("pause")
@pool_option
@json_option
@address_options
def pause_jobs(pool: str | None, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Start no more jobs and crons, until `resume`. What runs goes on."""
    _show_paused(address_of(url, data, key_file).call("jobs/pause", pool=pool), as_json)


@jobs.command("resume")
@pool_option
@json_option
@address_options
def resume_jobs(pool: str | None, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Take back a `pause`; what is overdue runs in order."""
    _show_paused(address_of(url, data, key_file).call("jobs/resume", pool=pool), as_json)


# --- What they share --------------------------------------------------------------------------------------------------


def show_json(tree: object) -> None:
    click.echo(orjson.dumps(tree, option=orjson.OPT_INDENT_2).decode())


def _pages(
    address: ServerAddress, name: str, operation: str, wanted: dict[str, object], *, limit: int, after: str | None
) -> dict[str, Any]:
    """As many pages as it takes: one may be short."""
    found: list[Any] = []
    while True:
        answer = address.call(operation, **wanted, limit=limit - len(found), after=after)
        found += answer[name]
        after = answer["next"]
        if after is None or len(found) >= limit:
            return {**answer, name: found}


def _sweep(address: ServerAddress, operation: str, name: str, wanted: dict[str, object]) -> int:
    """Page by page, up to the time of the first."""
    count = 0
    position: dict[str, object] = {}
    while True:
        answer = address.call(operation, **wanted, **position)
        count += int(answer[name])
        if answer["next"] is None:
            return count
        position = {"after": answer["next"], "before": answer["before"]}


def _each(ids: tuple[str, ...], act: Callable[[str], object], done: str, *, as_json: bool) -> None:
    """One after the other; what cannot be done to one ends it, and what was done before is told."""
    count = 0
    try:
        for job_id in ids:
            act(job_id)
            count += 1
            if not as_json:
                click.echo(f"{job_id} {done}")
    finally:
        if as_json:
            show_json({done: list(ids[:count])})


def _show_count(done: str, count: int, as_json: bool) -> None:
    if as_json:
        show_json({done: count})
    else:
        click.echo(f"{count} {'job' if count == 1 else 'jobs'} {done}")


def _show_paused(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(answer)
    elif not _tell_paused(answer["paused"]):
        click.echo("nothing is paused")


def _tell_paused(paused: dict[str, Any]) -> bool:
    what = ["everything"] if paused["everything"] else []
    what += [f"the pool {pool}" for pool in paused["pools"]]
    if what:
        click.echo(f"paused: {', '.join(what)}")
    return bool(what)


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    """Its time is that of its end, or of its turn."""
    state = f"{job['state']} (stuck)" if job["stuck"] else job["state"]
    time = job["completedTime"] or job["startedTime"] or job["dueTime"] or job["scheduledTime"]
    note = job["why"] or first_line(job["error"]) or first_line(job["completionError"])
    return (job["id"], job["function"], state, job["pool"], shown_time(time), note)
