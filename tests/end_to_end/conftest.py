"""What the end-to-end tests share: the published JavaScript client, alone and beside React, installed once for all."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NPM_CLIENT = "convex@1.48.0"
REACT = ("react@19.3.1", "react-dom@19.3.1", "happy-dom@21.0.4")
INSTALL_S_MAX = 300


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose scripts can import `convex`."""
    return _installed(tmp_path_factory.mktemp("node"), NPM_CLIENT)


@pytest.fixture(scope="session")
def react_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose scripts can import React and a DOM, too."""
    return _installed(tmp_path_factory.mktemp("react"), NPM_CLIENT, *REACT)


def _installed(folder: Path, *packages: str) -> Path:
    """Without npm the test is skipped, but not where everything counts."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return _give_up("node and npm are not installed")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--prefer-offline"]
    done = subprocess.run(
        ["npm", "install", *packages, *options], cwd=folder, capture_output=True, text=True, timeout=INSTALL_S_MAX
    )
    if done.returncode != 0:
        return _give_up(f"npm could not install {', '.join(packages)}:\n{done.stderr}")
    return folder


def _give_up(reason: str) -> Path:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
