"""Which files of a functions folder are its sources, and what each of them is for.

    messages.py, admin/users.py     modules: their decorated functions are offered
    _pricing.py, _lib/tax.py        helpers: other modules import them; they offer nothing
    __init__.py, schema.py          run like any module; they offer nothing
    pools.py, crons.py              declare how jobs are run, and when
    auth_config.py                  declares whose tokens say who a user is
    test_*.py, conftest.py          not part of the deployment, as is everything in hidden folders

Sub-folders need no `__init__.py`. A module is named by its path, so every part of the path is a Python name.
"""

from __future__ import annotations

import keyword
import os
import sys
from collections.abc import Iterator

from evolute.values.function_path import is_name

SCHEMA = "schema.py"

Stamp = tuple[int, int, int, int]


def source_files(root: str) -> Iterator[os.DirEntry[str]]:
    """Every source file below `root`, in no particular order. Links are followed, except back to a folder above.

    Raises OSError if a folder cannot be read; one that vanishes meanwhile is passed over.
    """
    return _files_below(root, frozenset())


def _files_below(folder: str, above: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _files_below(entry.path, above | {real})
        elif is_source_name(entry.name):
            yield entry


def is_source_name(name: str) -> bool:
    """By the file's own name alone."""
    return name.endswith(".py") and not name.startswith((".", "test_")) and name != "conftest.py"


def stamps(root: str) -> dict[str, Stamp]:
    """What tells one state of the folder's sources from another without reading them; {} if there is no folder."""
    found: dict[str, Stamp] = {}
    for entry in source_files(root):
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        found[entry.path] = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
    return found


def module_name(path: str, package: str) -> str:
    """`admin/users.py` is `functions.admin.users`; `admin/__init__.py` is `functions.admin`."""
    parts = [package, *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_imported(path: str) -> bool:
    """Whether the file is imported at load, and not only when another module asks for it."""
    return not any(part.startswith("_") and part != "__init__.py" for part in path.split("/"))


def offers_functions(path: str) -> bool:
    """Whether functions decorated in this file can be called."""
    return is_imported(path) and path != SCHEMA and path.rpartition("/")[2] != "__init__.py"


def package_fault(package: str) -> str | None:
    """Why the folder cannot be imported under its own name."""
    if not _is_module_name(package):
        return f"{package!r} is not a Python name, so nothing can be imported from it; rename the folder"
    if package in sys.stdlib_module_names or package in ("evolute", "evolute_client"):
        return f"{package!r} is the name of another module, which it would hide; rename the folder"
    return None


def name_faults(paths: list[str]) -> Iterator[str]:
    """Paths that are no module names, and pairs that are the same one."""
    reported: set[str] = set()
    folders = {path[: index + 1] for path in paths for index, letter in enumerate(path) if letter == "/"}
    for path in paths:
        parts = path.removesuffix(".py").split("/")
        for depth, part in enumerate(parts, 1):
            place = path if depth == len(parts) else "/".join(parts[:depth]) + "/"
            if not _is_module_name(part) and place not in reported:
                reported.add(place)
                yield f"{place}: {part!r} is not a Python name (ASCII letters, digits, `_`, at most 64); rename it"
        folder = path.removesuffix(".py") + "/"
        if folder in folders:
            yield f"{path}: the folder {folder} has the same name; rename one of them"


def _is_module_name(text: str) -> bool:
    return is_name(text) and not keyword.iskeyword(text)
