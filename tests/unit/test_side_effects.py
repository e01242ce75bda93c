"""What cannot be undone is refused while a query or mutation runs, and only there."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evolute.errors import SideEffectRefused
from evolute.execution import side_effects

side_effects.install()


def in_thread_pool() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(print)


REFUSED: dict[str, Callable[[Path], object]] = {
    "a socket": lambda folder: socket.socket(),
    "a connection": lambda folder: socket.create_connection(("127.0.0.1", 1)),
    "a file for writing": lambda folder: (folder / "new").open("w"),
    "a file for appending": lambda folder: (folder / "old").open("a"),
    "a file to be written, by number": lambda folder: os.open(folder / "new", os.O_WRONLY | os.O_CREAT),
    "a file removed": lambda folder: os.remove(folder / "old"),
    "a folder made": lambda folder: os.mkdir(folder / "sub"),
    "a process": lambda folder: subprocess.run(["true"]),
    "a shell": lambda folder: os.system("true"),
    "a thread": lambda folder: threading.Thread(target=print).start(),
    "a thread pool": lambda folder: in_thread_pool(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("kept")
    with side_effects.Refused(), pytest.raises(SideEffectRefused, match=r"Can't .* Use an action"):
        REFUSED[name](tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "kept")]


def test_reading_importing_and_printing_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lazily_imported.py").write_text("value = 1")
    importlib.invalidate_caches()
    with side_effects.Refused():
        assert (tmp_path / "lazily_imported.py").read_text() == "value = 1"
        assert importlib.import_module("lazily_imported").value == 1
        print("free")
        with open(os.devnull, "w") as nowhere:
            nowhere.write("x")


def test_another_thread_is_left_alone(tmp_path: Path) -> None:
    begin, done = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def background() -> None:
        begin.wait(10)
        try:
            socket.socket().close()
        except BaseException as failure:
            failures.append(failure)
        done.set()

    thread = threading.Thread(target=background)
    thread.start()
    with side_effects.Refused():
        begin.set()
        assert done.wait(10)
    thread.join()
    assert failures == []


def test_afterwards_everything_is_allowed_again(tmp_path: Path) -> None:
    with contextlib.suppress(SideEffectRefused), side_effects.Refused():
        with side_effects.Refused():
            pass
        socket.socket()
    socket.socket().close()
    (tmp_path / "file").write_text("x")


def test_functions_on_several_threads_are_guarded_each_for_itself(tmp_path: Path) -> None:
    """As in `evolute.testing`: one that ends takes the guard from nobody, and leaves none behind."""
    entered, other_entered, left = threading.Event(), threading.Event(), threading.Event()
    seen: dict[str, bool] = {}

    def refuses() -> bool:
        try:
            socket.socket().close()
        except SideEffectRefused:
            return True
        return False

    def first() -> None:
        with side_effects.Refused():
            entered.set()
            other_entered.wait(10)
        left.set()
        other.join(10)
        seen["first, afterwards"] = refuses()

    def second() -> None:
        entered.wait(10)
        with side_effects.Refused():
            other_entered.set()
            left.wait(10)
            seen["second, inside"] = refuses()

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    other.start()
    one.join(10)
    assert seen == {"second, inside": True, "first, afterwards": False}
