"""When this process looks for garbage that only a search can find.

Nearly everything here is freed by counting references; what the search finds are a few exceptions with their frames.
But Python searches after every few hundred new objects, through all that it has not seen lately, and a server that has
thousands of objects in its log, caches and sessions spends a tenth of its time on it.
"""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 20_000
_YOUNG_SEARCHES: Final = 50
_MIDDLE_SEARCHES: Final = 100


def search_seldom() -> None:
    """Call once, when what this process keeps for good has been made: that is never searched again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_SEARCHES, _MIDDLE_SEARCHES)
