"""`evolute compact`: gives back to the disk what the store has free, while no server runs."""

from __future__ import annotations

from pathlib import Path

import click

from evolute import failpoints
from evolute.config import failpoint_from_environment, limits_from_environment
from evolute.limits import MIB


@click.command()
@click.option("--data", default=".evolute", show_default=True, type=Path, help="The data folder.")
def compact(data: Path) -> None:
    """Rewrite a data folder without its free pages. Its server must be stopped; a crash leaves it as it was."""
    from evolute.storage import compaction
    from evolute.storage.data_folder import open_data_folder

    limits = limits_from_environment()
    failpoints.arm(failpoint_from_environment())
    with open_data_folder(data, holder="`evolute compact`", create=False) as folder:
        done = compaction.compact(folder, limits)
    before, after = done.bytes_before / MIB, done.bytes_after / MIB
    click.echo(f"{before:,.1f} MiB before, {after:,.1f} MiB after; {before - after:,.1f} MiB freed")
