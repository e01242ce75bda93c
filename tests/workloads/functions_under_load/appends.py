"""Lists that are only appended to, so that whoever has seen one knows what came before.

An even list is one row, an odd one has a row for each element.
"""

from __future__ import annotations

import time

from evolute import MutationCtx, QueryCtx, mutation, query


def values_of(ctx: MutationCtx | QueryCtx, name: int) -> list[int]:
    if name % 2:
        rows = ctx.db.query("items").with_index("by_place", name=name).collect()
        return [int(row["value"]) for row in rows]
    row = ctx.db.query("lists").with_index("by_name", name=name).unique()
    return [] if row is None else [int(value) for value in row["values"]]


def append(ctx: MutationCtx, name: int, value: int) -> None:
    """Of a list with a row for each element only the last is read."""
    if name % 2:
        last = ctx.db.query("items").with_index("by_place", name=name).order("desc").first()
        place = 0 if last is None else int(last["place"]) + 1
        ctx.db.insert("items", {"name": name, "place": place, "value": value})
        return
    row = ctx.db.query("lists").with_index("by_name", name=name).unique()
    if row is None:
        ctx.db.insert("lists", {"name": name, "values": [value]})
    else:
        ctx.db.patch(row["_id"], {"values": [*row["values"], value]})


@mutation
def read_and_append(
    ctx: MutationCtx, reads: list[int], appends: list[int], value: int, pause_ms: int
) -> list[list[int]]:
    """What was in the lists that are read, before the value was appended to the others or the same."""
    seen = [values_of(ctx, name) for name in reads]
    for name in appends:
        append(ctx, name, value)
    time.sleep(pause_ms / 1000)
    return seen


@query
def read(ctx: QueryCtx, reads: list[int]) -> list[list[int]]:
    return [values_of(ctx, name) for name in reads]
