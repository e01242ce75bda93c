from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from evolute.limits import Limits
from evolute.registry import watcher
from evolute.registry.watcher import Watcher

LIMITS = Limits(reload_settle_ms=20)
REPORTED_S_MAX = 10.0


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "admin").mkdir(parents=True)
    (folder / "a.py").write_text("1")
    return folder


@pytest.fixture
def _events_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look that is taken anyway, a change is seen only if its event arrives."""
    monkeypatch.setattr(watcher, "_LOOK_AGAIN_MS", 3_600_000)


async def reported(changes: AsyncGenerator[None], change: Callable[[], object]) -> None:
    """Makes the change once the watch is on, and waits for the report."""
    report = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.05)
    change()
    await asyncio.wait_for(report, REPORTED_S_MAX)


@pytest.mark.usefixtures("_events_alone")
def test_saving_creating_and_deleting_are_reported(app: Path) -> None:
    async def scenario() -> None:
        async with aclosing(Watcher(app, LIMITS).changes()) as changes:
            await reported(changes, lambda: (app / "a.py").write_text("2"))
            await reported(changes, lambda: (app / "b.py").write_text("1"))
            await reported(changes, lambda: (app / "admin" / "c.py").write_text("1"))
            await reported(changes, lambda: (app / "b.py").rename(app / "d.py"))
            await reported(changes, lambda: (app / "d.py").unlink())
            await reported(changes, lambda: shutil.copytree(app / "admin", app / "copied"))
            await reported(changes, lambda: shutil.rmtree(app / "copied"))

    asyncio.run(scenario())


@pytest.mark.usefixtures("_events_alone")
def test_the_folder_may_vanish_and_come_back(app: Path) -> None:
    def create() -> None:
        app.mkdir(parents=True)
        (app / "a.py").write_text("3")

    def replace() -> None:
        app.rename(app.with_name("old"))
        create()
        (app / "b.py").touch()

    async def scenario() -> None:
        async with aclosing(Watcher(app, LIMITS).changes()) as changes:
            await reported(changes, lambda: shutil.rmtree(app))
            await reported(changes, create)
            await reported(changes, lambda: (app / "a.py").write_text("4"))
            await reported(changes, replace)
            await reported(changes, lambda: (app / "a.py").write_text("55"))
            await reported(changes, lambda: shutil.rmtree(app.parent))
            await reported(changes, create)

    asyncio.run(scenario())


def test_nothing_is_lost_between_creation_and_the_first_look(app: Path) -> None:
    async def scenario() -> None:
        watched = Watcher(app, LIMITS)
        (app / "a.py").write_text("22")
        async with aclosing(watched.changes()) as changes:
            await asyncio.wait_for(anext(changes), REPORTED_S_MAX)

    asyncio.run(scenario())


def test_what_is_no_source_is_not_reported(app: Path) -> None:
    def litter() -> None:
        for name in ("notes.txt", "test_a.py", "conftest.py", "__pycache__/a.py", ".git/b.py", "#a.py#"):
            (app / name).parent.mkdir(exist_ok=True)
            (app / name).write_text("1")

    async def scenario() -> None:
        async with aclosing(Watcher(app, LIMITS).changes()) as changes:
            report = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.05)
            litter()
            done, _ = await asyncio.wait({report}, timeout=0.3)
            assert not done
            (app / "a.py").write_text("2")
            await asyncio.wait_for(report, REPORTED_S_MAX)

    asyncio.run(scenario())


def test_what_cannot_be_looked_at_does_not_end_the_watch(app: Path) -> None:
    async def scenario() -> None:
        loop = app / "loop"
        async with aclosing(Watcher(app, LIMITS).changes()) as changes:
            await reported(changes, lambda: loop.symlink_to(loop))
            await reported(changes, loop.unlink)
            await reported(changes, lambda: (app / "a.py").write_text("2"))

    asyncio.run(scenario())


def test_saves_that_come_together_are_reported_once(app: Path) -> None:
    async def scenario() -> None:
        async with aclosing(Watcher(app, Limits(reload_settle_ms=200)).changes()) as changes:
            await reported(changes, lambda: [(app / f"m{n}.py").write_text("1") for n in range(20)])
            again = asyncio.ensure_future(anext(changes))
            done, _ = await asyncio.wait({again}, timeout=0.5)
            assert not done
            again.cancel()
            await asyncio.wait({again})

    asyncio.run(scenario())
