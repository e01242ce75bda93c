"""A compaction keeps every row and gives back what is free; whatever stops it leaves the old file or the new one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from evolute import failpoints
from evolute.errors import DataFolderInUse, DiskFault, StorageFull
from evolute.limits import MIB, Limits
from evolute.storage import compaction
from evolute.storage.compaction import Compaction
from evolute.storage.data_folder import open_data_folder, reading_data_folder
from evolute.storage.lmdb_engine import LmdbEngine

LIMITS = Limits(map_bytes_max=64 * MIB)
LONG_KEY = b"k" * 600


def fill(path: Path) -> dict[bytes, bytes]:
    """Writes 4 MiB, deletes most of them again, and returns what is left."""
    with open_data_folder(path) as folder:
        engine = LmdbEngine(folder.store_path, LIMITS, sync=False)
        rows = {b"%04d" % number: bytes(2000) for number in range(2000)} | {LONG_KEY: b"long"}
        engine.write(rows)
        engine.write({key: None for key in rows if key.endswith((b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"))})
        kept = stored(engine)
        engine.close()
    return kept


def stored(engine: LmdbEngine) -> dict[bytes, bytes]:
    reader = engine.reader(unbounded=True)
    try:
        return dict(reader.scan(b"", None))
    finally:
        reader.close()


def stored_in(path: Path) -> dict[bytes, bytes]:
    engine = LmdbEngine(path / "store", LIMITS)
    try:
        rows = stored(engine)
        engine.write({b"new": b"1"})
        engine.write({b"new": None})
        assert stored(engine) == rows, "it can be written to"
        return rows
    finally:
        engine.close()


def compact(path: Path) -> Compaction:
    with open_data_folder(path, holder="`evolute compact`", create=False) as folder:
        return compaction.compact(folder, LIMITS)


def files(path: Path) -> set[str]:
    return {file.name for file in (path / "store").iterdir()}


def test_every_row_is_kept_and_what_is_free_is_given_back(tmp_path: Path) -> None:
    rows = fill(tmp_path)
    file = tmp_path / "store" / "data.mdb"
    file.chmod(0o640)
    before = file.stat().st_size
    done = compact(tmp_path)
    assert done == Compaction(before, file.stat().st_size)
    assert done.bytes_after < before / 2
    assert file.stat().st_mode & 0o777 == 0o640
    assert files(tmp_path) == {"data.mdb", "lock.mdb"}
    assert stored_in(tmp_path) == rows
    again = compact(tmp_path)
    assert again.bytes_after <= done.bytes_after + 64 * 1024


def test_a_store_that_was_compacted_goes_on_from_any_number_of_commits(tmp_path: Path) -> None:
    """LMDB begins to count its transactions anew, and readers choose the root by that count."""
    with open_data_folder(tmp_path) as folder:
        engine = LmdbEngine(folder.store_path, LIMITS, sync=False)
        for number in range(7):
            engine.write({b"key": b"%d" % number})
        engine.close()
    for number in range(4):
        compact(tmp_path)
        with open_data_folder(tmp_path) as folder:
            engine = LmdbEngine(folder.store_path, LIMITS, sync=False)
            reader = engine.reader()
            assert reader.get(b"key") == b"%d" % (6 + number)
            engine.write({b"key": b"%d" % (7 + number)})
            assert stored(engine) == {b"key": b"%d" % (7 + number)}
            reader.close()
            engine.close()


@pytest.mark.parametrize("failpoint", failpoints.COMPACTION)
def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path, failpoint: str) -> None:
    rows = fill(tmp_path)
    before = (tmp_path / "store" / "data.mdb").stat()
    command = [sys.executable, "-m", "evolute", "compact", "--data", str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, "EVOLUTE_FAILPOINT": failpoint}, check=False)
    assert killed.returncode == -9
    after = (tmp_path / "store" / "data.mdb").stat()
    if failpoint == failpoints.AFTER_RENAME:
        assert after.st_size < before.st_size / 2
        assert files(tmp_path) == {"data.mdb", "lock.mdb"}
    else:
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
        assert files(tmp_path) == {"data.mdb", "lock.mdb", "data.mdb.draft"}
    open_data_folder(tmp_path).close()  # as the next server does
    assert files(tmp_path) == {"data.mdb", "lock.mdb"}
    assert stored_in(tmp_path) == rows
    compact(tmp_path)
    assert stored_in(tmp_path) == rows


def test_a_full_disk_stops_it_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = fill(tmp_path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    try:
        with pytest.raises(StorageFull, match=r"The disk is full, so .* was not compacted\. Nothing was changed"):
            compact(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert files(tmp_path) == {"data.mdb", "lock.mdb"}
    assert stored_in(tmp_path) == rows


def test_a_disk_without_room_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = fill(tmp_path)
    disk = os.statvfs(tmp_path)
    fields = [*disk[:4], 10, *disk[5:]]  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    with pytest.raises(StorageFull, match=r"There is no room to compact .* takes up to 1\.\d MiB .* Nothing was chang"):
        compact(tmp_path)
    assert stored_in(tmp_path) == rows


def test_who_has_the_folder_keeps_a_compaction_away(tmp_path: Path) -> None:
    fill(tmp_path)
    with open_data_folder(tmp_path), pytest.raises(DataFolderInUse, match=f"by a server, process {os.getpid()}"):
        compact(tmp_path)
    compacting = f"by `evolute compact`, process {os.getpid()}"
    with open_data_folder(tmp_path, holder="`evolute compact`"), pytest.raises(DataFolderInUse, match=compacting):
        open_data_folder(tmp_path)
    with reading_data_folder(tmp_path), pytest.raises(DataFolderInUse, match="`evolute check` reads it"):
        compact(tmp_path)
    with reading_data_folder(tmp_path), reading_data_folder(tmp_path), open_data_folder(tmp_path):
        pass  # readers are in nobody's way


def test_a_worker_that_has_outlived_its_server_keeps_a_compaction_away(tmp_path: Path) -> None:
    rows = fill(tmp_path)
    program = (
        "import sys; from pathlib import Path; from evolute.limits import Limits;"
        "from evolute.storage.lmdb_engine import LmdbEngine;"
        "engine = LmdbEngine(Path(sys.argv[1]), Limits(map_bytes_max=2**26), read_only=True);"
        "print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "store")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "open\n"
        with pytest.raises(DataFolderInUse, match="still open in a process of the last server"):
            compact(tmp_path)
        assert files(tmp_path) == {"data.mdb", "lock.mdb"}
        worker.communicate()
    compact(tmp_path)
    assert stored_in(tmp_path) == rows


def test_what_is_no_data_folder_is_refused_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    open_data_folder(tmp_path / "new").close()
    (tmp_path / "file").touch()
    cases = {
        "missing": "There is no data folder at .*/missing",
        "empty": "There is no data folder at .*/empty",
        "new": "holds no store: no server has ever run on it",
        "file": "file cannot be used: it, or a part of its path, is a file",
    }
    for name, message in cases.items():
        with pytest.raises(DiskFault, match=message):
            compact(tmp_path / name)
        with pytest.raises(DiskFault, match=message), reading_data_folder(tmp_path / name):
            pass
    assert not (tmp_path / "missing").exists()
    assert list((tmp_path / "empty").iterdir()) == []
