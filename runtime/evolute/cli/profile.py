"""`evolute profile`: a flame graph of a running server and its workers, drawn by py-spy, which looks in from outside.

    data folder ──► the process that has it ──► py-spy record --pid … ──► profile.svg

py-spy is a program of its own, and none of our dependencies: the process that it looks at need not import it, nor be
restarted. If it is not installed, uv runs it. It takes the place of this process, so what it says is what the user
sees, of rights that are missing for one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import click

INSTALL = "py-spy is not installed: `pip install py-spy`, or install uv, which runs it without."


@click.command()
@click.option("--data", default=".evolute", show_default=True, type=Path, help="The data folder.")
@click.option("--seconds", default=30, show_default=True, type=click.IntRange(1, 3600), help="How long to look.")
@click.option(
    "--output",
    default=Path("profile.svg"),
    show_default=True,
    type=Path,
    help="The flame graph; the name of a .json is for https://speedscope.app.",
)
def profile(data: Path, seconds: int, output: Path) -> NoReturn:
    """Draw what a running server and its workers do for a while, with py-spy."""
    from evolute.storage.data_folder import server_of

    pid = server_of(data)
    shape = "speedscope" if output.suffix == ".json" else "flamegraph"
    options = ["record", "--pid", str(pid), "--subprocesses", "--duration", str(seconds)]
    command = [*_py_spy(), *options, "--format", shape, "--output", str(output)]
    os.execv(command[0], command)


def _py_spy() -> list[str]:
    if py_spy := shutil.which("py-spy"):
        return [py_spy]
    if uvx := shutil.which("uvx"):
        return [uvx, "py-spy"]
    raise ValueError(INSTALL)
