"""The shape of the source, checked: layers, cycles, sizes, docstrings, banned calls, and what each invariant forbids.

The rules are those of `runtime/README.md`. A failure names the file and the rule.
"""

from __future__ import annotations

import ast
import dataclasses
import gc
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from evolute.limits import Limits

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "runtime" / "evolute"
CLIENT = ROOT / "client" / "evolute_client"

LINES_MAX = 400
FUNCTION_LINES_MAX = 70

BASE = ("errors", "limits", "clock", "config", "failpoints", "garbage_collector", "stages")
# A layer may import itself and the layers named here.
LAYERS: dict[str, tuple[str, ...]] = {
    "base": (),
    "values": ("base",),
    "protocol": ("base", "values"),
    "storage": ("base", "values"),
    "database": ("base", "values", "storage"),
    "system": ("base", "values", "storage", "database"),
    "registry": ("base", "values"),
    "execution": ("base", "values", "storage", "database", "system", "registry"),
    "scheduler": ("base", "values", "storage", "database", "system", "registry", "execution"),
    "auth": ("base", "values", "registry"),
    "sync": ("base", "values", "protocol", "storage", "database", "system", "registry", "execution"),
    "backend": ("base", "values", "storage", "database", "system", "registry", "execution", "scheduler"),
    "testing": ("base", "values", "storage", "database", "system", "registry", "execution", "scheduler"),
    "server": ("base", "values", "protocol", "execution", "registry", "auth", "sync", "backend"),
    "cli": ("base", "values", "storage", "system", "execution", "registry", "backend", "server", "client"),
    "client": ("base", "values", "protocol"),
    "facade": ("base", "values", "registry", "database"),
    "__main__": ("cli",),
}
CLIENT_BASE = ("errors", "limits")

# Files that hold a state machine or a pure function: no waiting, no clock, no I/O.
PURE = (
    RUNTIME / "sync" / "session.py",
    RUNTIME / "sync" / "transition.py",
    RUNTIME / "database" / "conflict.py",
    RUNTIME / "database" / "interval_map.py",
    CLIENT / "state_machine.py",
    CLIENT / "authentication.py",
    CLIENT / "shown_results.py",
    CLIENT / "local_store.py",
    CLIENT / "page_list.py",
)
PURE_BANS = ("asyncio", "time", "socket", "threading", "evolute.clock", "websockets")

# Calls and modules that only one file may use.
CLOCK_AND_CHANCE = (
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "datetime.now",
    "os.urandom",
    "secrets.token_bytes",
    "uuid.uuid4",
)
ENVIRONMENT = ("os.environ", "os.getenv")


def sources() -> list[Path]:
    return sorted([*RUNTIME.rglob("*.py"), *CLIENT.rglob("*.py")])


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    """Without garbage collection: a finalizer that prints a traceback parses, too, which Python 3.11 cannot bear."""
    gc.disable()
    try:
        return ast.parse(path.read_text(), filename=str(path))
    finally:
        gc.enable()


def module_name(path: Path) -> str:
    top = RUNTIME.parent if path.is_relative_to(RUNTIME) else CLIENT.parent
    parts = path.relative_to(top).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "evolute_client":
        return "client"
    if len(parts) == 1:
        return "facade"
    return "base" if parts[1] in BASE else parts[1]


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that the file imports, anywhere in it, also under TYPE_CHECKING."""
    ours = {module_name(source) for source in sources()}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in ours else node.module for name in submodules]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in ("evolute", "evolute_client"))


@pytest.mark.parametrize("path", sources(), ids=named)
def test_imports_point_down(path: Path) -> None:
    mine = layer(module_name(path))
    for imported in imports(path):
        theirs = layer(imported)
        assert theirs == mine or theirs in LAYERS[mine], f"{named(path)} ({mine}) imports {imported} ({theirs})"
        if mine == "client" and theirs == "base":
            assert imported.split(".")[1] in CLIENT_BASE, f"{named(path)} imports {imported}"


def test_there_is_no_import_cycle() -> None:
    graph = {module_name(path): set(imports(path)) for path in sources()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for imported in graph.get(module, ()):
            if imported != module:
                visit(imported, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", sources(), ids=named)
def test_a_file_has_one_idea_and_is_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LINES_MAX, f"{named(path)} has {lines} lines"
    assert ast.get_docstring(tree(path)), f"{named(path)} does not open with its idea"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{named(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", [path for path in sources() if path.name == "__init__.py"], ids=named)
def test_a_layer_has_no_facade(path: Path) -> None:
    """Only the two packages' own `__init__` export names; imports are from the defining module."""
    if path.parent in (RUNTIME, CLIENT):
        return
    assert len(tree(path).body) == 1, f"{named(path)} holds more than its docstring"


@pytest.mark.parametrize("path", sources(), ids=named)
def test_imports_are_absolute(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{named(path)}:{node.lineno}"


@pytest.mark.parametrize("path", sources(), ids=named)
def test_time_chance_and_environment_have_one_reader(path: Path) -> None:
    banned: dict[str, str] = {}
    if path != RUNTIME / "clock.py" and path.is_relative_to(RUNTIME):
        banned |= dict.fromkeys(CLOCK_AND_CHANCE, "clock.py")
    if path != RUNTIME / "config.py":
        banned |= dict.fromkeys(ENVIRONMENT, "config.py")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            used = ast.unparse(node)
            assert used not in banned, f"{named(path)}:{node.lineno} uses {used}; only {banned[used]} may"


@pytest.mark.parametrize("path", PURE, ids=named)
def test_state_machines_have_no_io(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef), f"{named(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not set(names) & set(PURE_BANS), f"{named(path)}:{node.lineno} imports {names}"


def test_only_the_committer_writes() -> None:
    """One file calls the engine's `write`, one other the first time of a new store; and only the committer uses it."""
    callers = {
        named(path)
        for path in RUNTIME.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("engine.write")
    }
    assert callers == {"runtime/evolute/database/batch_writer.py", "runtime/evolute/database/database.py"}
    users = {named(path) for path in RUNTIME.rglob("*.py") if "BatchWriter(" in path.read_text()}
    assert users == {"runtime/evolute/database/committer.py"}


def test_only_the_engine_knows_lmdb() -> None:
    users = {
        named(path)
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import) and any(alias.name == "lmdb" for alias in node.names)
    }
    assert users == {"runtime/evolute/storage/lmdb_engine.py"}


def test_only_the_codec_spells_the_protocol() -> None:
    """Field names of the sync protocol stand in one file; a few of them are also fields of the HTTP API and of rows."""
    elsewhere = {"logLines", "errorMessage", "errorData", "componentPath", "requestId"}
    codec = RUNTIME / "protocol" / "codec.py"
    spelled = {text for text in strings(codec) if re.fullmatch("[a-z]+([A-Z][a-z]*)+", text)} - elsewhere
    assert len(spelled) > 15
    for path in sources():
        if path != codec:
            assert not strings(path) & spelled, f"{named(path)} spells {strings(path) & spelled}"


def strings(path: Path) -> set[str]:
    return {
        node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_only_workers_and_tests_import_user_code() -> None:
    importers = {
        named(path)
        for path in RUNTIME.rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        and node.module == "evolute.registry.loader"
        and any(alias.name == "load" for alias in node.names)
    }
    assert importers == {"runtime/evolute/execution/worker.py", "runtime/evolute/testing.py"}
    for path in RUNTIME.rglob("*.py"):
        imported = [name for name in imports(path) if name == "evolute.testing"]
        assert not imported, f"{named(path)} imports evolute.testing"


def test_every_limit_is_obeyed_somewhere() -> None:
    attributes = {
        node.attr
        for path in sources()
        if path != RUNTIME / "limits.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
    }
    unused = {field.name for field in dataclasses.fields(Limits)} - attributes
    assert not unused, f"limits.py has limits that nothing obeys: {unused}"


@pytest.mark.parametrize("lane", ["transaction", "action"])
def test_a_worker_holds_nothing_of_the_server(lane: str) -> None:
    """Invariant 3: neither the committer nor anything above it is in a worker's import closure."""
    program = "import evolute.execution.worker, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    forbidden = {
        "evolute.database.committer",
        "evolute.database.write_log",
        "evolute.database.subscriptions",
        "evolute.execution.executor",
        "evolute.execution.pool",
        "evolute.sync.session",
        "evolute.server.app",
        "evolute.backend",
        "starlette",
        "uvicorn",
    }
    assert not loaded & forbidden


def test_only_the_cli_imports_the_client() -> None:
    for path in RUNTIME.rglob("*.py"):
        if not path.is_relative_to(RUNTIME / "cli"):
            assert not any(name.startswith("evolute_client") for name in imports(path)), named(path)


def test_the_version_is_said_once() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert not [named(path) for path in sources() if version in path.read_text()]


def test_the_top_level_is_fixed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {line.split("/")[0] for line in listed.splitlines()}
    allowed = {"pyproject.toml", "README.md", "LICENSE", "runtime", "functions", "client", "tests", "examples"}
    assert {top for top in tops if not top.startswith(".")} <= allowed
