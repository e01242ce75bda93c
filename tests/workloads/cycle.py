"""A permutation that every turn changes at three places: it stays one cycle through all nodes."""

from __future__ import annotations

from tests.workloads.executor_load import Caller, Load, opened
from tests.workloads.watchers import Question, View


class Cycle:
    def __init__(self, nodes: int) -> None:
        assert nodes > 3
        self._nodes = nodes
        self._walk = Question("cycle:walk", f'{{"steps":{nodes}}}')

    async def set_up(self, load: Load) -> None:
        await load.mutate("cycle:draw", count=self._nodes)

    async def step(self, caller: Caller) -> None:
        if caller.random.random() < 0.8:
            await caller.mutate("cycle:turn", start=caller.random.randrange(self._nodes))
        else:
            self._check(opened(await caller.query("cycle:walk", steps=self._nodes)))

    async def check(self, load: Load) -> None:
        self._check(await load.query("cycle:walk", steps=self._nodes))

    def questions(self) -> list[Question]:
        return [self._walk]

    def check_view(self, before: View, after: View) -> None:
        if self._walk in after:
            self._check(after[self._walk])

    def _check(self, passed: list[int]) -> None:
        assert passed[-1] == 0, passed
        assert sorted(passed[:-1]) == list(range(self._nodes)), passed
