"""What many connections have to do in the next turn of the event loop, as one callback of it.

A commit may wake a thousand sessions. The loop would make a handle with a context for each; here they wait in a list.
And what is done for all of them before the next thing is done for any (all Transitions are made, then all are sent) is
done faster: who gets them is woken less often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class NextTurn:
    """For the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def add(self, callback: Callable[[], None]) -> None:
        """Calls it before long, and not in this turn; those that are added first are called first."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._call)
        self._waiting.append(callback)

    def _call(self) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            try:
                callback()
            except Exception as error:  # one connection's, which the others are not to suffer from
                what = {"message": f"Unexpected error in {callback}", "exception": error}
                asyncio.get_running_loop().call_exception_handler(what)  # as if the loop had called it
