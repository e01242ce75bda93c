"""An environment of its own for each peer, which is installed for one benchmark and goes with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "huey": ("huey",),
    "apscheduler": ("apscheduler<4", "sqlalchemy"),
    "dbos": ("dbos",),
    "procrastinate": ("procrastinate", "psycopg[binary]"),
    "fastapi": ("fastapi", "uvicorn[standard]"),
}
INSTALL_S_MAX = 120.0


class Unavailable(Exception):
    """Why a peer cannot be measured here."""


def install(name: str, folder: Path) -> Path:
    """Its interpreter. Raises Unavailable."""
    python = folder / "bin" / "python"
    if shutil.which("uv") is not None:
        commands = [
            ["uv", "venv", "-q", "--python", sys.executable, str(folder)],
            ["uv", "pip", "install", "-q", "-p", str(python), *PACKAGES[name]],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "-q", *PACKAGES[name]],
        ]
    for command in commands:
        output_of(command, INSTALL_S_MAX)
    return python


def output_of(command: list[str], seconds: float, environment: Mapping[str, str] | None = None, user: str = "") -> str:
    """Its output. Raises Unavailable with the end of what it said."""
    try:
        done = subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=seconds, user=user or None
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout
