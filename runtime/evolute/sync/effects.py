"""What a session asks its driver to do. Plain data: a session decides, `connection` performs, in this order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

from evolute.execution.query_cache import Wanted
from evolute.execution.query_result import QueryResult
from evolute.execution.request import Call
from evolute.protocol.messages import Token


class Send(NamedTuple):
    """Send this message. After a Transition the driver calls `Session.transition_sent`."""

    message: bytes
    is_transition: bool = False


class StartMutation(NamedTuple):
    """Run it; call `mutation_committed` in the turn that publishes it, then `mutation_done`."""

    request_id: int
    call: Call


@dataclass(frozen=True, slots=True)
class StartAction:
    """Run it beside everything else, then call `action_done`."""

    request_id: int
    call: Call


class Compute(Wanted):
    """Bring `stale` and `held` to one timestamp of at least `at_least_ts`, then call `results_ready`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Verify:
    """Find out whose token it is, then call `authenticated` or `refused`. Until then nothing may be received."""

    token: Token


@dataclass(frozen=True, slots=True)
class AwaitBurst:
    """Call `burst_over` when the messages of a client's opening burst must have arrived."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """After `delay_ms` take `result` out of the query cache and call `retry_due`."""

    query_id: int
    result: QueryResult
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is left and close the socket. `code` None is a close frame without a code."""

    NORMAL: ClassVar[int] = 1000
    INTERNAL_ERROR: ClassVar[int] = 1011
    RESTART: ClassVar[int] = 1012
    TRY_AGAIN: ClassVar[int] = 1013

    code: int | None
    reason: str


Effect: TypeAlias = Send | StartMutation | StartAction | Compute | Verify | AwaitBurst | RetryLater | Close
