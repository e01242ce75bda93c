"""A request that has not been answered: it waits in a queue of the pool, or a worker holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from evolute.clock import monotonic_ns
from evolute.execution.request import Call, FunctionOutcome, RequestKind

# An action's call back to the server: (its call, operation, payload) -> (ok, payload).
Callbacks: TypeAlias = Callable[[Call, str, Any], Awaitable[tuple[bool, Any]]]


@dataclass(eq=False, slots=True)
class Pending:
    """`deaths` counts the workers that died while they ran it.

    `places` counts the queues and workers that hold it: behind a request that runs long it gets a second place, and the
    outcome that comes first is used. `fresh`: it is to see what is pending when it is sent; not after a death, so that
    the second one cannot be the fault of what never was.
    """

    kind: RequestKind
    calls: tuple[Call, ...]
    future: asyncio.Future[FunctionOutcome]
    callbacks: Callbacks | None = None
    nested: bool = False
    deaths: int = 0
    places: int = 1
    sent_ns: int = 0
    fresh: bool = False
    asked_ns: int = field(default_factory=monotonic_ns)
    kept: int = 0  # the number of a snapshot that this very worker keeps; with no calls, it is to
