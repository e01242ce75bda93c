"""`evolute keys`: further admin keys, for people and programs that are not to have the one of the data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from evolute.cli.admin_client import address_of, address_options
from evolute.cli.jobs import json_option, show_json
from evolute.cli.table import show_table, shown_time


@click.group()
def keys() -> None:
    """Make and revoke the admin keys of a running server."""


@keys.command("create")
@click.argument("name")
@click.option("--read-only", is_flag=True, help="It may run queries and look at lists, and change nothing.")
@json_option
@address_options
def create_key(name: str, read_only: bool, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Make an admin key NAME, and print it: it is not kept, and cannot be printed again."""
    answer = address_of(url, data, key_file).call("keys/create", name=name, readOnly=read_only)
    if as_json:
        show_json(answer)
        return
    click.echo(answer["key"])
    click.echo(f"This {_kind(answer)} key is shown only now: keep it where secrets are kept.", err=True)


@keys.command("list")
@json_option
@address_options
def list_keys(as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """List the admin keys that were made, and when each was used last. No secret is shown."""
    answer = address_of(url, data, key_file).call("keys/list")
    if as_json:
        show_json(answer)
        return
    show_table(("NAME", "KIND", "CREATED (UTC)", "LAST USE (UTC)"), [_row(key) for key in answer["keys"]])


@keys.command("revoke")
@click.argument("name")
@json_option
@address_options
def revoke_key(name: str, as_json: bool, url: str, data: Path, key_file: Path | None) -> None:
    """Revoke the admin key NAME: it is worth nothing from now on, also for who is connected with it."""
    answer = address_of(url, data, key_file).call("keys/revoke", name=name)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"the key {name} is revoked")


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    return key["name"], _kind(key), shown_time(key["createdTime"]), shown_time(key["lastUsedTime"])


def _kind(key: dict[str, Any]) -> str:
    return "read-only" if key["readOnly"] else "full"
