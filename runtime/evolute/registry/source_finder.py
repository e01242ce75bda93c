"""Imports a deployment's bytes, and nothing else, under the package's name.

The finder stands first on `sys.meta_path` and answers for its package alone. Packages get an empty `__path__`, so that
no other finder looks for their modules on the disk. It stays installed, because functions may import when they run.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

from evolute.registry.source_folder import module_name


class SourceFinder:
    """Finder and loader of one package. `root` is the folder that the paths of `sources` are relative to."""

    def __init__(self, package: str, root: str, sources: Mapping[str, bytes]) -> None:
        self.package = package
        self._sources = sources
        self._paths = {module_name(path, package): path for path in sources}
        self._files = {name: f"{root}/{path}" for name, path in self._paths.items()}
        self._packages = {package}
        for name, path in self._paths.items():
            self._packages.update(_parents(name))
            if path.endswith("__init__.py"):
                self._packages.add(name)

    def install(self, *, keep_imported: bool = False) -> None:
        """Takes the place of any earlier finder of this package and forgets what was imported from it.

        With `keep_imported`, modules that were imported from the same files stay as they are.
        """
        others = [f for f in sys.meta_path if not (isinstance(f, SourceFinder) and f.package == self.package)]
        sys.meta_path[:] = [self, *others]
        for name in list(sys.modules):
            if name != self.package and not name.startswith(self.package + "."):
                continue
            if not (keep_imported and self._is_same(name, sys.modules[name])):
                del sys.modules[name]

    def _is_same(self, name: str, module: ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        return file == self._files.get(name) if file else name in self._packages

    # --- What Python's import asks of a finder and a loader ---------------------------------------------------------

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._paths and fullname not in self._packages:
            return None
        is_package = fullname in self._packages
        # Not a subclass of importlib.abc.Loader: that import alone would take a fifth of a worker's start.
        spec = ModuleSpec(fullname, self, origin=self._files.get(fullname), is_package=is_package)  # type: ignore[arg-type]
        spec.has_location = fullname in self._files
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in self._paths:
            exec(self.get_code(module.__name__), vars(module))

    # --- What inspect and pdb ask of a loader -------------------------------------------------------------------------

    def get_code(self, fullname: str) -> CodeType:
        file, source = self._files[fullname], self._sources[self._paths[fullname]]
        # Without a time of modification the entry is never compared with the file on the disk.
        lines = self.get_source(fullname).splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)
        return compile(source, file, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        return self._sources[self._paths[fullname]].decode("utf-8-sig") if fullname in self._paths else ""

    def is_package(self, fullname: str) -> bool:
        return fullname in self._packages


def _parents(name: str) -> list[str]:
    """`a.b.c` has the parents `a` and `a.b`."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]
