"""What the end-to-end tests share: the published JavaScript client, installed once for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NPM_CLIENT = "convex@1.48.0"
INSTALL_S_MAX = 300


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose scripts can import `convex`. Without npm the test is skipped, but not where everything counts."""
    folder = tmp_path_factory.mktemp("node")
    if shutil.which("node") is None or shutil.which("npm") is None:
        return _give_up("node and npm are not installed")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--prefer-offline"]
    done = subprocess.run(
        ["npm", "install", NPM_CLIENT, *options], cwd=folder, capture_output=True, text=True, timeout=INSTALL_S_MAX
    )
    if done.returncode != 0:
        return _give_up(f"npm could not install {NPM_CLIENT}:\n{done.stderr}")
    return folder


def _give_up(reason: str) -> Path:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
