"""Peers of the scheduler: each is installed into an environment of its own, measured in a process of its own, and gone.

A peer that cannot be installed or started is a line that says why, and no reason to fail.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.measures import ROOT, Figures
from tests.benchmarks.peers.environment import INSTALL_S_MAX, Unavailable, install, output_of

PEERS = ("huey", "apscheduler", "dbos", "procrastinate")
PHASE_S_MAX = 12.0
POSTGRES_USER = "postgres"


def peer_figures(names: list[str], jobs: int) -> Figures:
    """The figures of all of them, each name before its own."""
    figures: Figures = {}
    for name in names:
        try:
            own = _measure(name, jobs)
        except Unavailable as error:
            figures[name] = f"not installed: {error}"
            continue
        figures |= {f"{name}: {figure}": value for figure, value in own.items()}
    return figures


def _measure(name: str, jobs: int) -> Figures:
    with tempfile.TemporaryDirectory(prefix="evolute-peer-") as folder:
        python = install(name, Path(folder) / "environment")
        if name == "procrastinate":
            with _postgres(Path(folder) / "postgres") as dsn:
                return _run(name, python, Path(folder), jobs, {"PROCRASTINATE_DSN": dsn})
        return _run(name, python, Path(folder), jobs, {})


def _run(name: str, python: Path, folder: Path, jobs: int, environment: Mapping[str, str]) -> Figures:
    command = [str(python), "-m", f"tests.benchmarks.peers.{name}_peer", str(folder), str(jobs), str(PHASE_S_MAX)]
    output = output_of(command, 6 * PHASE_S_MAX, {**os.environ, "PYTHONPATH": str(ROOT), **environment})
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL that is reached by a socket in `folder`, with the settings it comes with. Raises Unavailable."""
    initdb, pg_ctl = shutil.which("initdb"), shutil.which("pg_ctl")
    if initdb is None or pg_ctl is None:
        raise Unavailable("there are no PostgreSQL binaries")
    folder.mkdir()
    user = ""
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = POSTGRES_USER
        try:
            account = pwd.getpwnam(user)
        except KeyError:
            raise Unavailable(f"PostgreSQL does not run as root, and there is no user {user}") from None
        folder.parent.chmod(0o755)
        os.chown(folder, account.pw_uid, account.pw_gid)
    data = str(folder / "data")
    output_of([initdb, "-D", data, "-U", POSTGRES_USER, "--auth=trust", "--encoding=UTF8"], INSTALL_S_MAX, user=user)
    options = f"-k {folder} -c listen_addresses=''"
    output_of([pg_ctl, "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start"], INSTALL_S_MAX, user=user)
    try:
        yield f"host={folder} user={POSTGRES_USER} dbname=postgres"
    finally:
        output_of([pg_ctl, "-D", data, "-m", "immediate", "stop"], INSTALL_S_MAX, user=user)
