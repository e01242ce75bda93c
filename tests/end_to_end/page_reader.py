"""A reader who does what a page says, from its first code block to its last.

    ```python  # todo/tasks.py         a file of the functions folder: it is saved, and the server must load it
    ```python  # todo/tasks.py (…)     the functions in the block take the place of those of the same names
    ```python  # watch.py              a program: it is run by the command that names it, or else where it stands
    ```js      // watch.mjs            the same, for Node
    ```sh                              commands: each is run, or must be one that the command line would take
    ```text watch.py                   what that program has printed by now; without a name, what the last command has

A block of any other kind is an error. Where the page says http://127.0.0.1:3210 the reader's own server is meant.
"""

from __future__ import annotations

import ast
import http.client
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from evolute.cli.main import commands
from evolute.config import DEFAULT_PORT
from evolute.limits import limits_from
from tests.end_to_end.client_process import ClientProcess
from tests.end_to_end.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
ADDRESS = f"http://127.0.0.1:{DEFAULT_PORT}"
LANGUAGES = ("python", "js", "sh", "text")
COMMAND_S_MAX = 120.0
FENCE = re.compile(r"^```(\S*) ?(.*)\n((?:(?!```).*\n)*)```$", re.MULTILINE)
CAPTION = re.compile(r"(?:#|//) ([\w./]+)( \(.*\))?\n")


@dataclass(frozen=True)
class Block:
    """One code block. `label` is what follows the language; `path` the file that its first line names."""

    page: str
    line: int
    language: str
    label: str
    text: str

    @property
    def path(self) -> str | None:
        found = CAPTION.match(self.text)
        return None if found is None else found[1]

    @property
    def changes_a_file(self) -> bool:
        """Whether it is a part of the file and not all of it."""
        found = CAPTION.match(self.text)
        return found is not None and found[2] is not None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    assert text.count("```") == 2 * len(FENCE.findall(text)), f"{page.name} has a code block that is not understood"
    assert "~~~" not in text
    return [
        Block(page.name, text.count("\n", 0, found.start()) + 1, found[1], found[2], found[3])
        for found in FENCE.finditer(text)
    ]


def write_file(block: Block, folder: Path) -> Path:
    """Saves the block as the file that its first line names, or puts its functions into that file."""
    assert block.path is not None, f"{block}: the first line of a block of {block.language} names its file"
    target = folder / block.path
    text = _changed(target.read_text(), block.text) if block.changes_a_file else block.text
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def _changed(text: str, change: str) -> str:
    lines = text.splitlines(keepends=True)
    for function in ast.parse(change).body:
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef), "a change consists of functions"
        (old,) = [node for node in ast.parse("".join(lines)).body if getattr(node, "name", None) == function.name]
        assert isinstance(old, ast.FunctionDef | ast.AsyncFunctionDef)
        lines[_first_line(old) - 1 : old.end_lineno] = change.splitlines(keepends=True)[
            _first_line(function) - 1 : function.end_lineno
        ]
    return "".join(lines)


def _first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


class PageReader:
    """Reads one page. `functions` is the folder that the page's server serves, relative to `folder` or absolute.

    `node_folder` gives the folder in which the npm client is installed. Everything ends with the `with` block.
    """

    def __init__(self, page: Path, folder: Path, functions: str, node_folder: Callable[[], Path]) -> None:
        self._blocks = blocks_of(page)
        self._folder = folder
        self._functions = functions
        self._node_folder = node_folder
        self._server: ServerProcess | None = None
        self._programs: dict[str, ClientProcess] = {}
        self._seen: dict[str, int] = {}
        self._last_output = ""
        self._tests: set[str] = set()

    def read(self) -> None:
        for block in self._blocks:
            known = block.language in LANGUAGES
            assert known, f"{block}: nobody knows how to test a block of {block.language!r}"
        for place, block in enumerate(self._blocks):
            match block.language:
                case "python" | "js":
                    self._write(block, self._blocks[place + 1 :])
                case "sh":
                    for line in block.text.splitlines():
                        for command in line.split(" && "):
                            self._run(block, command, self._blocks[place + 1 :])
                case "text":
                    self._expect(block)
        assert not self._tests, f"{self._tests} are never run"
        for program in self._programs.values():
            if program.has_ended:
                program.finish()

    def close(self) -> None:
        for program in self._programs.values():
            program.__exit__(None, None, None)
        if self._server is not None:
            self._server.close()

    # --- Files and programs ----------------------------------------------------------------------------------------

    def _write(self, block: Block, rest: list[Block]) -> None:
        path = block.path
        assert path is not None, f"{block}: the first line of a block of {block.language} names its file"
        name = path.rpartition("/")[2]
        if name.startswith("test_"):
            write_file(block, self._folder)
            self._tests.add(path)
        elif path.startswith(self._functions + "/"):
            self._save(block)
        else:
            self._write_program(block, path)
            if not any(path in later.text for later in rest if later.language == "sh"):
                self._start(path, rest)

    def _save(self, block: Block) -> None:
        server = self._server
        before = 0 if server is None else len(server.output)
        write_file(block, self._folder)
        if server is not None and server.functions == Path(self._functions):
            said = server.wait_for(r"reloaded: \d+ functions|the folder was not loaded", after=before)
            assert said[0].startswith("reloaded"), f"{block} does not load:\n{server.output[before:]}"

    def _write_program(self, block: Block, path: str) -> None:
        target = write_file(block, self._node_folder() if block.language == "js" else self._folder)
        target.write_text(target.read_text().replace(ADDRESS, self._url))
        assert path not in self._programs, f"{block}: there is a {path} already"

    def _start(self, path: str, rest: list[Block], *arguments: str) -> None:
        """Runs a program: to its end, or for as long as the page goes on if the page shows what it prints."""
        folder = self._node_folder() if path.endswith(".mjs") else self._folder
        interpreter = "node" if path.endswith(".mjs") else sys.executable
        program = ClientProcess(
            [interpreter, path, *arguments], folder=folder, environment={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        self._programs[path] = program
        if not any(later.language == "text" and later.label == path for later in rest):
            self._last_output = "\n".join(program.finish())

    def _expect(self, block: Block) -> None:
        for line in block.text.replace(ADDRESS, "…" if self._server is None else self._url).splitlines():
            pattern = ".*".join(map(re.escape, line.split("…")))
            if block.label == "server":
                assert self._server is not None, f"{block}: there is no server"
                self._server.wait_for(pattern)
            elif block.label:
                program = self._programs[block.label]
                self._seen[block.label] = program.wait_for_match(pattern, after=self._seen.get(block.label, 0))
            else:
                assert re.search(pattern, self._last_output), f"{block}: {line!r} is not in\n{self._last_output}"

    # --- Commands --------------------------------------------------------------------------------------------------

    @property
    def _url(self) -> str:
        if self._server is None:
            self._serve(self._functions)
        assert self._server is not None
        return self._server.url

    def _serve(self, functions: str) -> None:
        if self._server is not None:
            assert self._server.stop() == 0
            self._server.close()
        data = self._folder / f"data-{Path(functions).name}"
        self._server = ServerProcess(Path(functions), data, folder=self._folder)
        self._server.start()

    def _run(self, block: Block, command: str, rest: list[Block]) -> None:
        words = shlex.split(command, comments=True)
        environment = {}
        while words and "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        assert not environment or limits_from(environment) != limits_from({}), f"{block}: {environment} sets no limit"
        match words:
            case [] | ["pip", "install", "uv"] | ["uv", "run", "pytest"]:
                pass
            case ["uv", "run", "evolute", *arguments]:
                self._evolute(block, arguments)
            case ["uv", "run", "pytest", *arguments]:
                self._last_output = self._completed(
                    [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
                )
                self._tests.clear()
            case ["uv", "run", "python", path]:
                if (self._folder / path).exists():
                    self._start(path, rest)
                else:
                    assert (ROOT / path).exists(), f"{block}: there is no {path}"
                    self._start(str(ROOT / path), rest, self._url)
            case ["node", path]:
                self._start(path, rest)
            case ["npm", "install", package]:
                assert f'"{package.partition("@")[0]}"' in (self._node_folder() / "package.json").read_text()
            case ["curl", url, *options]:
                self._last_output = _fetched(url.replace(ADDRESS, self._url), options)
            case _:
                raise AssertionError(f"{block}: nobody knows how to test the command {command!r}")

    def _evolute(self, block: Block, arguments: list[str]) -> None:
        """The command line must take it; `serve` is believed, and everything else is done."""
        name, command, given = commands.resolve_command(commands.make_context("evolute", list(arguments)), arguments)
        assert command is not None, f"{block}: there is no command {name}"
        if isinstance(command, click.Group):
            _, inner, given = command.resolve_command(command.make_context(name, list(given)), given)
            assert inner is not None
            command = inner
        parameters = command.make_context(name, list(given)).params
        if name == "dev":
            own = "--functions" in given
            self._serve(str(parameters["functions"]) if own else str(ROOT / "functions"))
        elif name in ("run", "jobs", "crons", "keys"):
            assert self._server is not None, f"{block}: there is no server to call"
            options = ["--url", self._server.url, "--data", str(self._server.data)]
            self._last_output = self._completed([sys.executable, "-m", "evolute", *arguments, *options])
        elif name == "check":
            assert self._server is not None, f"{block}: there is no data folder"
            self._last_output = self._completed(
                [sys.executable, "-m", "evolute", *arguments, "--data", str(self._server.data)]
            )
        elif name == "compact":
            self._compact(block, arguments)

    def _compact(self, block: Block, arguments: list[str]) -> None:
        """While the server is stopped, as the page says; then it runs again where it was."""
        assert self._server is not None, f"{block}: there is no data folder"
        functions, data, port = self._server.functions, self._server.data, self._server.port
        assert self._server.stop() == 0
        self._server.close()
        self._last_output = self._completed([sys.executable, "-m", "evolute", *arguments, "--data", str(data)])
        self._server = ServerProcess(functions, data, port=port, folder=self._folder)
        self._server.start()

    def _completed(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, timeout=COMMAND_S_MAX, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


def _fetched(url: str, options: list[str]) -> str:
    """What `curl url -H header -d body` would print."""
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given.keys() == {"-H", "-d"}, options
    name, _, value = given["-H"].partition(": ")
    address, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(address, timeout=COMMAND_S_MAX)
    try:
        connection.request("POST", f"/{path}", given["-d"].encode(), {name: value})
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()
    finally:
        connection.close()
