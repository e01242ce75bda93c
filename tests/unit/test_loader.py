from __future__ import annotations

import dataclasses
import importlib
import inspect
import marshal
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evolute.errors import DefinitionError
from evolute.limits import Limits
from evolute.registry.loader import Deployment, load, read_folder
from evolute.registry.registry import Registry, RegistryReport

LIMITS = Limits()
SCHEMA = """
from evolute import Document, define_schema, define_table

class Channel(Document):
    name: str

schema = define_schema(channels=define_table(Channel).index("by_name", ["name"]))
"""
FIND = """
from evolute import query
@query
def find(ctx, name: str) -> str:
    return name.upper()
"""


@pytest.fixture(autouse=True)
def _imports_are_undone() -> Iterator[None]:
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if name.split(".")[0] == "app":
            del sys.modules[name]


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    app = folder / "app"
    for path, text in files.items():
        (app / path).parent.mkdir(parents=True, exist_ok=True)
        (app / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return app


def load_files(folder: Path, files: Mapping[str, str | bytes]) -> Registry:
    return load(read_folder(write(folder, files), LIMITS), LIMITS)


def run(registry: Registry, path: str, *arguments: Any) -> Any:
    return registry.resolve(path).function.python(None, *arguments)


def refusal(folder: Path, files: Mapping[str, str | bytes], limits: Limits = LIMITS) -> str:
    """What is said about a folder that cannot be loaded."""
    app = write(folder, files)
    with pytest.raises(DefinitionError) as caught:
        load(read_folder(app, limits), limits)
    return str(caught.value)


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_every_source_file_is_read_and_nothing_else(tmp_path: Path) -> None:
    names = ["messages.py", "admin/users.py", "_helpers.py", "_lib/tax.py", "admin/__init__.py", "schema.py"]
    others = ["test_messages.py", "conftest.py", "notes.txt", ".hidden/x.py", "__pycache__/y.py", ".#messages.py"]
    deployment = read_folder(write(tmp_path, {name: f"# {name}" for name in names + others}), LIMITS)

    assert list(deployment.sources) == sorted(names)
    assert deployment.sources["_lib/tax.py"] == b"# _lib/tax.py"
    assert (deployment.package, deployment.root) == ("app", str(tmp_path / "app"))
    assert Deployment(**marshal.loads(marshal.dumps(dataclasses.asdict(deployment)))) == deployment


def test_the_hash_names_the_bytes_and_their_places(tmp_path: Path) -> None:
    def hash_of(folder: str, files: Mapping[str, str]) -> str:
        return read_folder(write(tmp_path / folder, files), LIMITS).hash

    hashes = [
        hash_of("a", {"a.py": "1", "b.py": "2"}),
        hash_of("b", {"a.py": "1", "b.py": "3"}),
        hash_of("c", {"a.py": "1", "c.py": "2"}),
        hash_of("d", {"a.py": "1b.py2"}),
    ]
    assert len(set(hashes)) == 4
    assert hash_of("e", {"b.py": "2", "a.py": "1"}) == hashes[0]
    assert hash_of("a", {"test_a.py": "3"}) == hashes[0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"bad.py": b"\xff"}, "bad.py: the file is not UTF-8"),
        ({"my-file.py": ""}, "my-file.py: 'my-file' is not a Python name"),
        ({"my-folder/a.py": "", "my-folder/b.py": ""}, "my-folder/: 'my-folder' is not a Python name"),
        ({"class.py": ""}, "class.py: 'class' is not a Python name"),
        ({"a.py": "", "a/b.py": ""}, "a.py: the folder a/ has the same name"),
        ({"big.py": "#" * 101}, "big.py: the file is larger than 100 bytes (source_bytes_max)"),
        ({f"a{n}.py": "" for n in range(9)}, "more than 8 Python files (modules_max)"),
        ({f"a{n}.py": "#" * 90 for n in range(4)}, "exceed 300 bytes (deployment_bytes_max)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, files: dict[str, str], said: str) -> None:
    limits = Limits(source_bytes_max=100, deployment_bytes_max=300, modules_max=8)
    text = refusal(tmp_path, files, limits)
    assert text.startswith(f"The functions folder {tmp_path}/app cannot be loaded, one fault:\n\n")
    assert said in text


def test_all_faults_of_reading_are_told_at_once(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"bad.py": b"\xff", "no-name.py": ""})
    assert "2 faults" in text
    assert "bad.py" in text
    assert "no-name.py" in text


def test_the_folder_itself_must_be_importable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, said in [
        ("missing", "does not exist"),
        ("file", "is not a folder"),
        ("my-app", "is not a Python name"),
        ("json", "is the name of another module"),
    ]:
        if name in ("my-app", "json"):
            (tmp_path / name).mkdir()
        with pytest.raises(DefinitionError, match=said):
            read_folder(tmp_path / name, LIMITS)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    app = write(tmp_path, {"a.py": ""})
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "b.py").touch()
    (app / "shared").symlink_to(tmp_path / "shared")
    (app / "circle").symlink_to(app)
    (app / "dangling.py").symlink_to(tmp_path / "nothing")

    assert list(read_folder(app, LIMITS).sources) == ["a.py", "shared/b.py"]


# --- Loading ----------------------------------------------------------------------------------------------------------


def test_functions_are_found_in_modules_and_folders(tmp_path: Path) -> None:
    registry = load_files(
        tmp_path,
        {
            "schema.py": SCHEMA,
            "messages.py": FIND,
            "admin/users.py": FIND + "default = find\nother = 3\n",
            "_helpers.py": FIND,
            "admin/_private/x.py": FIND,
        },
    )

    assert set(registry.functions) == {"messages:find", "admin/users:find", "admin/users:default"}
    assert run(registry, "messages:find", "a") == "A"
    assert registry.resolve("admin/users").path == "admin/users:default"
    assert registry.resolve(registry.functions["admin/users:default"].function).path == "admin/users:find"
    assert registry.schema.to_wire()["channels"]["indexes"] == {"by_name": ["name"]}
    assert set(RegistryReport.from_wire(registry.report()).functions) == set(registry.functions)


def test_a_folder_may_be_empty_and_have_no_schema(tmp_path: Path) -> None:
    registry = load_files(tmp_path, {"notes.txt": ""})
    assert registry.functions == {}
    assert registry.schema.to_wire() == {}


def test_modules_import_each_other_under_the_name_of_the_folder_in_any_order(tmp_path: Path) -> None:
    registry = load_files(
        tmp_path,
        {
            "schema.py": SCHEMA,
            "a.py": "from app.z.deep import find\nfrom app.schema import Channel\nfrom app import _helpers",
            "z/deep.py": FIND + "\ndef lazily():\n    from app._helpers import TAX\n    return TAX\n",
            "_helpers.py": "TAX = 7",
            "z/__init__.py": "INSIDE = True",
        },
    )

    assert set(registry.functions) == {"z/deep:find"}
    assert importlib.import_module("app.z").INSIDE is True
    assert importlib.import_module("app.z.deep").lazily() == 7


def test_exactly_the_bytes_that_were_read_are_run_and_shown(tmp_path: Path) -> None:
    app = write(tmp_path, {"messages.py": FIND + "@query\ndef fail(ctx):\n    raise ValueError('as read')\n"})
    deployment = read_folder(app, LIMITS)
    (app / "messages.py").write_text("# saved since\n" * 40)
    (app / "late.py").write_text("")

    registry = load(deployment, LIMITS)

    function = registry.resolve("messages:fail").function
    assert function.file == str(app / "messages.py")
    assert "as read" in inspect.getsource(function.python)
    with pytest.raises(ValueError, match="as read") as caught:
        run(registry, "messages:fail")
    shown = "".join(traceback.format_exception(caught.value))
    assert f"File \"{app}/messages.py\", line 8, in fail\n    raise ValueError('as read')" in shown
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("app.late")
    assert not list(tmp_path.rglob("*.pyc"))


def test_a_later_deployment_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    first = load_files(tmp_path, {"messages.py": FIND, "old.py": FIND})
    (tmp_path / "app" / "old.py").unlink()
    second = load_files(tmp_path, {"messages.py": FIND.replace("upper", "lower")})

    assert run(first, "messages:find", "Aa") == "AA"
    assert run(second, "messages:find", "Aa") == "aa"
    assert set(second.functions) == {"messages:find"}
    assert first.deployment != second.deployment
    # A reference that was taken from the first is understood by the second.
    assert second.resolve(first.functions["messages:find"].function) is second.functions["messages:find"]


def test_modules_that_a_test_has_imported_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = write(tmp_path, {"messages.py": FIND, "a/b.py": FIND})
    monkeypatch.syspath_prepend(str(tmp_path))
    imported = importlib.import_module("app.messages")

    registry = load(read_folder(app, LIMITS), LIMITS, keep_imported=True)

    assert registry.resolve("messages:find").function is imported.find
    assert set(registry.functions) == {"messages:find", "a/b:find"}


def test_functions_that_a_helper_makes_belong_to_the_modules_that_name_them(tmp_path: Path) -> None:
    factory = """
from evolute import query
def counter(n):
    @query
    def count(ctx):
        return n
    return count
"""
    registry = load_files(
        tmp_path,
        {
            "_factory.py": factory,
            "one.py": "from app._factory import counter\ncount = counter(1)\nagain = counter(11)",
            "two.py": "from app._factory import counter\nfrom app.one import again\ncount = counter(2)",
        },
    )

    assert [run(registry, path) for path in ("one:count", "one:again", "two:count")] == [1, 11, 2]


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_the_errors_of_all_modules_are_told_at_once(tmp_path: Path) -> None:
    text = refusal(
        tmp_path,
        {
            "good.py": FIND,
            "raises.py": "def deep():\n    return 1 / 0\n\ndeep()\n",
            "syntax.py": "def broken(:\n",
            "exits.py": "raise SystemExit('no')",
            "definition.py": "from evolute import query\n@query\ndef f(ctx, x: set, y: complex): ...\n",
            "imports.py": "import app.nothing\n",
        },
    )

    app = tmp_path / "app"
    assert "cannot be loaded, 5 faults:" in text
    unmarked = re.sub(r"^ *[~^]+\n", "", text, flags=re.MULTILINE)  # Python versions differ in what they underline
    assert (
        "raises.py\nTraceback (most recent call last):\n"
        f'  File "{app}/raises.py", line 4, in <module>\n    deep()\n'
        f'  File "{app}/raises.py", line 2, in deep\n    return 1 / 0\n'
        "ZeroDivisionError: division by zero"
    ) in unmarked
    assert f'syntax.py\n  File "{app}/syntax.py", line 1\n    def broken(:\n' in text
    assert "SystemExit: no" in text
    assert f"{app}/definition.py:2 definition:f parameter x: the annotation set is not understood" in text
    assert f"{app}/definition.py:2 definition:f parameter y: the annotation complex is not understood" in text
    assert "ModuleNotFoundError: No module named 'app.nothing'" in text
    assert "importlib" not in text
    assert "registry/" not in text


def test_an_error_that_stops_many_modules_is_shown_once(tmp_path: Path) -> None:
    broken = {"schema.py": SCHEMA + "1 / 0\n", "a.py": "import app.schema\n" + FIND, "b.py": "import app.a"}
    text = refusal(tmp_path, broken)

    assert text.count("ZeroDivisionError") == 1
    assert "a.py: stopped by the same error as schema.py" in text
    assert "b.py: stopped by the same error as schema.py" in text
    assert "schema.py is broken, so the functions' signatures were not checked" in text


def test_a_syntax_error_that_stops_many_modules_is_shown_once(tmp_path: Path) -> None:
    broken = {"a.py": "def f(:\n", "b.py": "import app.a", "c.py": "import app.b"}
    text = refusal(tmp_path, broken)

    assert text.count("SyntaxError") == 1
    assert "b.py: stopped by the same error as a.py" in text
    assert "c.py: stopped by the same error as a.py" in text


def test_causes_are_shown_and_trimmed_too(tmp_path: Path) -> None:
    source = "try:\n    import app.missing\nexcept ImportError as error:\n    raise RuntimeError('sorry') from error\n"
    text = refusal(tmp_path, {"a.py": source})

    assert "ModuleNotFoundError" in text
    assert "direct cause" in text
    assert "RuntimeError: sorry" in text
    assert "importlib" not in text


def test_a_schema_has_a_name_and_its_faults_are_the_authors(tmp_path: Path) -> None:
    assert "schema.py: it has no schema; write `schema = define_schema(…)`" in refusal(tmp_path, {"schema.py": "x = 1"})
    text = refusal(tmp_path, {"schema.py": "schema = {}"})
    assert "schema.py: `schema` is a dict, and no schema; write `schema = define_schema(…)`" in text
    text = refusal(tmp_path, {"schema.py": SCHEMA.replace('["name"]', '["nome"]')})
    assert "references the field nome that does not exist" in text
    assert "values/schema.py" not in text


def test_two_functions_of_one_name_are_refused_with_both_lines(tmp_path: Path) -> None:
    text = refusal(tmp_path, {"a.py": FIND + FIND})
    assert "a.py:8 a:find is defined twice, here and in line 3; rename one of the two" in text


def test_functions_that_nobody_could_call_are_refused(tmp_path: Path) -> None:
    text = refusal(
        tmp_path,
        {
            "schema.py": SCHEMA + FIND,
            "admin/__init__.py": FIND,
            "admin/users.py": "",
            "shadowed.py": FIND + "find = None\n",
            "methods.py": "from evolute import query\nclass A:\n    @query\n    def f(self): ...\n",
        },
    )

    assert "schema:find cannot be called, because schema.py offers no functions" in text
    assert "admin:find cannot be called, because admin/__init__.py offers no functions" in text
    assert "shadowed:find cannot be called, because no name at the top of its module holds it" in text
    assert "methods:f cannot be called" in text
