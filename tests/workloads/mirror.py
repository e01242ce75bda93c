"""Two tables that are always written together: no query, and no two queries of one time, see them differ."""

from __future__ import annotations

import itertools

from tests.unit.function_store import call
from tests.workloads.executor_load import Caller, Load, opened
from tests.workloads.watchers import Question, View

LEFT, RIGHT = (Question("mirror:side", f'{{"table":"{table}"}}') for table in ("left", "right"))


class Mirror:
    def __init__(self, names: int) -> None:
        self._names = names
        self._values = itertools.count()

    async def set_up(self, load: Load) -> None:
        for name in range(0, self._names, 2):
            await load.mutate("mirror:write", name=name, value=next(self._values))

    async def step(self, caller: Caller) -> None:
        random = caller.random
        name, value = random.randrange(self._names), next(self._values)
        match random.choices(("write", "remove", "compare and write", "both", "each"), (6, 3, 3, 2, 3))[0]:
            case "write":
                await caller.mutate("mirror:write", name=name, value=value)
            case "remove":
                await caller.mutate("mirror:write", name=name, value=None)
            case "compare and write":
                await caller.mutate("mirror:compare_and_write", name=name, value=value)
            case "both":
                left, right = opened(await caller.query("mirror:both"))
                assert left == right
            case "each":
                calls = [call("mirror:side", "query", table=table) for table in ("left", "right")]
                one, other = await caller.query_together(*calls)
                assert one.value == other.value, (one, other)

    async def check(self, load: Load) -> None:
        left, right = await load.query("mirror:both")
        assert left == right

    def questions(self) -> list[Question]:
        return [LEFT, RIGHT]

    def check_view(self, before: View, after: View) -> None:
        """Two subscriptions of one session, each run by itself."""
        if LEFT in after and RIGHT in after:
            assert after[LEFT] == after[RIGHT], after
