"""Lines for contended keys: the losers of a key take their turns one at a time, first come first served.

Re-running every loser at once makes all but one lose again. In a line, the one whose turn it is runs alone against
newcomers, so the work wasted on a hot key stays small and nobody waits for ever.
"""

from __future__ import annotations

from functools import partial

from evolute.execution.line import Line


class Turn:
    """The right to run a transaction that touches one key. Leave it when the transaction has ended either way."""

    def __init__(self, lines: ContentionLines, key: bytes) -> None:
        self._lines = lines
        self._key = key
        self._left = False

    def leave(self) -> None:
        """Lets the next in the line go. Leaving twice does nothing."""
        if not self._left:
            self._left = True
            self._lines._advance(self._key)


class ContentionLines:
    """One line for each key that somebody lost on. A key without a line is free."""

    def __init__(self) -> None:
        self._lines: dict[bytes, Line] = {}

    async def take_turn(self, key: bytes) -> Turn:
        """Waits at the end of the key's line. A holder must leave its turn before it waits in another line."""
        line = self._lines.get(key)
        if line is None:
            self._lines[key] = Line()
            return Turn(self, key)
        await line.wait(give_back=partial(self._advance, key))
        return Turn(self, key)

    @property
    def waiting(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def _advance(self, key: bytes) -> None:
        if not self._lines[key].call_next():
            del self._lines[key]
