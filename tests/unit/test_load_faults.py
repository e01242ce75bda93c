"""Everything that can be wrong in a functions folder, in one folder: all of it is told, each with its file and line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCHEMA = """
from evolute import Document, define_schema, define_table

class Item(Document):
    name: str

schema = define_schema(items=define_table(Item))
"""

FILES = {
    "annotations.py": """from __future__ import annotations
from datetime import datetime
from typing import TypedDict
from evolute import Document, Id, MutationCtx, QueryCtx, query

class Stranger(Document):
    x: int

class Holder(TypedDict):
    inner: list[set[int]]

@query
def of_sets(ctx: QueryCtx, x: set[int], fine: int) -> None: ...

@query
def of_times(ctx: QueryCtx) -> datetime: ...

@query
def of_fields(ctx: QueryCtx, holder: Holder) -> None: ...

@query
def of_strangers(ctx: QueryCtx, id: Id[Stranger]) -> None: ...

@query
def misspelt(ctx: QueryCtx, x: strng) -> None: ...

@query
def wrong_context(ctx: MutationCtx) -> None: ...

@query
def no_context() -> None: ...

@query
def several(ctx: QueryCtx, x: set, *y: int, z: complex) -> None: ...
""",
    "local.py": """from __future__ import annotations
from typing import Any
from evolute import QueryCtx, query

def make() -> Any:
    class Local: ...

    @query
    def made(ctx: QueryCtx, x: Local) -> None: ...

    return made

made = make()
""",
    "kinds.py": """from evolute import ActionCtx, action, mutation, query

@query
async def waits(ctx): ...

@mutation
async def waits_too(ctx): ...

@action
def blocks(ctx: ActionCtx): ...

@query
def yields(ctx):
    yield 1
""",
    "twice.py": """from evolute import mutation, query

@query
def f(ctx): ...

@mutation
def f(ctx): ...
""",
    "imports.py": """import app.well
from app.well import missing
""",
    "module.py": """import no_such_module
""",
    "syntax.py": """def f(:
""",
    "runs.py": """def divide():
    return 1 / 0

divide()
""",
    "exits.py": """raise SystemExit(3)
""",
    "decorated.py": """from evolute import mutation, query

@mutation
@query
def f(ctx): ...
""",
    "classes.py": """from evolute import query

@query
class C: ...
""",
    "well.py": """from evolute import query

@query
def f(ctx): ...
""",
    "admin/nested.py": """from evolute import query

@query
def f(ctx, x: set): ...
""",
}


def said_of(files: dict[str, str], folder: Path) -> str:
    app = folder / "app"
    for name, text in files.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text)
    program = (
        "import sys; from pathlib import Path\n"
        "from evolute.errors import DefinitionError\n"
        "from evolute.limits import Limits\n"
        "from evolute.registry.loader import load, read_folder\n"
        "try:\n"
        "    load(read_folder(Path(sys.argv[1]), Limits()), Limits())\n"
        "except DefinitionError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(app)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    return said_of({"schema.py": SCHEMA, **FILES}, tmp_path_factory.mktemp("faults"))


AT_SIGNATURE = """
annotations.py:12 annotations:of_sets parameter x: the annotation set[int] is not understood; use None, bool, int, float
annotations.py:15 annotations:of_times return annotation: the annotation datetime is not understood; use None, bool, int
annotations.py:18 annotations:of_fields parameter holder: field `inner` of Holder: the annotation set[int] is not unders
annotations.py:21 annotations:of_strangers parameter id: Id[Stranger] names no table: Stranger is not a row type of the
annotations.py:24 annotations:misspelt parameter `x`: the annotation strng is not understood: 'strng' is not defined
annotations.py:27 annotations:wrong_context parameter ctx: a query's context is a QueryCtx, not a MutationCtx
annotations.py:30 annotations:no_context has no context: its first parameter is `ctx: QueryCtx`
annotations.py:33 annotations:several parameter x: the annotation set is not understood; use None, bool, int, float
annotations.py:33 annotations:several parameter y: arguments are given by name; `*y` can receive none
annotations.py:33 annotations:several parameter z: the annotation complex is not understood; use None, bool, int, float
local.py:8 local:made parameter `x`: the annotation Local is not understood: 'Local' is not defined at module level. If
kinds.py:3 kinds:waits is a query written with `async def`; drop `async`: its `ctx` calls are plain. To wait, use
kinds.py:6 kinds:waits_too is a mutation written with `async def`; drop `async`: its `ctx` calls are plain. To wait, use
kinds.py:9 kinds:blocks parameter ctx: an action written with `def` blocks, and its context is a BlockingActionCtx
kinds.py:12 kinds:yields is a generator; a query returns its result: return a list
twice.py:6 twice:f is defined twice, here and in line 3; rename one of the two
admin/nested.py:3 admin/nested:f parameter x: the annotation set is not understood; use None, bool, int, float
""".strip().splitlines()

AT_IMPORT = {
    "imports.py": (2, "ImportError: cannot import name 'missing' from 'app.well'"),
    "module.py": (1, "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax.py": (1, "SyntaxError: "),
    "runs.py": (2, "ZeroDivisionError: division by zero"),
    "exits.py": (1, "SystemExit: 3"),
    "decorated.py": (3, "TypeError: f is already a query; it cannot be a mutation too"),
    "classes.py": (3, "TypeError: @query decorates a function written with `def`, but this is of type type"),
}


@pytest.mark.parametrize("fault", AT_SIGNATURE)
def test_faults_of_signatures_name_file_line_function_and_parameter(said: str, fault: str) -> None:
    assert f"/app/{fault}" in said


def test_a_class_inside_a_function_is_to_be_moved(said: str) -> None:
    (line,) = (line for line in said.splitlines() if "/app/local.py:8 " in line)
    assert "move the class to module level" in line


@pytest.mark.parametrize("name", AT_IMPORT)
def test_faults_of_imports_are_shown_with_their_traceback(said: str, name: str) -> None:
    line, error = AT_IMPORT[name]
    shown = said.partition(f"\n\n{name}\n")[2].partition("\n\n")[0]
    assert f'/app/{name}", line {line}' in shown
    assert f"\n{error}" in shown


def test_all_of_them_are_told_at_once_and_nothing_of_ours(said: str) -> None:
    functions = len({fault.split()[1] for fault in AT_SIGNATURE})
    assert f" cannot be loaded, {functions + len(AT_IMPORT)} faults:\n" in said
    assert "/app/well.py:" not in said
    assert "/evolute/" not in said
    assert "importlib" not in said


def test_a_broken_schema_is_told_with_the_modules_faults(tmp_path: Path) -> None:
    """Its faults are the first, and the signatures that need it are left for later."""
    broken = SCHEMA.replace("define_table(Item)", 'define_table(Item).index("by_nome", ["nome"]).index("x", [])')
    said = said_of({"schema.py": broken, "runs.py": FILES["runs.py"], "kinds.py": FILES["kinds.py"]}, tmp_path)
    assert 'schema.py", line 7' in said
    assert "nome" in said
    assert "ZeroDivisionError" in said
    assert "schema.py is broken, so the functions' signatures were not checked" in said
