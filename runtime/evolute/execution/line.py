"""Who waits for something that only some can have at a time: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Line:
    """For the event loop's thread. `len` counts those who wait, and those who were cancelled in it."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self, give_back: Callable[[], None]) -> None:
        """Returns when it is the caller's turn. If he is cancelled with his turn given, `give_back` is called."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                give_back()
            raise

    def call_next(self) -> bool:
        """Gives the first who still waits his turn; False if there is nobody."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return True
        return False
