"""What all functions of a worker share and one of them can break for the next: put back after every call.

A function that removes or replaces one of Python's builtins has broken the runtime that shares them, so its call fails;
names that it adds stay, as an import may add some. A recursion limit that it sets is its own. Imports, module globals
and the environment are left alone: that they live on from call to call is what Python's authors expect.
"""

from __future__ import annotations

import builtins
import sys

from evolute.errors import FunctionFault


class ProcessGuard:
    """Made when the functions have been imported, for a worker only: a test's process may patch what it likes."""

    def __init__(self) -> None:
        self._builtins = dict(vars(builtins))
        self._recursion_limit = sys.getrecursionlimit()

    def restore(self) -> list[str]:
        """Puts everything back; the names of the builtins that were not as they should be."""
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        saved, now = self._builtins, vars(builtins)
        if now == saved:
            return []
        changed = [name for name, value in saved.items() if name not in now or now[name] is not value]
        now.update(saved)
        saved.update(now)
        return changed


def builtins_changed(path: str, names: list[str]) -> FunctionFault:
    """The error of a call that changed builtins."""
    return FunctionFault(
        f"{path} changed Python's builtins ({', '.join(names)}), which all functions of a worker share."
    )
