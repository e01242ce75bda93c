"""How much of what clients have asked for is not done yet, and who is read no further until it is less.

    frame ──► Session ──► Share.hold(bytes) ──► too much ──► the reader waits, and the client's own socket fills up
                                       ▲
    a call has ended ──────────────────┘ and lets those go on who wait

A client may send calls faster than they are run. They have to wait somewhere: with the server as long as they are
little, then with the client. Nothing is refused and nothing overtakes.
"""

from __future__ import annotations

import asyncio

from evolute.limits import Limits


class Intake:
    """Of all sessions of one server. For the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._waiting: dict[Share, asyncio.Future[None]] = {}

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._limits.all_sessions_calls_bytes_max

    def share(self) -> Share:
        """A session's. Close it."""
        return Share(self)


class Share:
    """What one session holds of it."""

    __slots__ = ("_bytes", "_intake")

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._bytes = 0

    def hold(self, bytes_held: int) -> None:
        """From now on it is so much."""
        if bytes_held == self._bytes:
            return
        intake = self._intake
        was_full = intake.is_full
        intake._bytes += bytes_held - self._bytes
        self._bytes = bytes_held
        for share in tuple(intake._waiting) if was_full and not intake.is_full else (self,):
            waiter = intake._waiting.get(share)
            if waiter is not None and not share.is_full and not waiter.done():
                waiter.set_result(None)

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be read. Who holds nothing is always read: there is no end to wait for."""
        own_max = self._intake._limits.session_calls_bytes_max
        return self._bytes >= own_max or (self._bytes > 0 and self._intake.is_full)

    async def wait_room(self) -> None:
        """Returns when there is some. For one task at a time."""
        while self.is_full:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._intake._waiting[self] = waiter
            try:
                await waiter
            finally:
                del self._intake._waiting[self]

    def close(self) -> None:
        self.hold(0)
