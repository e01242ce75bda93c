"""From a folder to functions, in two steps that may lie in different processes and at different times.

    read_folder()   server    every source file is read once; the hash of these bytes names the deployment
         │ Deployment: plain data
    load()          worker    imports exactly these bytes under the folder's own package name

`load` never looks at the folder again, so the workers of one generation cannot differ, and one that replaces a dead
worker runs the same code even if the folder is half saved by then. Files keep their own names: tracebacks and
debuggers show the user's file, with the lines that ran. Nothing stops at the first mistake: a folder that does not
load is one DefinitionError with everything that is wrong in it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from evolute.errors import DefinitionError
from evolute.limits import Limits
from evolute.registry import auth_loader, cron_loader, pool_loader
from evolute.registry.decorators import decorated_in
from evolute.registry.definition import Function, FunctionDefinition, define
from evolute.registry.import_faults import ImportFaults
from evolute.registry.registry import Registry, module_path
from evolute.registry.source_finder import SourceFinder
from evolute.registry.source_folder import (
    SCHEMA,
    is_imported,
    module_name,
    name_faults,
    offers_functions,
    package_fault,
    source_files,
)
from evolute.values.schema import Schema, define_schema
from evolute.values.schema import under as schema_limits


@dataclass(frozen=True)
class Deployment:
    """The sources of a functions folder as they were read, in order of their paths, which are relative to `root`."""

    hash: str
    package: str
    root: str
    sources: Mapping[str, bytes]


def read_folder(folder: Path, limits: Limits) -> Deployment:
    """Reads every source file below `folder` once. Raises DefinitionError naming each file at fault."""
    root = os.path.abspath(folder)
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise DefinitionError(f"The functions folder {root} {what}. Create it, or name another.")
    package = os.path.basename(root)
    fault = package_fault(package)
    if fault is not None:
        raise DefinitionError(f"The functions folder {root} cannot be loaded: {fault}.")
    faults: list[str] = []
    sources = _read_sources(root, limits, faults)
    faults.extend(name_faults(list(sources)))
    if faults:
        raise DefinitionError(_text(root, faults))
    return Deployment(_hash(package, sources), package, root, sources)


def _read_sources(root: str, limits: Limits, faults: list[str]) -> dict[str, bytes]:
    sources: dict[str, bytes] = {}
    bytes_left = limits.deployment_bytes_max
    try:
        for count, entry in enumerate(source_files(root), 1):
            path = os.path.relpath(entry.path, root).replace(os.sep, "/")
            if count > limits.modules_max:
                faults.append(f"there are more than {limits.modules_max} Python files (modules_max)")
                break
            try:
                with open(entry.path, "rb") as file:
                    source = file.read(limits.source_bytes_max + 1)
            except FileNotFoundError:
                continue  # deleted since the folder was listed
            if len(source) > limits.source_bytes_max:
                faults.append(f"{path}: the file is larger than {limits.source_bytes_max} bytes (source_bytes_max)")
            elif not _is_utf8(source):
                faults.append(f"{path}: the file is not UTF-8; save it as UTF-8")
            bytes_left -= len(source)
            if bytes_left < 0:
                faults.append(
                    f"{path}: the files up to here exceed {limits.deployment_bytes_max} bytes (deployment_bytes_max)"
                )
                break
            sources[path] = source
    except OSError as error:
        faults.append(f"{error.filename}: {error.strerror}")
    return dict(sorted(sources.items()))


def _is_utf8(source: bytes) -> bool:
    try:
        source.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hash(package: str, sources: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for part in (package.encode(), *(part for path, source in sources.items() for part in (path.encode(), source))):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def load(deployment: Deployment, limits: Limits, *, keep_imported: bool = False) -> Registry:
    """Imports the deployment in this process and reads its functions. Raises one DefinitionError for all its faults.

    An earlier deployment of the same package is forgotten. Its schema has to keep to the `limits`. With
    `keep_imported`, modules that this process has already
    imported from the same files are used as they are; tests need it, which import the modules they test.
    """
    finder = SourceFinder(deployment.package, deployment.root, deployment.sources)
    finder.install(keep_imported=keep_imported)
    faults: list[str] = []
    with schema_limits(limits):
        modules = _import_all(deployment, faults)
    faults.extend(_misplaced(deployment, modules))
    schema = _schema(deployment, modules, faults)
    functions: dict[str, FunctionDefinition] = {}
    broken: dict[str, Function[..., Any]] = {}
    if schema is not None:
        for path, function in _offered(deployment, modules):
            try:
                functions[path] = define(function, path, schema)
            except DefinitionError as error:
                faults.append(str(error))
                broken[path] = function
    registry = Registry(deployment.hash, deployment.package, functions, schema or define_schema())
    offered = [function for _, function in _offered(deployment, modules)]
    registry.pools = pool_loader.read(modules, deployment.sources, offered, faults)
    registry.auth_providers = auth_loader.read(modules, deployment.sources, faults)
    if schema is not None:  # else no function is known
        registry.crons = cron_loader.read(modules, registry, broken, faults)
    if faults:
        raise DefinitionError(_text(deployment.root, faults))
    return registry


def _import_all(deployment: Deployment, faults: list[str]) -> dict[str, ModuleType]:
    """The modules by path; the schema first, because a fault in it is best shown as its own."""
    import_faults = ImportFaults(deployment.root)
    modules: dict[str, ModuleType] = {}
    for path in sorted(deployment.sources, key=lambda path: (path != SCHEMA, path)):
        if is_imported(path):
            try:
                modules[path] = importlib.import_module(module_name(path, deployment.package))
            except (Exception, SystemExit) as error:
                faults.append(import_faults.describe(path, error))
    return modules


def _schema(deployment: Deployment, modules: Mapping[str, ModuleType], faults: list[str]) -> Schema | None:
    """None if it cannot be known, which has been said."""
    if SCHEMA not in deployment.sources:
        return define_schema()
    if SCHEMA not in modules:
        faults.append(f"{SCHEMA} is broken, so the functions' signatures were not checked")
        return None
    advice = "write `schema = define_schema(…)`"
    schema = getattr(modules[SCHEMA], "schema", None)
    if schema is None:
        faults.append(f"{SCHEMA}: it has no schema; {advice}")
    elif not isinstance(schema, Schema):
        faults.append(f"{SCHEMA}: `schema` is a {type(schema).__name__}, and no schema; {advice}")
        return None
    return schema


def _offered(deployment: Deployment, modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, Function[..., Any]]]:
    """Every function under the path by which it is called.

    A function belongs to the module that defines it, under each name it has there. One that a helper made belongs to
    the modules that name it.
    """
    bound = {module.__name__: _bound(module) for path, module in modules.items() if offers_functions(path)}
    for name, functions in bound.items():
        for attribute, function in functions:
            at_home = any(function is other for _, other in bound.get(function.module, ()))
            if function.module == name or not at_home:
                yield f"{module_path(name, deployment.package)}:{attribute}", function


def _bound(module: ModuleType) -> list[tuple[str, Function[..., Any]]]:
    """A module's functions by name. Own names come first, so that an alias is not what messages call it."""
    found = [(name, value) for name, value in vars(module).items() if isinstance(value, Function)]
    return sorted(found, key=lambda item: item[0] != item[1].name)


def _misplaced(deployment: Deployment, modules: Mapping[str, ModuleType]) -> Iterator[str]:
    """Functions that were decorated and yet cannot be called, which is never what their author meant."""
    for path, module in modules.items():
        bound = [function for _, function in _bound(module)]
        shadowing = {function.python.__qualname__ for function in bound}
        earlier: dict[str, Function[..., Any]] = {}
        for function in decorated_in(module):
            name = function.python.__qualname__
            if "<" in name:
                continue  # a lambda, or made by another function: its name tells nothing
            where = (
                f"{function.file}:{function.line} {module_path(module.__name__, deployment.package)}:{function.name}"
            )
            if not offers_functions(path):
                yield f"{where} cannot be called, because {path} offers no functions; move it to another file"
            elif name in earlier:
                yield f"{where} is defined twice, here and in line {earlier[name].line}; rename one of the two"
            elif function not in bound and name not in shadowing:
                yield f"{where} cannot be called, because no name at the top of its module holds it"
            earlier.setdefault(name, function)


def _text(root: str, faults: list[str]) -> str:
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"The functions folder {root} cannot be loaded, {count}:\n\n" + "\n\n".join(faults)
