"""How a session's mutation ended, as the bytes of its record:

    {"commitTs":{"$integer":"…"},"logLines":["…"],"value":…}

Canonical JSON, and put together without a walk: the result's bytes stand in it as they are, and are cut out again.
Until the commit, COMMIT_TS_PLACEHOLDER stands for the timestamp. A result may hold the placeholder too, and must be
found as it was answered; so only the first one, the record's own, is to be stamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from evolute.errors import StoreCorrupt
from evolute.values.value import Int64
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, decode_canonical, int64_json

_BEGINNING: Final = b'{"commitTs":'
_LOG_LINES: Final = b',"logLines":'
_VALUE: Final = b',"value":'
"""First found before the result: the quotes of a log line are escaped."""

_UNSTAMPED: Final = _BEGINNING + COMMIT_TS_PLACEHOLDER + _LOG_LINES + b"%b" + _VALUE + b"%b}"
_LOG_LINES_AT: Final = len(_BEGINNING) + len(int64_json(0))


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """How a session's mutation ended: the canonical JSON of its result, its log lines, and when it was committed."""

    value: bytes
    log_lines: tuple[str, ...]
    commit_ts: int


def unstamped_record(value: bytes, log_lines: Sequence[str]) -> bytes:
    """The bytes of a record, with the placeholder where its commit's timestamp will be."""
    return _UNSTAMPED % (orjson.dumps(log_lines), value)


def record_from(data: bytes) -> SessionRecord:
    """The record of stamped bytes. Raises StoreCorrupt."""
    head, _, rest = data.partition(_VALUE)
    value, end = rest[:-1], rest[-1:]
    try:
        orjson.loads(value)
        match decode_canonical(head + b"}"):
            case {"commitTs": Int64() as commit_ts, "logLines": list(lines)}:
                log_lines = tuple(line for line in lines if isinstance(line, str))
                if head == _head(commit_ts, log_lines) and end == b"}":
                    return SessionRecord(value, log_lines, int(commit_ts))
    except Exception:  # the codec trusts its bytes, so there is no one way in which it stumbles over others
        pass
    raise _corrupt(data)


def commit_ts_of(data: bytes) -> int:
    """The timestamp alone of a stamped record, however large its result is. Raises StoreCorrupt."""
    head = data[:_LOG_LINES_AT]
    try:
        match decode_canonical(head + b"}"):
            case {"commitTs": Int64() as commit_ts}:
                return int(commit_ts)
    except Exception:  # as above
        pass
    raise _corrupt(data)


def _head(commit_ts: int, log_lines: Sequence[str]) -> bytes:
    return _BEGINNING + int64_json(commit_ts) + _LOG_LINES + orjson.dumps(log_lines)


def _corrupt(data: bytes) -> StoreCorrupt:
    return StoreCorrupt(f"not the stamped record of a session's mutation: {data[:200]!r}")
