"""Rows that are put, moved and removed, and one index after the other over them."""

from __future__ import annotations

from typing import Any

from evolute import MutationCtx, QueryCtx, mutation, query


@mutation
def seed(ctx: MutationCtx, first: int, count: int) -> None:
    for number in range(first, first + count):
        ctx.db.insert("rows", {"owner": "nobody", "number": number, "n": number % 97})


@mutation
def put(ctx: MutationCtx, owner: str, number: int, n: int) -> None:
    """Makes the row if it is not there."""
    row = ctx.db.query("rows").with_index("by_owner", owner=owner, number=number).unique()
    if row is None:
        ctx.db.insert("rows", {"owner": owner, "number": number, "n": n})
    else:
        ctx.db.patch(row["_id"], {"n": n})


@mutation
def remove(ctx: MutationCtx, owner: str, number: int) -> None:
    row = ctx.db.query("rows").with_index("by_owner", owner=owner, number=number).unique()
    if row is not None:
        ctx.db.delete(row["_id"])


@query
def through(ctx: QueryCtx, index: str) -> list[Any]:
    """All rows in the order of an index: owner, number, n."""
    return [[row["owner"], row["number"], row["n"]] for row in ctx.db.query("rows").with_index(index)]
