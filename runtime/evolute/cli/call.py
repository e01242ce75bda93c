"""`evolute run`: one call over HTTP with the admin key, so that it reaches every function, internal ones too."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import orjson

from evolute.errors import ConvexError, InvalidValue
from evolute.values import wire_codec
from evolute_client.errors import ConnectionLost, FunctionError, RequestRefused
from evolute_client.http_client import HttpClient


def run_function(path: str, arguments: str, url: str, key_file: Path) -> None:
    """Prints the result as JSON; log lines go to stderr. Raises ClickException with the text of what failed."""
    given = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        result = HttpClient(url, admin_key=_admin_key(key_file)).run(path, **given)
    except ConvexError as error:
        raise click.ClickException(f"ConvexError: {_shown(error.data)}") from None
    except (FunctionError, ConnectionLost, RequestRefused, InvalidValue, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(_shown(result))


def _admin_key(key_file: Path) -> str:
    try:
        return key_file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise click.ClickException(
            f"there is no admin key at {key_file}. Start the server first, or name its data folder with --data, "
            "or a file that holds the key with --key-file"
        ) from None
    except OSError as error:
        raise click.ClickException(f"the admin key cannot be read: {error}") from None


def _shown(value: object) -> str:
    return orjson.dumps(orjson.loads(wire_codec.encode(value)), option=orjson.OPT_INDENT_2).decode()


def _arguments(text: str) -> dict[str, object]:
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.ClickException(f"the arguments are not JSON: {error}: {text}") from None
    if not isinstance(tree, dict):
        raise click.ClickException(f'the arguments must be a JSON object such as {{"name": "x"}}, got: {text}')
    return tree
