"""The pages for users are true: every code block of them is done, and what they list is what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from evolute.cli.main import commands
from evolute.limits import GIB, KIB, MIB, Limits
from tests.end_to_end.conftest import CHAT_WEB
from tests.end_to_end.page_reader import ROOT, PageReader, blocks_of, write_file

README = ROOT / "README.md"
PAGES = (README, ROOT / "client" / "README.md", ROOT / "examples" / "quickstart" / "README.md")
UNITS = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_code_block_does_what_the_page_says(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    def node_folder() -> Path:
        folder: Path = request.getfixturevalue("node_folder")
        return folder

    own = "todo" if page == README else str(ROOT / "functions")
    reader = PageReader(page, tmp_path, own, node_folder)
    try:
        reader.read()
    finally:
        reader.close()


@pytest.mark.parametrize("page", PAGES[:2], ids=named)
def test_python_blocks_are_strictly_typed(page: Path, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python" and "from convex import" not in block.text:  # whose types are not ours
            write_file(block, tmp_path)
    command = [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--config-file=", "."]
    places = {"MYPYPATH": os.pathsep.join([str(tmp_path), str(ROOT / "runtime"), str(ROOT / "client")])}
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **places}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_and_option_is_described() -> None:
    text = README.read_text()
    described = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", text))
    assert isinstance(commands, click.Group)
    options = {
        option
        for command in every_command(commands)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    assert described == options
    for name, command in commands.commands.items():
        if isinstance(command, click.Group):
            assert all(f"`evolute {name} {one}" in text for one in command.commands), name
        else:
            assert f"| `evolute {name}" in text


def every_command(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from every_command(command)
        else:
            yield command


def test_the_limits_are_those_that_hold() -> None:
    limits = Limits()
    rows = re.findall(r"^\| (`[a-z_, `]+_(?:max|ms)`) \| ([\w ,]+) \|", README.read_text(), re.MULTILINE)
    assert len(rows) > 10
    for settings, defaults in rows:
        names = re.findall(r"`(\w+)`", settings)
        given = defaults.split(", ")
        for name, default in zip(names, given if len(given) == len(names) else given * len(names), strict=True):
            number, _, unit = default.partition(" ")
            assert getattr(limits, name) == int(number) * UNITS[unit], name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "runtime" / "README.md", CHAT_WEB / "README.md"], ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, f"{named(page)} has no section {target}"
        else:
            assert (page.parent / target.partition("#")[0]).exists(), f"{named(page)} links to {target}"
