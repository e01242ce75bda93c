"""Who comes near a limit is told so in the log lines of the call, before it is an error (semantics F).

    [WARN] Many documents read in a single function execution (actual: 30000, limit: 32000). Consider … The setting is
    `documents_read_max`.

Near is from four fifths of the limit on. What was reached or exceeded in an error needs no warning: the error says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from evolute.clock import NS_PER_MS
from evolute.database.budget import READ_ADVICE
from evolute.execution.context import Attempt
from evolute.execution.function_log import LogLines
from evolute.limits import Limits


class _Warning(NamedTuple):
    text: str
    unit: str = ""
    advice: str = ""


_DURATION: Final = _Warning("Function execution took a long time", " ms")

WARNINGS: Final[Mapping[str, _Warning]] = {
    "documents_read_max": _Warning("Many documents read in a single function execution", advice=READ_ADVICE),
    "bytes_read_max": _Warning("Many bytes read in a single function execution", " bytes", READ_ADVICE),
    "read_set_intervals_max": _Warning("Many reads in a single function execution", advice=READ_ADVICE),
    "documents_written_max": _Warning("Many documents written in a single function execution"),
    "bytes_written_max": _Warning("Many bytes written in a single function execution", " bytes"),
    "system_documents_written_max": _Warning("Many system table writes in a single function execution"),
    "system_bytes_written_max": _Warning(
        "Many bytes of system tables written in a single function execution", " bytes"
    ),
    "scheduled_per_mutation_max": _Warning("Many functions scheduled by this mutation"),
    "scheduled_arguments_bytes_max": _Warning(
        "Large total size of the arguments of scheduled functions from this mutation", " bytes"
    ),
    "arguments_bytes_max": _Warning("Large size of the arguments of this function", " bytes"),
    "result_bytes_max": _Warning("Large size of the return value of this function", " bytes"),
    "query_user_ms_max": _DURATION,
    "mutation_user_ms_max": _DURATION,
    "action_ms_max": _DURATION,
}


class LimitWarnings:
    """What one process says about its limits, of which it has worked out once where near begins."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # With a limit of nothing, nothing is near: whatever is used is an error.
        self._near_from = {name: -(-getattr(limits, name) * 4 // 5) or 1 for name in WARNINGS}

    def of_transaction(
        self, lines: LogLines, attempt: Attempt, value: bytes | None, user_ns: int, setting: str
    ) -> None:
        """`setting` is the one that bounds the user's time, of which `user_ns` were used."""
        transaction = attempt.transaction
        used = transaction.used()
        used["scheduled_per_mutation_max"] = transaction.scheduled_count
        used["scheduled_arguments_bytes_max"] = transaction.scheduled_bytes
        self._warn(lines, used | _of_call(attempt.call.arguments, value, user_ns, setting))

    def of_call(self, lines: LogLines, arguments: bytes, value: bytes | None, took_ns: int, setting: str) -> None:
        self._warn(lines, _of_call(arguments, value, took_ns, setting))

    def _warn(self, lines: LogLines, used: Mapping[str, int]) -> None:
        near_from = self._near_from
        for setting, actual in used.items():
            if actual >= near_from[setting]:
                self._warn_of(lines, setting, actual)

    def _warn_of(self, lines: LogLines, setting: str, actual: int) -> None:
        limit: int = getattr(self._limits, setting)
        if actual > limit:
            return
        text, unit, advice = WARNINGS[setting]
        told = [f"{text} (actual: {actual}{unit}, limit: {limit}{unit}).", advice, f"The setting is `{setting}`."]
        lines.add("WARN", " ".join(filter(None, told)))


def _of_call(arguments: bytes, value: bytes | None, took_ns: int, setting: str) -> dict[str, int]:
    """What every call has: arguments, a result unless it failed, a duration."""
    result_bytes = 0 if value is None else len(value)
    return {"arguments_bytes_max": len(arguments), "result_bytes_max": result_bytes, setting: took_ns // NS_PER_MS}
