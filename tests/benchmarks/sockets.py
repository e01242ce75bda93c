"""What the benchmarks' clients have in common: a socket that costs them as little as it can."""

from __future__ import annotations

import socket
import struct

TIMEOUT_S = 30


def connected(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Waits for TIMEOUT_S at most, and then raises BlockingIOError.

    It is the kernel that counts the time: Python would ask before every call whether the socket is ready.
    """
    made = socket.create_connection((host, port), timeout=TIMEOUT_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        made.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", TIMEOUT_S, 0))
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
