"""Transfers between few accounts: the sum of all money is the same in every snapshot that anybody sees."""

from __future__ import annotations

import asyncio

from evolute.database.transaction import Transaction
from tests.workloads.executor_load import Caller, Load, opened
from tests.workloads.watchers import Question, View

MONEY_EACH = 100
TOTAL = Question("bank:total")


class Bank:
    """Few accounts are many conflicts."""

    def __init__(self, accounts: int) -> None:
        self._accounts = accounts
        self._money = accounts * MONEY_EACH

    async def set_up(self, load: Load) -> None:
        await load.mutate("bank:open_accounts", count=self._accounts, money=MONEY_EACH)

    async def step(self, caller: Caller) -> None:
        random = caller.random
        match random.choices(("transfer", "move", "level", "total", "system"), (10, 2, 2, 4, 1))[0]:
            case "transfer":
                source, target = random.sample(range(self._accounts), 2)
                await caller.mutate("bank:transfer", source=source, target=target, amount=random.randint(0, 60))
            case "move":
                await caller.mutate("bank:move", name=random.randrange(self._accounts))
            case "level":
                await caller.mutate("bank:level", expected=self._money)
            case "total":
                assert opened(await caller.query("bank:total")) == self._money
            case "system":
                assert await caller.run_system(give_and_take) == self._money
        await asyncio.sleep(0)

    async def check(self, load: Load) -> None:
        assert await load.query("bank:total") == self._money

    def questions(self) -> list[Question]:
        return [TOTAL]

    def check_view(self, before: View, after: View) -> None:
        assert after.get(TOTAL, self._money) == self._money


def give_and_take(transaction: Transaction) -> int:
    """As a transaction of the server's own: one from the richest to the poorest."""
    rows = sorted(transaction.query("accounts").collect(), key=lambda row: int(row["money"]))
    poorest, richest = rows[0], rows[-1]
    transaction.patch(richest["_id"], {"money": int(richest["money"]) - 1})
    transaction.patch(poorest["_id"], {"money": int(poorest["money"]) + 1})
    return sum(int(row["money"]) for row in rows)
