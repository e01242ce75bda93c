"""How many bytes may be committed in a second: a second's worth can be saved up, and what comes faster is refused.

So one client that writes without end leaves the disk to the others, and the file grows no faster than its owner allows
(semantics F, write throughput). One commit larger than a second's worth passes if nothing was written in the second
before it, and is paid off by those after it.
"""

from __future__ import annotations

from evolute.clock import NS_PER_S
from evolute.errors import TooManyWrites


class WriteRate:
    """All times are a clock's, given by the caller; a step of it backwards brings nothing."""

    def __init__(self, bytes_per_s_max: int, now_ns: int) -> None:
        self._bytes_per_s_max = bytes_per_s_max
        self._left = float(bytes_per_s_max)
        self._since_ns = now_ns

    def take(self, size: int, now_ns: int) -> None:
        """`size` bytes are going to be written. Raises TooManyWrites, and nothing is taken."""
        elapsed_s = max(0, now_ns - self._since_ns) / NS_PER_S
        self._since_ns = now_ns
        self._left = min(float(self._bytes_per_s_max), self._left + elapsed_s * self._bytes_per_s_max)
        if size > self._left and self._left < self._bytes_per_s_max:
            raise TooManyWrites(
                f"Too many writes per second: no more than {self._bytes_per_s_max} bytes are committed in one. "
                f"Try again later. The setting is `write_bytes_per_s_max`."
            )
        self._left -= size
