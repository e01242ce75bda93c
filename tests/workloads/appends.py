"""Transactions that read some lists and append to some: one order of all of them must explain what they have seen."""

from __future__ import annotations

import itertools

from tests.workloads.executor_load import Caller, DidNotHappen, Load, Unknown, opened
from tests.workloads.serializability import Done, check
from tests.workloads.watchers import Question, View

READS_MAX, APPENDS_MAX = 3, 3
# As slow as that a mutation is overtaken: what was sent behind it is sent to another worker as well.
SLOW_MS = 300


class Appends:
    """Short lists, so that readings stay small: a caller moves on to new ones when a list has had so many values."""

    def __init__(self, lists: int, values_each: int = 60) -> None:
        self._lists = lists
        self._values_each = values_each
        self._values = itertools.count(1)
        self._appended = 0
        self.history: list[Done] = []

    async def set_up(self, load: Load) -> None:
        return

    async def step(self, caller: Caller) -> None:
        random = caller.random
        first = self._appended // (self._lists * self._values_each) * self._lists
        names = range(first, first + self._lists)
        reads = random.sample(names, random.randint(0, min(READS_MAX, len(names))))
        appends = random.sample(names, random.randint(1, min(APPENDS_MAX, len(names))))
        if random.random() < 0.25:
            appends = []
        value = next(self._values)
        done = Done(next(caller.load.moments), dict.fromkeys(appends, value))
        try:
            if not appends and random.random() < 0.7:
                done.query = True
                outcome = await caller.query("appends:read", reads=reads)
            else:
                pause_ms = SLOW_MS if random.random() < 0.002 else 0
                arguments = {"reads": reads, "appends": appends, "value": value, "pause_ms": pause_ms}
                outcome = await caller.mutate("appends:read_and_append", **arguments)
        except DidNotHappen:
            return
        except Unknown:
            self.history.append(done)
            raise
        done.ended, done.ts = next(caller.load.moments), outcome.ts
        done.reads = dict(zip(reads, opened(outcome), strict=True))
        self._appended += len(appends)
        self.history.append(done)

    async def check(self, load: Load) -> None:
        names = sorted({name for done in self.history for name in done.appends})
        last = {name: (await load.query("appends:read", reads=[name]))[0] for name in names}
        load.report.edges = check(self.history, last)

    def questions(self) -> list[Question]:
        """Also of some lists that nobody has begun yet."""
        return [Question("appends:read", f'{{"reads":[{name}]}}') for name in range(2 * self._lists)]

    def check_view(self, before: View, after: View) -> None:
        """What has been shown is never taken back."""
        for question in self.questions():
            if question in before and question in after:
                (earlier,), (later,) = before[question], after[question]
                assert later[: len(earlier)] == earlier, (question, earlier, later)
