"""`evolute check` and `evolute compact` on the data folder of a real server: running, stopped, damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute.limits import Limits
from evolute.storage.keyspace import FORMAT_VERSION, LAST_TS, document_key, encode_number, index_prefix
from evolute.storage.lmdb_engine import LmdbEngine
from tests.end_to_end.app_under_test import Gates, write_functions
from tests.end_to_end.raw_session import RawSession
from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_cli import assert_refused, evolute, evolute_all


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that has run, written and deleted, was checked meanwhile, and was stopped."""
    folder = tmp_path_factory.mktemp("check")
    functions = write_functions(folder / "functions")
    with ServerProcess(functions, folder / "data", environment=Gates(folder).environment) as server:
        with RawSession(server.url) as client:
            for number in range(20):
                client.mutate("messages:send", body=f"{number} " + "x" * 100_000)
            client.mutate("messages:clear")
            client.mutate("counters:add", name="kept", amount=7)
        running = evolute("check", "--data", str(server.data))
        assert (running.returncode, running.stderr) == (0, "")
        assert re.fullmatch(r"[\d,]+ rows; [\d.]+ MiB, [\d.]+ MiB of it free\nsound\n", running.stdout)
        refused = evolute("compact", "--data", str(server.data))
        assert_refused(refused, f"is in use by a server, process {server.process.pid}")
        assert server.stop() == 0
        yield server


def test_a_stopped_server_is_compacted_and_serves_what_it_served(stopped: ServerProcess) -> None:
    before = json.loads(evolute("check", "--json", "--data", str(stopped.data)).stdout)
    assert (before["sound"], before["faults"], before["data"]) == (True, [], str(stopped.data))
    assert before["freeBytes"] > 1_000_000
    compacted = evolute("compact", "--data", str(stopped.data))
    assert compacted.returncode == 0, compacted.stderr
    assert re.fullmatch(r"[\d.]+ MiB before, [\d.]+ MiB after; [\d.]+ MiB freed\n", compacted.stdout)
    after = json.loads(evolute("check", "--json", "--data", str(stopped.data)).stdout)
    assert (after["sound"], after["rows"]) == (True, before["rows"])
    assert after["fileBytes"] < before["fileBytes"] - 1_000_000
    with (
        ServerProcess(stopped.functions, stopped.data, environment=Gates(stopped.data.parent).environment) as server,
        RawSession(server.url) as client,
    ):
        client.value(client.add("counters:get", name="kept"), 7)
        assert client.mutate("counters:add", name="kept")["result"] == 8
        assert server.stop() == 0
    assert evolute("check", "--data", str(stopped.data)).returncode == 0


def damaged(data: Path) -> list[str]:
    """Breaks three promises, and says which."""
    nobody = b"\xff" * 16
    engine = LmdbEngine(data / "store", Limits())
    engine.write({index_prefix(999, b"") + nobody: nobody, document_key(700, nobody): b"{}", LAST_TS: encode_number(0)})
    engine.close()
    return [
        "The last timestamp is not one: 0000000000000000.",
        f"the document {nobody.hex()} of table 700: there is no such table.",
        f"the entry of {nobody.hex()} in index 999: there is no such index.",
    ]


def test_every_broken_promise_is_a_line_and_the_exit_code_is_1(stopped: ServerProcess, tmp_path: Path) -> None:
    shutil.copytree(stopped.data, tmp_path / "data")
    faults = damaged(tmp_path / "data")
    as_text, as_json = evolute_all([["check", "--data", str(tmp_path / "data"), *more] for more in ([], ["--json"])])
    assert (as_text.returncode, as_text.stderr) == (1, "")
    *lines, figures, count = as_text.stdout.splitlines()
    assert lines == faults
    assert "rows" in figures
    assert count == "3 faults"
    assert as_json.returncode == 1
    told = json.loads(as_json.stdout)
    assert (told["faults"], told["sound"]) == (faults, False)


def test_a_file_that_was_cut_off_is_said_and_not_read(stopped: ServerProcess, tmp_path: Path) -> None:
    shutil.copytree(stopped.data, tmp_path / "data")
    file = tmp_path / "data" / "store" / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    done = evolute("check", "--data", str(tmp_path / "data"))
    assert done.returncode == 1
    assert re.match(r"The store's file has \d+ bytes of \d+: it was cut off\. Restore a backup\.\n", done.stdout)


def test_what_is_no_data_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("newer", "empty", "text"):
        (tmp_path / name).mkdir()
    (tmp_path / "newer" / "format").write_text("99\n")
    (tmp_path / "file").touch()
    (tmp_path / "text" / "store").mkdir()
    (tmp_path / "text" / "format").write_text(f"{FORMAT_VERSION}\n")
    (tmp_path / "text" / "store" / "data.mdb").write_text("no store" * 10_000)
    complaints = {
        "missing": r"There is no data folder at .*/missing\. Name another one\.",
        "empty": r"There is no data folder at .*/empty\.",
        "newer": "has format version '99'; this program reads version",
        "file": r"file cannot be used: it, or a part of its path, is a file",
        "text": r"The files at .* are not a store that this version can read",
    }
    given = [("check", name) for name in complaints] + [("compact", "missing"), ("compact", "newer")]
    done = evolute_all([[command, "--data", str(tmp_path / name)] for command, name in given])
    for refused, (_, name) in zip(done, given, strict=True):
        assert_refused(refused, complaints[name])
    assert not (tmp_path / "missing").exists()
