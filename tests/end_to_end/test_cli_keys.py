"""`evolute keys` over a real server: made, shown once, listed, used, revoked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_cli import evolute
from tests.end_to_end.test_cli_jobs import run, told

FUNCTIONS = """
from evolute import MutationCtx, QueryCtx, internal_query, mutation

@internal_query
def secret(ctx: QueryCtx) -> str:
    return "secret"

@mutation
def change(ctx: MutationCtx) -> None:
    pass
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("cli keys")
    functions = folder / "functions"
    functions.mkdir()
    (functions / "m.py").write_text(FUNCTIONS)
    with ServerProcess(functions, folder / "data") as server:
        yield server


def test_a_key_from_its_making_to_its_end(server: ServerProcess, tmp_path: Path) -> None:
    made = run(server, "keys", "create", "dashboard", "--read-only")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("evolute|"), "the key alone, so that a script can keep it"
    assert made.stderr == "This read-only key is shown only now: keep it where secrets are kept.\n"
    ci = json.loads(told(server, "keys", "create", "ci", "--json"))
    assert (ci["name"], ci["readOnly"]) == ("ci", False)

    key_file = tmp_path / "key"
    key_file.write_text(key)
    with_key = ("--url", server.url, "--key-file", str(key_file))
    assert evolute("run", "m:secret", *with_key).stdout == '"secret"\n'
    for command in (("run", "m:change"), ("keys", "revoke", "ci"), ("jobs", "pause")):
        refused = evolute(*command, *with_key)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "The admin key 'dashboard' is read-only" in refused.stderr
    assert evolute("crons", "list", *with_key).returncode == 0

    table = told(server, "keys", "list").splitlines()
    assert table[0].split("  ")[0] == "NAME"
    (dashboard,) = [line for line in table if line.startswith("dashboard")]
    assert "read-only" in dashboard
    (unused,) = [line for line in table if line.startswith("ci")]
    assert "full" in unused
    assert unused.endswith(" -")
    for secret in (key, ci["key"]):
        assert secret.partition("|")[2] not in "".join(table) + told(server, "keys", "list", "--json")

    assert told(server, "keys", "revoke", "dashboard") == "the key dashboard is revoked\n"
    refused = evolute("run", "m:secret", *with_key)
    assert refused.returncode == 1
    assert "admin key is not this server's" in refused.stderr
    assert key.partition("|")[2] not in server.output


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("create", "a:b"), "The name of an admin key is 1 to 64 ASCII letters"),
        (("revoke", "nobody"), "There is no admin key 'nobody'."),
    ],
)
def test_mistakes_are_one_line(server: ServerProcess, command: tuple[str, ...], text: str) -> None:
    refused = run(server, "keys", *command)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert text in refused.stderr
    assert refused.stderr.count("\n") == 1
