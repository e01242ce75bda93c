"""Money moves and is neither made nor lost, in any snapshot that anybody sees."""

from __future__ import annotations

from typing import Any

from evolute import ConvexError, MutationCtx, QueryCtx, mutation, query


@mutation
def open_accounts(ctx: MutationCtx, count: int, money: int) -> None:
    for name in range(count):
        ctx.db.insert("accounts", {"name": name, "money": money})


def account(ctx: MutationCtx, name: int) -> dict[str, Any]:
    row = ctx.db.query("accounts").with_index("by_name", name=name).unique()
    if row is None:
        raise ConvexError(f"account {name} is gone")
    return dict(row)


@mutation
def transfer(ctx: MutationCtx, source: int, target: int, amount: int) -> int:
    payer, payee = account(ctx, source), account(ctx, target)
    amount = min(amount, int(payer["money"]))
    ctx.db.patch(payer["_id"], {"money": payer["money"] - amount})
    ctx.db.patch(payee["_id"], {"money": payee["money"] + amount})
    return amount


@mutation
def move(ctx: MutationCtx, name: int) -> None:
    """The same account in another row."""
    row = account(ctx, name)
    ctx.db.delete(row["_id"])
    ctx.db.insert("accounts", {"name": name, "money": row["money"]})


@mutation
def level(ctx: MutationCtx, expected: int) -> None:
    """Reads all accounts as a range, and makes the richest and the poorest equal."""
    rows = sorted(ctx.db.query("accounts").with_index("by_name").collect(), key=lambda row: int(row["money"]))
    found = sum(int(row["money"]) for row in rows)
    if found != expected:
        raise ConvexError(f"a mutation has seen {found} instead of {expected}")
    half = (rows[0]["money"] + rows[-1]["money"]) // 2
    ctx.db.patch(rows[-1]["_id"], {"money": rows[0]["money"] + rows[-1]["money"] - half})
    ctx.db.patch(rows[0]["_id"], {"money": half})


@query
def total(ctx: QueryCtx) -> int:
    return sum(int(row["money"]) for row in ctx.db.query("accounts").with_index("by_name").collect())
