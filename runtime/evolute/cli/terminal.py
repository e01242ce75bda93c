"""What a developer sees: the banner, every log line with its function, every traceback, every reload.

12:04:31  messages:send       mutation  1.2 ms
          [LOG] 'hello'
12:04:33  messages:send       mutation  failed
          Uncaught ValueError: no such channel
            File "functions/messages.py", line 12, in send
12:04:37  messages: building by_author: 34 % (341,000 rows, 52,110/s)
"""

from __future__ import annotations

from datetime import datetime

import click

from evolute.clock import NS_PER_S, SystemClock
from evolute.config import Config
from evolute.errors import EvoluteError
from evolute.execution.call_log import CallLogEntry
from evolute.execution.table_walk import WalkProgress
from evolute.registry.registry import RegistryReport

INDENT = " " * 10


def show_banner(config: Config, url: str, key_file: str, report: RegistryReport) -> None:
    """Where it runs, what it serves, and where the data and the admin key are."""
    click.secho(f"evolute serves {config.functions_folder}/ on ", nl=False)
    click.secho(url, bold=True, fg="green")
    show_functions(report)
    if config.static_folder is not None:
        click.echo(f"  page       {config.static_folder}/")
    click.echo(f"  data       {config.data_folder}/")
    click.echo(f"  admin key  {key_file}")
    click.echo()


def show_functions(report: RegistryReport) -> None:
    """The functions by kind; internal ones in parentheses."""
    for kind, plural in (("query", "queries"), ("mutation", "mutations"), ("action", "actions")):
        functions = [function for function in report.functions.values() if function.kind == kind]
        names = [f.path if f.visibility == "public" else f"({f.path})" for f in sorted(functions, key=lambda f: f.path)]
        click.echo(click.wrap_text(", ".join(names) or "none", 110, f"  {plural:9}  ", " " * 13))


def show_reload(result: RegistryReport | EvoluteError) -> None:
    """What a save led to: the new functions, or every fault and that the old code goes on serving."""
    now = _time_of_day(SystemClock().now_ns())
    if isinstance(result, EvoluteError):
        click.secho(f"{now}  the folder was not loaded; the old code keeps serving", fg="red", bold=True)
        _show_indented(str(result), fg="red")
    else:
        click.secho(f"{now}  reloaded: {len(result.functions)} functions", fg="green")


def show_progress(progress: WalkProgress) -> None:
    """How far a change of the schema has come that takes long."""
    doing = (["validating rows"] if progress.validates else []) + [f"building {name}" for name in progress.indexes]
    rate = f"{progress.rows:,} rows, {progress.rows_per_s:,.0f}/s"
    now = _time_of_day(SystemClock().now_ns())
    click.echo(f"{now}  {progress.table}: {', '.join(doing)}: {100 * progress.share:.0f} % ({rate})")


def show_call(entry: CallLogEntry) -> None:
    """A run that printed something or failed. Runs that have nothing to say are not shown."""
    if not entry.log_lines and entry.error is None:
        return
    time = _time_of_day(entry.started_ns)
    job = " (scheduled)" if entry.job is not None else ""
    end = f"{entry.duration_ms:.1f} ms" if entry.error is None else "failed"
    click.secho(f"{time}  {entry.path:28} {entry.kind}{job}  {end}", fg=None if entry.error is None else "red")
    for line in entry.log_lines:
        _show_indented(line)
    if entry.error is not None:
        _show_indented(entry.error, fg="red")


def _time_of_day(ts_ns: int) -> str:
    return datetime.fromtimestamp(ts_ns / NS_PER_S).strftime("%H:%M:%S")


def _show_indented(text: str, fg: str | None = None) -> None:
    for line in text.rstrip().splitlines():
        click.secho(INDENT + line, fg=fg)
