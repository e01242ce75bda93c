"""Nodes that name the next one. Every turn changes three of them, and they stay one cycle."""

from __future__ import annotations

from typing import Any

from evolute import ConvexError, MutationCtx, QueryCtx, mutation, query


@mutation
def draw(ctx: MutationCtx, count: int) -> None:
    for number in range(count):
        ctx.db.insert("nodes", {"number": number, "next": (number + 1) % count})


def node(ctx: MutationCtx | QueryCtx, number: int) -> dict[str, Any]:
    row = ctx.db.query("nodes").with_index("by_number", number=number).unique()
    if row is None:
        raise ConvexError(f"node {number} is gone")
    return dict(row)


@mutation
def turn(ctx: MutationCtx, start: int) -> None:
    """Of a, b, c, d it makes a, c, b, d."""
    a = node(ctx, start)
    b = node(ctx, a["next"])
    c = node(ctx, b["next"])
    ctx.db.patch(a["_id"], {"next": c["number"]})
    ctx.db.patch(b["_id"], {"next": c["next"]})
    ctx.db.patch(c["_id"], {"next": b["number"]})


@query
def walk(ctx: QueryCtx, steps: int) -> list[int]:
    """The nodes from the first one on."""
    passed = [0]
    for _ in range(steps):
        passed.append(int(node(ctx, passed[-1])["next"]))
    return passed
