"""The command line's way to a running server: its address, the admin key, and errors as one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evolute.config import DEFAULT_PORT
from evolute.storage.data_folder import ADMIN_KEY_NAME

if TYPE_CHECKING:
    from evolute_client.http_client import HttpClient

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is, and where its admin key is kept."""

    url: str
    key_file: Path

    def call(self, operation: str, **fields: object) -> dict[str, Any]:
        """An operation of the admin API (`jobs/list`). Raises ClickException with what failed, in one line."""
        with told_in_one_line():
            return self.client().admin(operation, **fields)

    def client(self) -> HttpClient:
        """With the admin key. Raises ClickException, and ValueError for what is no address."""
        from evolute_client.http_client import HttpClient  # late: nobody waits for it to be told of a missing option

        return HttpClient(self.url, admin_key=_admin_key(self.key_file))


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """What keeps a request from being answered becomes a ClickException."""
    from evolute_client.errors import ConnectionLost, RequestRefused

    try:
        yield
    except (ConnectionLost, RequestRefused, ValueError) as error:
        raise click.ClickException(" ".join(str(error).split())) from None


def address_options(function: F) -> F:
    """The options of every command that talks to a server; `address_of` reads them."""
    options = [
        click.option("--url", default=f"http://127.0.0.1:{DEFAULT_PORT}", show_default=True, help="The server."),
        click.option("--data", default=".evolute", show_default=True, type=Path, help="The server's data folder."),
        click.option("--key-file", type=Path, help="A file with the admin key, for a server on another machine."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def address_of(url: str, data: Path, key_file: Path | None) -> ServerAddress:
    return ServerAddress(url, key_file or data / ADMIN_KEY_NAME)


def _admin_key(key_file: Path) -> str:
    try:
        return key_file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise click.ClickException(
            f"there is no admin key at {key_file}. Start the server first, or name its data folder with --data, "
            "or a file that holds the key with --key-file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"the admin key cannot be read: {error}") from None
