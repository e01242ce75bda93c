"""`runtime/README.md` is about the code as it is: what it names exists, and nothing is left out of its map."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_tidy import CLIENT, LAYERS, ROOT, RUNTIME, tree

PAGE = (ROOT / "runtime" / "README.md").read_text()


def sources_on_the_map() -> set[Path]:
    """Every file of the code map: `### values/` says the folder, "- `value.py`: …" the file."""
    _, _, code_map = PAGE.partition("\n## Code map\n")
    code_map, _, _ = code_map.partition("\n## ")
    found: set[Path] = set()
    for section in code_map.split("\n### ")[1:]:
        heading, _, lines = section.partition("\n")
        name = heading.split("/")[0]
        folder = {"The top": RUNTIME, "evolute_client": CLIENT}.get(name, RUNTIME / name)
        for file in re.findall(r"^- `(\w+\.py)`: \S", lines, re.MULTILINE):
            assert folder / file not in found, f"{file} is twice in {heading}"
            found.add(folder / file)
    return found


def test_the_map_shows_every_file_and_no_other() -> None:
    all_files = {*RUNTIME.rglob("*.py"), *CLIENT.rglob("*.py")}
    layers = {path for path in all_files if path.name == "__init__.py"} - {
        RUNTIME / "__init__.py",
        CLIENT / "__init__.py",
    }
    on_the_map = sources_on_the_map()
    assert on_the_map - all_files == set()
    assert all_files - layers - on_the_map == set()


def test_files_that_are_named_exist() -> None:
    """In the text and in the three lives."""
    named = set(re.findall(r"\b(\w+/\w+\.py)\b(?!::)", PAGE)) - {"tests/test_tidy.py"}
    assert len(named) > 30
    for path in named:
        assert (RUNTIME / path).exists(), path


@pytest.mark.parametrize("test", sorted(set(re.findall(r"\b((?:\w+/)?test_\w+\.py::\w+)", PAGE))))
def test_tests_that_are_named_exist(test: str) -> None:
    file, _, name = test.partition("::")
    path = ROOT / "tests" / file
    assert path.exists(), file
    functions = [node.name for node in tree(path).body if isinstance(node, ast.FunctionDef)]
    assert name in functions, test


def test_every_invariant_names_its_test() -> None:
    _, _, invariants = PAGE.partition("\n## Invariants\n")
    invariants, _, _ = invariants.partition("\n## ")
    numbered = re.split(r"^\d+\. ", invariants, flags=re.MULTILINE)[1:]
    assert len(numbered) > 20
    for invariant in numbered:
        assert "::test_" in invariant, invariant


def test_the_layers_are_those_that_are_enforced() -> None:
    rows = re.findall(r"^\| ([a-z, ]+) \| ([a-z, ]*)\|$", PAGE.partition("\n## Who may import whom\n")[2], re.MULTILINE)
    told = {
        layer: set(filter(None, allowed.strip().split(", "))) for names, allowed in rows for layer in names.split(", ")
    }
    told.pop("layer")
    enforced = {layer: set(allowed) for layer, allowed in LAYERS.items() if layer not in ("facade", "__main__")}
    assert told == enforced
