"""Who may begin, and when everything has ended: the count of the calls that are under way.

with admission.admit(): …      counts the call; once closed, only what belongs to a call under way is admitted
"""

from __future__ import annotations

import asyncio

from evolute.errors import ShuttingDown


class Admission:
    """`count` calls are under way. For the event loop's thread only."""

    def __init__(self) -> None:
        self.count = 0
        self.closing = False
        self._idle = asyncio.Event()  # set while nothing is under way, once somebody drains
        self._deadline: float | None = None

    def admit(self, *, always: bool = False) -> Admission:
        """The context in which a call runs. Raises ShuttingDown once `drain` has begun, unless `always`."""
        if self.closing and not always:
            raise ShuttingDown
        return self

    async def drain(self, timeout_ms: int) -> None:
        """Admits no more calls, and waits until those under way have ended, for at most `timeout_ms` from the first
        drain on: draining again waits for what is left of that time."""
        self.closing = True
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        try:
            async with asyncio.timeout_at(self._deadline):
                while self.count:  # what has ended may have begun the next step in the same turn
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self.count == 0 and self.closing:
            self._idle.set()
