"""A query's answer, an immutable value with two timestamps: the snapshot it was read at, and the commit that broke it.

It may be used at T exactly if ``begin_ts <= T < broken_at``. While it is held it stays live in the query cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from evolute.database.subscriptions import Subscription
from evolute.execution.request import Call, CallError, CallResult

Listener = Callable[[], None]

_OVERHEAD_BYTES = 512
_INTERVAL_BYTES = 384  # what a point or range weighs in the read set and in the interval map


class QueryResult:
    """A query's answer at `begin_ts`, and for as long as `broken_at` is None.

    `asked` is the call that was run, `call` is what to run when it breaks: the same with the journal of this run.
    `encoded` is a place for the session layer: the answer as it goes over the wire, made once and shared.
    """

    __slots__ = (
        "_listeners",
        "_on_hold",
        "_subscription",
        "asked",
        "begin_ts",
        "broken_at",
        "call",
        "encoded",
        "error",
        "log_lines",
        "made_ns",
        "run",
        "size_bytes",
        "value",
    )

    def __init__(self, call: Call, result: CallResult, begin_ts: int, made_ns: int) -> None:
        self.asked = call
        self.run = result
        self.call = call if call.journal == result.journal else replace(call, journal=result.journal)
        self.value: bytes | None = result.value
        self.error: CallError | None = result.error
        self.log_lines = result.log_lines
        self.begin_ts = begin_ts
        self.made_ns = made_ns
        self.broken_at: int | None = None
        self.encoded: bytes | None = None
        texts_bytes = len(self.value or b"") + len(call.arguments) + sum(map(len, result.log_lines))
        texts_bytes += len(call.journal or "") + len(result.journal or "")
        self.size_bytes = _OVERHEAD_BYTES + texts_bytes + _INTERVAL_BYTES * len(result.read_set)
        self._subscription: Subscription | None = None
        self._listeners: dict[Listener, None] = {}
        self._on_hold: Callable[[QueryResult], None] | None = None

    @property
    def journal(self) -> str | None:
        return self.call.journal

    @property
    def calls(self) -> tuple[Call, ...]:
        """All that it answers."""
        return (self.call,) if self.call is self.asked else (self.asked, self.call)

    def good_at(self, ts: int) -> bool:
        return self.begin_ts <= ts and (self.broken_at is None or ts < self.broken_at)

    def same_answer(self, other: QueryResult) -> bool:
        """Whether a client that has `other` needs to hear of this one. Decided on bytes."""
        return (self.value, self.error, self.log_lines, self.journal) == (
            other.value,
            other.error,
            other.log_lines,
            other.journal,
        )

    def hold(self, listener: Listener) -> None:
        """Keep the result live; `listener` is called once, synchronously, when it breaks. Look at `broken_at` first."""
        is_first = not self._listeners
        self._listeners[listener] = None
        if is_first and self._on_hold is not None:
            self._on_hold(self)

    def release(self, listener: Listener) -> None:
        """Undo `hold`. Releasing twice does nothing."""
        was_held = self._listeners.pop(listener, False) is None
        if was_held and not self._listeners and self._on_hold is not None:
            self._on_hold(self)

    @property
    def held(self) -> bool:
        return bool(self._listeners)
