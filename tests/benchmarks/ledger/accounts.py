"""Money that moves between accounts and never appears or disappears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evolute import MutationCtx, QueryCtx, Range, mutation, query

if TYPE_CHECKING:  # by the name that the type checker has for this folder
    from tests.benchmarks.ledger.schema import Account
else:
    from ledger.schema import Account


@mutation
def seed(ctx: MutationCtx, first: int, count: int, balance: int) -> None:
    for number in range(first, first + count):
        ctx.db.insert("accounts", {"number": number, "balance": balance})


@mutation
def transfer(ctx: MutationCtx, from_id: int, to_id: int, amount: int) -> None:
    source = ctx.db.query("accounts").with_index("by_number", number=from_id).unique()
    target = ctx.db.query("accounts").with_index("by_number", number=to_id).unique()
    if source is None or target is None:
        raise ValueError(f"there is no account {from_id if source is None else to_id}")
    ctx.db.patch(source["_id"], {"balance": source["balance"] - amount})
    ctx.db.patch(target["_id"], {"balance": target["balance"] + amount})


@query
def total(ctx: QueryCtx, first: int, count: int) -> int:
    """The sum of the balances of some accounts."""
    accounts = ctx.db.query("accounts").with_index("by_number", number=Range(gte=first, lt=first + count))
    return sum(account["balance"] for account in accounts)


@query
def balance(ctx: QueryCtx, number: int) -> int:
    account = ctx.db.query("accounts").with_index("by_number", number=number).unique()
    if account is None:
        raise ValueError(f"there is no account {number}")
    return int(account["balance"])


@query
def numbered(ctx: QueryCtx, first: int, count: int) -> list[Account]:
    """Some accounts, as they are."""
    return ctx.db.query(Account).with_index("by_number", number=Range(gte=first, lt=first + count)).collect()
