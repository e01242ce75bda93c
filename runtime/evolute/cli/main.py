"""The command line's front: commands and their options. Each command, or group of them, lives in a file of its own.

Every mistake of the user ends in one line on stderr and exit code 1, without a traceback. A command imports what it
needs when it runs, because nobody wants to wait for a server's modules to make one call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from evolute.cli.admin_client import address_of, address_options
from evolute.cli.check import check
from evolute.cli.compact import compact
from evolute.cli.crons import crons
from evolute.cli.jobs import jobs
from evolute.cli.keys import keys
from evolute.cli.profile import profile
from evolute.config import DEFAULT_PORT, Config, failpoint_from_environment, limits_from_environment
from evolute.errors import EvoluteError

F = TypeVar("F", bound=Callable[..., None])


def main() -> None:
    """The console script `evolute`."""
    if sys.platform == "win32":
        sys.exit("evolute needs Linux or macOS. On Windows, run it in WSL, the Windows Subsystem for Linux.")
    try:
        commands(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (EvoluteError, ValueError, OSError) as error:
        sys.exit(f"evolute: {error}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="evolute")
def commands() -> None:
    """A reactive backend in Python: transactions, subscriptions and a scheduler over LMDB."""


def server_options(function: F) -> F:
    """The options that `dev` and `serve` share."""
    options = [
        click.option("--functions", default="functions", show_default=True, type=Path, help="The functions folder."),
        click.option("--data", default=".evolute", show_default=True, type=Path, help="The data folder."),
        click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on."),
        click.option("--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65535)),
        click.option(
            "--workers",
            default=2,
            show_default=True,
            type=click.IntRange(1, 256),
            help="Processes for queries and mutations.",
        ),
        click.option(
            "--action-workers",
            default=1,
            show_default=True,
            type=click.IntRange(1, 256),
            help="Processes for actions, each of which runs many at once.",
        ),
        click.option("--static", type=Path, help="A folder with the built page, to be served beside the functions."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@commands.command()
@server_options
def dev(
    functions: Path, data: Path, host: str, port: int, workers: int, action_workers: int, static: Path | None
) -> None:
    """Serve a functions folder, and serve it anew whenever a file in it is saved."""
    from evolute.cli.serve import serve_forever

    serve_forever(_config(functions, data, host, port, workers, action_workers, static, development=True))


@commands.command()
@server_options
@click.option("--full-errors", is_flag=True, help="Send clients error texts and log lines, as dev does.")
def serve(
    functions: Path,
    data: Path,
    host: str,
    port: int,
    workers: int,
    action_workers: int,
    static: Path | None,
    full_errors: bool,
) -> None:
    """Serve a functions folder in production: no watching, one reading of the folder."""
    from evolute.cli.serve import serve_forever

    redact = not full_errors
    serve_forever(
        _config(functions, data, host, port, workers, action_workers, static, development=False, redact=redact)
    )


@commands.command()
@click.argument("path")
@click.argument("arguments", default="{}", metavar="[JSON]")
@address_options
def run(path: str, arguments: str, url: str, data: Path, key_file: Path | None) -> None:
    """Run the function PATH (`module:function`) with the named arguments JSON; print its result as JSON."""
    from evolute.cli.call import run_function

    run_function(path, arguments, address_of(url, data, key_file))


commands.add_command(jobs)
commands.add_command(crons)
commands.add_command(keys)
commands.add_command(check)
commands.add_command(compact)
commands.add_command(profile)


def _config(
    functions: Path,
    data: Path,
    host: str,
    port: int,
    workers: int,
    action_workers: int,
    static: Path | None,
    *,
    development: bool,
    redact: bool = False,
) -> Config:
    return Config(
        functions_folder=functions,
        data_folder=data,
        host=host,
        port=port,
        workers=workers,
        action_workers=action_workers,
        development=development,
        redact_errors=redact,
        limits=limits_from_environment(),
        failpoint=failpoint_from_environment(),
        static_folder=static,
    )
