"""A query's answer, an immutable value with two timestamps: the snapshot it was read at, and the commit that broke it.

It may be used at T exactly if ``begin_ts <= T < broken_at``. While it is held it stays live in the query cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from evolute.database.subscriptions import Subscription
from evolute.execution.request import Call, CallError, CallResult

Listener = Callable[[], None]

_OVERHEAD_BYTES = 512
_INTERVAL_BYTES = 384  # what a point or range weighs in the read set and in the interval map


class Keeper(Protocol):
    """Where a result is live."""

    def keep_or_drop(self, result: QueryResult) -> None:
        """It is held now, or not any more."""
        ...

    def give_up(self, result: QueryResult) -> None:
        """It has broken."""
        ...


class QueryResult:
    """A query's answer at `begin_ts`, and for as long as `broken_at` is None.

    `asked` is the call that was run, `call` is what to run when it breaks: the same with the journal of this run.
    `encoded` is a place for the session layer: the answer as it goes over the wire, made once and shared.

    There may be a hundred thousand of them, so it is made of few objects: of the run it takes what it needs, and its
    listener, which is mostly one, stands for itself until there are more.
    """

    __slots__ = (
        "_keeper",
        "_listeners",
        "_subscription",
        "asked",
        "begin_ts",
        "broken_at",
        "call",
        "encoded",
        "error",
        "log_lines",
        "made_ns",
        "read_set",
        "saw_identity",
        "value",
    )

    def __init__(self, call: Call, result: CallResult, begin_ts: int, made_ns: int) -> None:
        self.asked = call
        self.call = call if call.journal == result.journal else call._replace(journal=result.journal)
        self.value: bytes | None = result.value
        self.error: CallError | None = result.error
        self.log_lines = result.log_lines
        self.read_set = result.read_set.compact()
        self.saw_identity = result.saw_identity
        self.begin_ts = begin_ts
        self.made_ns = made_ns
        self.broken_at: int | None = None
        self.encoded: bytes | None = None
        self._subscription: Subscription | None = None
        self._listeners: Listener | dict[Listener, None] | None = None
        self._keeper: Keeper | None = None

    def of(self, call: Call) -> QueryResult:
        """The same answer to another caller's call, if it is no error and did not depend on who called."""
        assert self.error is None
        assert not self.saw_identity
        run = CallResult(
            self.value, self.error, self.log_lines, self.read_set, journal=self.journal, saw_identity=False
        )
        other = QueryResult(call, run, self.begin_ts, self.made_ns)
        other.encoded = self.encoded
        return other

    @property
    def journal(self) -> str | None:
        return self.call.journal

    @property
    def calls(self) -> tuple[Call, ...]:
        """All that it answers."""
        return (self.call,) if self.call is self.asked else (self.asked, self.call)

    @property
    def size_bytes(self) -> int:
        """About what it keeps in memory."""
        texts_bytes = len(self.value or b"") + len(self.call.arguments) + sum(map(len, self.log_lines))
        texts_bytes += len(self.asked.journal or "") + len(self.journal or "")
        return _OVERHEAD_BYTES + texts_bytes + _INTERVAL_BYTES * len(self.read_set)

    def good_at(self, ts: int) -> bool:
        return self.begin_ts <= ts and (self.broken_at is None or ts < self.broken_at)

    def same_answer(self, other: QueryResult) -> bool:
        """Whether a client that has `other` needs to hear of this one. Decided on bytes."""
        return (
            self.value == other.value
            and self.error == other.error
            and self.log_lines == other.log_lines
            and self.journal == other.journal
        )

    def hold(self, listener: Listener) -> None:
        """Keep the result live; `listener` is called once, synchronously, when it breaks. Look at `broken_at` first."""
        match self._listeners:
            case None:
                self._listeners = listener
                if self._keeper is not None:
                    self._keeper.keep_or_drop(self)
            case dict() as many:
                many[listener] = None
            case one:
                self._listeners = {one: None, listener: None}

    def release(self, listener: Listener) -> None:
        """Undo `hold`. Releasing twice does nothing."""
        match self._listeners:
            case None:
                return
            case dict() as many:
                many.pop(listener, None)
                self._listeners = many or None
            case one:
                self._listeners = None if one == listener else one
        if self._listeners is None and self._keeper is not None:
            self._keeper.keep_or_drop(self)

    @property
    def held(self) -> bool:
        return self._listeners is not None

    def become_broken(self, commit_ts: int) -> None:
        """A commit has touched what it read. Tells those who hold it, who do not hold it any more."""
        self.broken_at = commit_ts
        if self._keeper is not None:
            self._keeper.give_up(self)
        listeners, self._listeners = self._listeners, None
        for listener in listeners if isinstance(listeners, dict) else () if listeners is None else (listeners,):
            listener()
