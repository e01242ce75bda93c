"""How a job is run, beyond what it runs: its pool, whether it is tried again, and who hears of its end.

    @action(pool="email", retry=Retry(attempts=5))            for every job of the function
    ctx.scheduler.options(key=…, retry=…, on_complete=…)      for one job

    functions/pools.py    pools = {"email": Pool(concurrency=4, per_second=10)}

What is given with `options` goes before what the function says. A pool that nobody names is "default".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from evolute.errors import ConvexError, ValidationFailed

DEFAULT_POOL: Final = "default"
ATTEMPTS_MAX: Final = 100
WAIT_MS_MAX: Final = 7 * 24 * 3600 * 1000
KEY_CHARACTERS_MAX: Final = 256

KeyPolicy: TypeAlias = Literal["replace", "keep"]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many jobs of a pool run at the same time, and how many start in a second.

    `per_second` is a token bucket: starts are spread evenly, with bursts of at most a tenth of a second's worth, so no
    second ever sees more than eleven tenths of it. Raises ValueError for limits that nothing could run under.
    """

    concurrency: int
    per_second: float | None = None

    def __post_init__(self) -> None:
        if type(self.concurrency) is not int or self.concurrency < 1:
            raise ValueError(f"the concurrency of a Pool is a whole number of at least 1, not {self.concurrency!r}")
        if self.per_second is not None and not _is_positive(self.per_second):
            raise ValueError(f"the per_second of a Pool is a positive number or None, not {self.per_second!r}")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """An action that fails is tried again: `attempts` runs at most, the first one included.

    Between two runs it waits `initial_ms`, then `factor` times as long each time, but never longer than `max_ms`. `on`
    names the exceptions that are worth another attempt, subclasses included; without it all are, except ConvexError
    and arguments or results that do not fit. A run that was cut short (its worker died, the server stopped) always is.

    An action with a retry policy may run more than once, and what it does outside must bear that. Raises ValueError.
    """

    attempts: int = 5
    initial_ms: float = 500
    factor: float = 2
    max_ms: float = 60_000
    on: tuple[type[BaseException], ...] | None = None

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or not 1 <= self.attempts <= ATTEMPTS_MAX:
            raise ValueError(f"the attempts of a Retry are a whole number from 1 to {ATTEMPTS_MAX}: {self.attempts!r}")
        for name in ("initial_ms", "max_ms"):
            if not _is_positive(getattr(self, name)) or getattr(self, name) > WAIT_MS_MAX:
                raise ValueError(f"the {name} of a Retry is a positive number of milliseconds, at most seven days")
        if not _is_positive(self.factor) or self.factor < 1:
            raise ValueError(f"the factor of a Retry is a number of at least 1, not {self.factor!r}")
        on: object = self.on
        if on is not None and not (isinstance(on, tuple) and all(map(_is_exception, on))):
            raise ValueError(f"the `on` of a Retry is a tuple of exception classes, not {self.on!r}")

    def to_row(self) -> dict[str, Any]:
        """Plain data, for `RetryPolicy`."""
        on = None if self.on is None else [class_name(one) for one in self.on]
        waits = {"initialMs": float(self.initial_ms), "factor": float(self.factor), "maxMs": float(self.max_ms)}
        return {"attempts": self.attempts, **waits, "on": on}


@dataclass(frozen=True)
class RetryPolicy:
    """A `Retry` as a job's row keeps it: classes by name, because the server imports no user code."""

    attempts: int
    initial_ms: float
    factor: float
    max_ms: float
    on: tuple[str, ...] | None

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> RetryPolicy:
        on = None if row["on"] is None else tuple(row["on"])
        return RetryPolicy(int(row["attempts"]), row["initialMs"], row["factor"], row["maxMs"], on)

    def covers(self, classes: tuple[str, ...]) -> bool:
        """Whether an error is worth another attempt; `classes` are its class and that one's bases."""
        if self.on is not None:
            return not set(self.on).isdisjoint(classes)
        return _NEVER.isdisjoint(classes)

    def wait_ms(self, failures: int) -> float:
        """How long to wait after the `failures`-th failure."""
        try:
            wait_ms = self.initial_ms * self.factor ** (failures - 1)
        except OverflowError:
            return self.max_ms
        return min(wait_ms, self.max_ms)


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended, as its completion function is told.

    `value` is what it returned; `error` the text of its error; `attempts` the runs that are on record, each with its
    `startedTime` and, unless it succeeded, its `error` (of actions that are retried, or were interrupted).
    """

    id: str
    name: str
    kind: Literal["success", "failed", "canceled"]
    value: Any = None
    error: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)


def class_name(error: type[BaseException]) -> str:
    return f"{error.__module__}.{error.__qualname__}"


def class_names(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's class and its bases, the most special first."""
    return tuple(class_name(one) for one in type(error).__mro__ if issubclass(one, BaseException))


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


_NEVER: Final = frozenset({class_name(ConvexError), class_name(ValidationFailed)})
