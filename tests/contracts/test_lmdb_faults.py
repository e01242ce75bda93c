"""Real faults: a full map, a full disk, a file that cannot be written, a failed commit, killed readers and writers.

Nothing is imitated. What would hurt the test's own process runs in a child process, whose script stands in the test.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evolute.errors import DiskFault, StorageFull, StoreCorrupt
from evolute.limits import Limits
from evolute.storage.lmdb_engine import LmdbEngine

KIB = 1024
LIMITS = Limits(map_bytes_max=64 * KIB * KIB)

PRELUDE = """
    import os, resource, sys
    from pathlib import Path
    from evolute.errors import EvoluteError
    from evolute.limits import Limits
    from evolute.storage.lmdb_engine import LmdbEngine
    LIMITS = Limits(map_bytes_max=64 * 1024 * 1024)
    STORE = Path(sys.argv[1])
    def attempt(engine, puts):
        try:
            engine.write(puts)
            return "written"
        except EvoluteError as error:
            return type(error).__name__
    def get(engine, key):
        reader = engine.reader()
        try:
            return reader.get(key)
        finally:
            reader.close()
"""


def script(text: str) -> str:
    return textwrap.dedent(PRELUDE) + textwrap.dedent(text)


def run(text: str, store: Path, *command: str) -> list[str]:
    """The lines that the script printed."""
    done = subprocess.run(
        [*command, sys.executable, "-c", script(text), str(store)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@contextmanager
def child(text: str, store: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the script; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script(text), str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_full_map_loses_nothing_and_writes_work_again_when_there_is_room(tmp_path: Path) -> None:
    small = dataclasses.replace(LIMITS, map_bytes_max=512 * KIB)
    engine = LmdbEngine(tmp_path / "store", small)
    keys = [b"%03d" % number for number in range(10)]
    for key in keys:
        engine.write({key: bytes(40 * KIB)})
    with pytest.raises(StorageFull, match=f"map_bytes_max = {512 * KIB}"):
        engine.write({b"large": bytes(100 * KIB)})
    with pytest.raises(StorageFull):
        engine.write({b"a": b"1", b"b": bytes(200 * KIB)})

    reader = engine.reader()
    assert [key for key, _ in reader.scan(b"", None)] == keys
    reader.close()

    engine.write(dict.fromkeys(keys[:4]))
    for number in range(2):  # LMDB uses the pages that a commit freed from the third commit after it on
        engine.write({b"x": b"%d" % number})
    engine.write({b"x": bytes(60 * KIB)})
    engine.close()

    engine = LmdbEngine(tmp_path / "store", LIMITS)
    engine.write({b"y": bytes(2000 * KIB)})
    reader = engine.reader()
    assert [key for key, _ in reader.scan(b"", None)] == [*keys[4:], b"x", b"y"]
    reader.close()
    engine.close()


def test_a_full_disk_loses_nothing_and_writes_work_again_when_there_is_room(tmp_path: Path) -> None:
    in_own_mounts = ("unshare", "--user", "--map-root-user", "--mount")
    if subprocess.run([*in_own_mounts, "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a disk of 300 KiB")
    lines = run(
        """
        import subprocess
        STORE.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(STORE)], check=True)
        engine = LmdbEngine(STORE, LIMITS)
        print(attempt(engine, {b"kept": b"1"}))
        print(attempt(engine, {b"kept": b"2", **{b"%d" % n: bytes(1000) for n in range(1000)}}))
        print(attempt(engine, {b"kept": b"3", **{b"%d" % n: bytes(1000) for n in range(1000)}}))
        print(get(engine, b"kept").decode(), get(engine, b"0"))
        subprocess.run(["mount", "-o", "remount,size=30m", str(STORE)], check=True)
        print(attempt(engine, {b"%d" % n: bytes(1000) for n in range(1000)}))
        engine.close()
        engine = LmdbEngine(STORE, LIMITS)
        print(get(engine, b"kept").decode(), len(get(engine, b"999")))
        """,
        tmp_path / "store",
        *in_own_mounts,
    )
    assert lines == ["written", "StorageFull", "StorageFull", "1", "None", "written", "1", "1000"]


def test_a_file_that_may_not_grow_fails_the_write_and_nothing_else(tmp_path: Path) -> None:
    lines = run(
        """
        engine = LmdbEngine(STORE, LIMITS)
        print(attempt(engine, {b"kept": b"1"}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
        outcome = attempt(engine, {b"kept": b"2", **{b"%d" % n: bytes(1000) for n in range(1000)}})
        print(outcome in ("StorageFull", "StorageFailed"), get(engine, b"kept").decode())
        print(attempt(engine, {b"small": b""}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        print(attempt(engine, {b"%d" % n: bytes(1000) for n in range(1000)}))
        """,
        tmp_path / "store",
    )
    assert lines == ["written", "True", "1", "written", "written"]


CLOSE_DESCRIPTOR = """
    engine = LmdbEngine(STORE, LIMITS)
    print(attempt(engine, {b"kept": b"1"}))
    for name in os.listdir("/proc/self/fd"):
        if not os.path.exists(f"/proc/self/fd/{name}") or not os.readlink(f"/proc/self/fd/{name}").endswith("data.mdb"):
            continue
        flags = int(Path(f"/proc/self/fdinfo/{name}").read_text().split("flags:")[1].split()[0], 8)
        if bool(flags & os.O_DSYNC) == OF_THE_ROOT_PAGE:
            os.close(int(name))
    print(attempt(engine, {b"kept": b"2"}))
    print(attempt(engine, {b"kept": b"3"}))
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="finds LMDB's descriptors in /proc")
@pytest.mark.parametrize(
    ("of_the_root_page", "outcome"),
    [(False, "StorageFailed"), (True, "FateUnknown")],
    ids=["while pages are written: it did not happen", "while the root is switched: nobody can tell"],
)
def test_a_commit_that_fails(tmp_path: Path, of_the_root_page: bool, outcome: str) -> None:
    lines = run(CLOSE_DESCRIPTOR.replace("OF_THE_ROOT_PAGE", str(of_the_root_page)), tmp_path / "store")
    assert lines == ["written", outcome, outcome]
    engine = LmdbEngine(tmp_path / "store", LIMITS)
    reader = engine.reader()
    assert reader.get(b"kept") == b"1"
    reader.close()
    engine.write({b"kept": b"4"})
    engine.close()


def load(engine: LmdbEngine) -> int:
    """The same writes each time; answers how many pages the file grew by."""
    before = engine.statistics().pages
    for number in range(60):
        engine.write({b"%d" % key: b"%d" % number * 100 for key in range(40)})
    return engine.statistics().pages - before


def test_a_killed_reader_pins_its_pages_until_the_readers_are_checked(tmp_path: Path) -> None:
    engine = LmdbEngine(tmp_path / "store", LIMITS, sync=False)
    load(engine)
    load(engine)
    unpinned = load(engine)
    with child(
        """
        engine = LmdbEngine(STORE, LIMITS, read_only=True)
        reader = engine.reader()
        print("reading", flush=True)
        sys.stdin.read()
        """,
        tmp_path / "store",
    ) as process:
        assert said(process) == "reading"
        pinned = load(engine)
        assert engine.check_readers() == 0, "a living reader keeps its snapshot"
    killed = load(engine)
    assert engine.statistics().readers == 1
    assert engine.check_readers() == 1
    assert engine.statistics().readers == 0
    freed = load(engine)
    assert unpinned <= 10
    assert freed <= 10
    assert pinned > 100
    assert killed > 100
    engine.close()


def test_a_server_that_opens_the_store_clears_what_killed_readers_left(tmp_path: Path) -> None:
    LmdbEngine(tmp_path / "store", LIMITS, sync=False).close()
    other = LmdbEngine(tmp_path / "other", LIMITS, sync=False)  # an open store elsewhere is not disturbed
    with child(
        """
        engine = LmdbEngine(STORE, LIMITS, read_only=True)
        keeper = engine.reader()
        print("reading", flush=True)
        sys.stdin.read()
        """,
        tmp_path / "store",
    ) as living:
        assert said(living) == "reading"
        with child(
            """
            engine = LmdbEngine(STORE, LIMITS, read_only=True)
            reader = engine.reader()
            print("reading", flush=True)
            sys.stdin.read()
            """,
            tmp_path / "store",
        ) as killed:
            assert said(killed) == "reading"
        engine = LmdbEngine(tmp_path / "store", LIMITS, sync=False)
        assert engine.statistics().readers == 1
        engine.close()
    other.write({b"a": b"1"})
    other.close()


def test_a_killed_writer_leaves_whole_batches_and_every_one_that_it_acknowledged(tmp_path: Path) -> None:
    with child(
        """
        engine = LmdbEngine(STORE, LIMITS)
        for number in range(100_000):
            engine.write({b"%d" % key: b"%d" % number * 500 for key in range(20)})
            print(number, flush=True)
        """,
        tmp_path / "store",
    ) as process:
        acknowledged = [int(said(process)) for _ in range(30)][-1]
    engine = LmdbEngine(tmp_path / "store", LIMITS)
    reader = engine.reader()
    values = {value for _, value in reader.scan(b"", None)}
    reader.close()
    assert len(values) == 1
    number = values.pop()
    assert int(number[: len(number) // 500]) >= acknowledged
    engine.write({b"after": b"1"})
    engine.close()


def test_a_store_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "data.mdb").write_bytes(b"junk" * 5000)
    with pytest.raises(StoreCorrupt, match="junk are not a store"):
        LmdbEngine(tmp_path / "junk", LIMITS)
    with pytest.raises(DiskFault, match="No such file"):
        LmdbEngine(tmp_path / "missing", LIMITS, read_only=True)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(DiskFault, match="EVOLUTE_MAP_BYTES_MAX"):
        LmdbEngine(tmp_path / "wide", dataclasses.replace(LIMITS, map_bytes_max=2**60))
    engine = LmdbEngine(tmp_path / "store", LIMITS)
    with pytest.raises(DiskFault, match="already open in this process"):
        LmdbEngine(tmp_path / "store", LIMITS)
    engine.write({b"a": b"1"})
    engine.close()
