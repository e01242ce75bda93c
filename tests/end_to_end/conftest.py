"""What the end-to-end tests share: the published JavaScript client, alone and beside React, installed once for all."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHAT_WEB = Path(__file__).parents[2] / "examples" / "chat_web"
NPM_CLIENT = "convex@1.48.0"
BROWSER_DRIVER = "playwright-core@1.65.1"
CHROMIUM = Path("/usr/bin/chromium")
REACT = ("react@19.3.1", "react-dom@19.3.1", "happy-dom@21.0.4")
INSTALL_S_MAX = 300


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose scripts can import `convex`."""
    return _installed(_new_package(tmp_path_factory.mktemp("node")), NPM_CLIENT, "--omit=optional")


@pytest.fixture(scope="session")
def react_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose scripts can import React and a DOM, too."""
    return _installed(_new_package(tmp_path_factory.mktemp("react")), NPM_CLIENT, *REACT, "--omit=optional")


@pytest.fixture(scope="session")
def chat_web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/chat_web with its packages, and with one that drives Debian's Chromium."""
    if not CHROMIUM.exists():
        return _give_up(f"there is no {CHROMIUM}")
    folder = tmp_path_factory.mktemp("page") / "chat_web"
    shutil.copytree(CHAT_WEB, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    return _installed(folder, BROWSER_DRIVER, "--no-save", "--no-package-lock")


def _new_package(folder: Path) -> Path:
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    return folder


def _installed(folder: Path, *packages: str) -> Path:
    """What its package.json names, and these. Without npm the test is skipped, but not where everything counts."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return _give_up("node and npm are not installed")
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
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
