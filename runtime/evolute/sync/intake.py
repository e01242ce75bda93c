"""How much of what clients have asked for is not done yet, and who is read no further until it is less.

    frame ──► Session ──► Share.hold(bytes) ──► too much ──► nothing more is read, and the client's own socket fills up
                                       ▲
    a call has ended ──────────────────┘ and `on_room` lets those go on who were stopped

A client may send calls faster than they are run. They have to wait somewhere: with the server as long as they are
little, then with the client. Nothing is refused and nothing overtakes.
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.limits import Limits


def _nobody() -> None:
    """Who has gone is not told, and not held."""


class Intake:
    """Of all sessions of one server. For the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._stopped: dict[Share, None] = {}

    def share(self, on_room: Callable[[], object]) -> Share:
        """A session's. Close it. `on_room` is called, synchronously, when one that was stopped may go on."""
        return Share(self, on_room)

    @property
    def is_full(self) -> bool:
        return self._bytes >= self._limits.all_sessions_calls_bytes_max


class Share:
    """What one session holds of it."""

    __slots__ = ("_bytes", "_intake", "_on_room")

    def __init__(self, intake: Intake, on_room: Callable[[], object]) -> None:
        self._intake = intake
        self._on_room = on_room
        self._bytes = 0

    def hold(self, bytes_held: int) -> None:
        """From now on it is so much."""
        if bytes_held == self._bytes:
            return
        intake = self._intake
        was_full = bool(intake._stopped) and intake.is_full
        intake._bytes += bytes_held - self._bytes
        self._bytes = bytes_held
        if not intake._stopped:
            return
        for share in tuple(intake._stopped) if was_full and not intake.is_full else (self,):
            if share in intake._stopped and not share._is_full:
                del intake._stopped[share]
                share._on_room()

    def stops(self) -> bool:
        """Whether nothing more is to be read until `on_room`."""
        is_full = self._is_full
        if is_full:
            self._intake._stopped[self] = None
        return is_full

    def close(self) -> None:
        self._intake._stopped.pop(self, None)
        self.hold(0)
        self._on_room = _nobody

    @property
    def _is_full(self) -> bool:
        """Who holds nothing is always read: there is no end that it could wait for."""
        own_max = self._intake._limits.session_calls_bytes_max
        return self._bytes >= own_max or (self._bytes > 0 and self._intake.is_full)
