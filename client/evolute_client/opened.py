"""How results and printed lines reach the caller: as values, as exceptions, and through `logging`."""

from __future__ import annotations

import logging
from typing import Any

from evolute.errors import ConvexError
from evolute.protocol.messages import Failure, Success
from evolute.values import wire_codec
from evolute_client.errors import ConnectionLost, FunctionError
from evolute_client.requests import Lost
from evolute_client.state_machine import LogLines

LOGGER = logging.getLogger("evolute_client")
_LEVELS = {"DEBUG": logging.DEBUG, "WARN": logging.WARNING, "ERROR": logging.ERROR}


def opened(result: Success | Failure | Lost) -> Any:
    """The value of a Success. Raises ConvexError, FunctionError or ConnectionLost for what is none."""
    match result:
        case Success(value):
            return wire_codec.decode(value)
        case Failure(message, None):
            raise FunctionError(message)
        case Failure(message, data):
            assert data is not None
            error = ConvexError(wire_codec.decode(data))
            error.add_note(message)
            raise error
        case Lost(message):
            raise ConnectionLost(message)


def log(printed: LogLines) -> None:
    """Hands what a function printed on the server to this process's logging."""
    for line in printed.lines:
        level = line[1 : line.find("]")] if line.startswith("[") else ""
        LOGGER.log(_LEVELS.get(level, logging.INFO), "%s: %s", printed.path, line)
