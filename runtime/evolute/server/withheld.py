"""What a client is not told goes to the log of the server, under the request id that the client has."""

from __future__ import annotations

import logging

from evolute.errors import BadRequest, FunctionNotFound, WrongKind
from evolute.execution.request import CallError

logger = logging.getLogger("evolute.calls")

CHARACTERS_MAX = 4000
"""Of one error: whoever may call a function that raises must not be able to fill the disk."""

_CALLERS_MISTAKES = frozenset({BadRequest.code, FunctionNotFound.code, WrongKind.code})


def log_withheld(request_id: str, error: CallError) -> None:
    """Mistakes that need no function to be made are left out: anybody could make them all day."""
    if error.code not in _CALLERS_MISTAKES:
        logger.warning("[Request ID: %s] %s", request_id, error.message[:CHARACTERS_MAX])
