"""Names of functions: `module:function`, `dir/module:function`. Clients have several spellings, the runtime shows one.

messages:list   messages.js:list   messages.py:list     → messages:list
foo             foo.js                                  → foo:default
"""

from __future__ import annotations

import functools
import re
from typing import Final

from evolute.errors import FunctionNotFound

_PATH: Final = re.compile(r"((?:\w+/)*\w+)(?:\.js|\.py)?(?::(\w+))?")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_CHARACTERS_MAX: Final = 1024
_SPELLINGS_MAX: Final = 1024


def is_name(text: str) -> bool:
    """Whether every client can write `text` as a part of a path: an ASCII identifier of at most 64 characters (J1)."""
    return _NAME.fullmatch(text) is not None


@functools.lru_cache(maxsize=_SPELLINGS_MAX)
def canonical_path(text: str) -> str:
    """The one spelling of a function's name. Raises FunctionNotFound for what names no function."""
    match = _PATH.fullmatch(text) if len(text) <= _CHARACTERS_MAX else None
    if match is None:
        raise FunctionNotFound(missing_text(text))
    return f"{match[1]}:{match[2] or 'default'}"


def missing_text(path: str) -> str:
    """Told alike for a function that does not exist and for one that the caller may not see."""
    shown = path if len(path) <= _CHARACTERS_MAX else path[:_CHARACTERS_MAX] + "…"
    return f"Could not find public function for '{shown}'."
