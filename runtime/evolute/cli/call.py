"""`evolute run`: one call over HTTP with the admin key, so that it reaches every function, internal ones too."""

from __future__ import annotations

import logging
import sys

import click
import orjson

from evolute.cli.admin_client import ServerAddress, told_in_one_line
from evolute.errors import ConvexError, InvalidValue
from evolute.values import wire_codec
from evolute_client.errors import FunctionError


def run_function(path: str, arguments: str, address: ServerAddress) -> None:
    """Prints the result as JSON; log lines go to stderr. Raises ClickException with the text of what failed."""
    given = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with told_in_one_line():
            result = address.client().run(path, **given)
    except ConvexError as error:
        raise click.ClickException(f"ConvexError: {_shown(error.data)}") from None
    except (FunctionError, InvalidValue) as error:
        raise click.ClickException(str(error)) from None
    click.echo(_shown(result))


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
