"""`evolute check`: reads a data folder from the first row to the last, and says every broken invariant.

It may run beside the server, because it only reads, from one snapshot. While it does, the pages of that moment are not
used again, so the file may grow meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import orjson

from evolute.cli.jobs import json_option
from evolute.config import limits_from_environment
from evolute.errors import StoreCorrupt
from evolute.limits import MIB
from evolute.storage.engine import EngineStatistics


@click.command()
@click.option("--data", default=".evolute", show_default=True, type=Path, help="The data folder.")
@json_option
def check(data: Path, as_json: bool) -> None:
    """Read a whole data folder, also beside its server, and say every broken invariant; then the exit code is 1."""
    from evolute.storage.data_folder import reading_data_folder
    from evolute.storage.lmdb_engine import LmdbEngine
    from evolute.system.check import faults

    with reading_data_folder(data) as store_path:
        engine = LmdbEngine(store_path, limits_from_environment(), read_only=True)
        try:
            statistics = engine.statistics()
            file_bytes = (store_path / "data.mdb").stat().st_size
            reader = engine.reader(unbounded=True)
            try:
                found = _all(_cut_off(statistics, file_bytes) or faults(reader, _progress(statistics.entries)))
                count = _show_json(data, found, statistics, file_bytes) if as_json else _show_lines(found)
            finally:
                reader.close()
        finally:
            engine.close()
    if not as_json:
        free_bytes = statistics.free_pages * statistics.page_bytes
        click.echo(f"{statistics.entries:,} rows; {file_bytes / MIB:,.1f} MiB, {free_bytes / MIB:,.1f} MiB of it free")
        click.echo("sound" if count == 0 else f"{count:,} faults")
    if count:
        sys.exit(1)


def _cut_off(statistics: EngineStatistics, file_bytes: int) -> Iterator[str] | None:
    """A file that is shorter than its pages must not be read: the kernel would kill who does."""
    needed = statistics.pages * statistics.page_bytes
    if file_bytes >= needed:
        return None
    return iter([f"The store's file has {file_bytes} bytes of {needed}: it was cut off. Restore a backup."])


def _all(faults: Iterator[str]) -> Iterator[str]:
    """Also the one that ends the walk."""
    try:
        yield from faults
    except StoreCorrupt as error:
        yield f"{error} The rest was not looked at."


def _progress(entries: int) -> Callable[[int], None]:
    """On a terminal, a line that is written over and over; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda rows: None
    return lambda rows: click.echo(f"\r{rows:,} of {entries:,} rows ", nl=False, err=True)


def _show_lines(faults: Iterator[str]) -> int:
    count = 0
    for fault in faults:
        _clear_progress()
        click.echo(fault)
        count += 1
    _clear_progress()
    return count


def _clear_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)


def _show_json(data: Path, faults: Iterator[str], statistics: EngineStatistics, file_bytes: int) -> int:
    """One object, written as the faults are found: there may be as many as rows."""
    click.echo('{"faults": [', nl=False)
    count = 0
    for fault in faults:
        click.echo(("," if count else "") + "\n  " + orjson.dumps(fault).decode(), nl=False)
        count += 1
    _clear_progress()
    figures = {
        "data": str(data),
        "rows": statistics.entries,
        "fileBytes": file_bytes,
        "freeBytes": statistics.free_pages * statistics.page_bytes,
        "sound": count == 0,
    }
    click.echo("], " + orjson.dumps(figures).decode()[1:])
    return count
