"""What all connections of one server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from evolute.clock import Clock
from evolute.execution.executor import Executor
from evolute.limits import Limits
from evolute.stages import Stages
from evolute.sync.identity import IdentityOf
from evolute.sync.intake import Intake
from evolute.sync.next_turn import NextTurn
from evolute.sync.transition import Disclosure


@dataclass(frozen=True)
class Host:
    """`published_ts` gives the latest published timestamp."""

    executor: Executor
    clock: Clock
    limits: Limits
    published_ts: Callable[[], int]
    identity_of: IdentityOf
    disclosure: Disclosure
    intake: Intake
    stages: Stages = field(default_factory=Stages)
    next_turn: NextTurn = field(default_factory=NextTurn)
