"""Where the next Transition of a session stands.

idle ── begin ──► computing ── results_ready ──► parked ── answered ──► sending ── transition_sent ──► idle
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final


class Phase(Enum):
    IDLE = auto()
    COMPUTING = auto()
    PARKED = auto()
    SENDING = auto()
    CLOSED = auto()


# They are asked for several times for every message, and a name is found much faster than an enum's attribute.
IDLE: Final = Phase.IDLE
COMPUTING: Final = Phase.COMPUTING
PARKED: Final = Phase.PARKED
SENDING: Final = Phase.SENDING
CLOSED: Final = Phase.CLOSED
