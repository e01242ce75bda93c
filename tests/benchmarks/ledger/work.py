"""A function that computes."""

from __future__ import annotations

from evolute import MutationCtx, mutation


def churn(rounds: int) -> int:
    """Arithmetic and nothing else, as much as `rounds` says."""
    value = 1
    for _ in range(rounds):
        value = (value * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return value


@mutation
def compute(ctx: MutationCtx, number: int, rounds: int) -> None:
    """Computes, and writes to the account of that number."""
    account = ctx.db.query("accounts").with_index("by_number", number=number).unique()
    assert account is not None
    ctx.db.patch(account["_id"], {"balance": churn(rounds)})
