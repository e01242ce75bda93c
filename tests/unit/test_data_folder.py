"""One server has a data folder at a time, and a folder of another format is left as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evolute.errors import DataFolderInUse, DiskFault, FormatMismatch
from evolute.storage.data_folder import open_data_folder
from evolute.storage.keyspace import FORMAT_VERSION

OPEN_IT = (
    "import sys, pathlib; from evolute.storage.data_folder import open_data_folder as o; o(pathlib.Path(sys.argv[1]))"
)


def contents(path: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in path.rglob("*")}


def test_a_new_folder_is_created_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with open_data_folder(path) as folder:
        assert folder.path == path
        assert (folder.store_path, folder.admin_key_path) == (path / "store", path / "admin_key")
        assert (path / "format").read_text() == f"{FORMAT_VERSION}\n"
        folder.store_path.mkdir()
        (folder.store_path / "data.mdb").touch()
    open_data_folder(path).close()


def test_a_folder_that_holds_other_files_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    open_data_folder(tmp_path).close()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "text", [str(FORMAT_VERSION - 1), str(FORMAT_VERSION + 1), "0", "", "one", "1 2", "\xff" * 500]
)
def test_another_format_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "format").write_text(text, encoding="latin-1")
    before = contents(tmp_path)
    with pytest.raises(FormatMismatch, match=f"this program reads version {FORMAT_VERSION}") as caught:
        open_data_folder(tmp_path)
    assert text[:5] in str(caught.value) or not text.isascii()
    assert contents(tmp_path) == before


def test_a_store_without_a_format_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "data.mdb").write_bytes(b"something")
    before = contents(tmp_path)
    with pytest.raises(FormatMismatch, match="no format file"):
        open_data_folder(tmp_path)
    assert contents(tmp_path) == before


def test_a_second_server_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        with pytest.raises(DataFolderInUse, match=f"process {os.getpid()}"):
            open_data_folder(tmp_path)
        other = subprocess.run(
            [sys.executable, "-c", OPEN_IT, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert (
            f"DataFolderInUse: The data folder {tmp_path} is in use by a server, process {os.getpid()}" in other.stderr
        )
        folder.close()
        folder.close()
    subprocess.run([sys.executable, "-c", OPEN_IT, str(tmp_path)], check=True)
    open_data_folder(tmp_path).close()


def test_a_child_process_does_not_inherit_the_lock(tmp_path: Path) -> None:
    folder = open_data_folder(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        folder.close()
        open_data_folder(tmp_path).close()
        assert child.poll() is None


def test_what_is_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(DiskFault, match=f"{path} cannot be used: it, or a part of its path, is a file"):
            open_data_folder(path)
    with pytest.raises(DiskFault, match="/proc/nothing"):
        open_data_folder(Path("/proc/nothing"))


def test_without_flock_the_message_says_where_evolute_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(DiskFault, match="WSL"):
        open_data_folder(tmp_path)
