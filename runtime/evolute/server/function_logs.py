"""GET /api/stream_function_logs?cursor=<ms>: what has run since, as `npx convex logs` asks for it again and again.

An answer that would be empty is waited for. The cursor is the time at which the last entry ended, so it means the same
after a restart; 0 asks for everything that the call log still keeps.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from evolute.backend import Backend
from evolute.clock import random_bytes
from evolute.execution.call_log import CallLogEntry
from evolute.execution.function_log import TRUNCATED
from evolute.server.auth import Authenticator
from evolute.server.http_error import HttpError, json_response
from evolute.server.http_request import require_admin, wait_identity
from evolute.sync.transition import request_name

MS_PER_S = 1000


class FunctionLogs:
    def __init__(self, backend: Backend, authenticator: Authenticator) -> None:
        self._log = backend.call_log
        self._authenticator = authenticator
        self._limits = backend.config.limits

    async def page(self, request: Request) -> Response:
        """Raises HttpError."""
        require_admin(await wait_identity(request, self._authenticator))
        written = request.query_params.get("cursor") or "0"
        try:
            cursor_ms = float(written)
        except ValueError:
            cursor_ms = math.nan
        if math.isnan(cursor_ms):
            raise HttpError(400, "BadQueryParameter", f"`cursor` must be a time in milliseconds, got {written!r}.")
        found = self._since(cursor_ms)
        if not found:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.function_log_wait_ms / 1000):
                    await self._next_entry()
            found = self._since(cursor_ms)
        entries = [_as_json(entry) for entry in found]
        return json_response({"entries": entries, "newCursor": found[-1].ended_ms if found else cursor_ms})

    def _since(self, cursor_ms: float) -> list[CallLogEntry]:
        """The oldest ones that are newer, at most a page of them, but never half of those that ended together."""
        newer = sorted(
            (entry for entry in self._log.entries() if entry.ended_ms > cursor_ms), key=lambda entry: entry.ended_ms
        )
        length = min(self._limits.function_log_page_entries_max, len(newer))
        while 0 < length < len(newer) and newer[length].ended_ms == newer[length - 1].ended_ms:
            length += 1
        return newer[:length]

    async def _next_entry(self) -> None:
        came = asyncio.Event()
        stop = self._log.listen(lambda _: came.set())
        try:
            await came.wait()
        finally:
            stop()


def _as_json(entry: CallLogEntry) -> dict[str, Any]:
    request_id = random_bytes(8).hex() if entry.session is None else request_name(*entry.session)
    return {
        "kind": "Completion",
        "udfType": entry.kind.capitalize(),
        "identifier": entry.path,
        "componentPath": None,
        "logLines": [_line(line, entry.ended_ms) for line in entry.log_lines],
        "timestamp": entry.ended_ms / MS_PER_S,
        "executionTime": entry.duration_ms / MS_PER_S,
        "success": None,
        "error": entry.error,
        "requestId": request_id,
        "executionId": request_id,
        "cachedResult": False,
        "caller": "Scheduler" if entry.job is not None else "Tester" if entry.session is None else "SyncWorker",
        "usageStats": {},
    }


def _line(line: str, ended_ms: float) -> dict[str, Any]:
    """A line of a call, `[LEVEL] text`, taken apart."""
    level, _, text = line.removeprefix("[").partition("] ")
    is_cut = text.endswith(TRUNCATED)
    return {"messages": [text], "level": level, "timestamp": int(ended_ms), "isTruncated": is_cut}
