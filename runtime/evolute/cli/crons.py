"""`evolute crons`: which there are, when they run next, how they ended last; and one more run by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evolute.cli.admin_client import address_of, address_options
from evolute.cli.jobs import json_option, show_json
from evolute.cli.table import first_line, show_table, shown_time


@click.group()
def crons() -> None:
    """Look at the crons of a running server, and run one."""


@crons.command("list")
@json_option
@address_options
def list_crons(as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """List crons, the one that is due first, first."""
    address = address_of(url, data, key_file)
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        answer = address.call("crons/list", after=after)
        found += answer["crons"]
        after = answer["next"]
        if after is None:
            break
    if as_json:
        show_json({"crons": found})
        return
    show_table(
        ("NAME", "FUNCTION", "SCHEDULE", "STATE", "NEXT (UTC)", "LAST RUN (UTC)"), [_row(cron) for cron in found]
    )


@crons.command("run")
@click.argument("name")
@json_option
@address_options
def run_cron(name: str, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Have the cron NAME run now, beside the times of its schedule."""
    answer = address_of(url, data, key_file).call("crons/run", name=name)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"the cron {name} is due now")


def _row(cron: dict[str, Any]) -> tuple[str, ...]:
    run = cron["lastRun"]
    last = "-" if run is None else f"{shown_time(run['endedTime'])} {run['state']} {first_line(run['error'])}".rstrip()
    return (
        cron["name"],
        cron["function"],
        _schedule(cron["schedule"]),
        cron["state"],
        shown_time(cron["nextTime"]),
        last,
    )


def _schedule(schedule: dict[str, Any]) -> str:
    """As one writes it: `daily(hour=8)`, without the time zone if it is UTC."""
    fields = {name: value for name, value in schedule.items() if name != "type"}
    if fields.get("timezone") == "UTC":
        del fields["timezone"]
    return f"{schedule['type']}({', '.join(f'{name}={value}' for name, value in fields.items())})"
