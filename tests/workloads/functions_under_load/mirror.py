"""Two tables with the same rows, in every snapshot that anybody sees."""

from __future__ import annotations

from evolute import ConvexError, MutationCtx, QueryCtx, mutation, query


def rows_of(ctx: MutationCtx | QueryCtx, table: str) -> list[list[int]]:
    return [[int(row["name"]), int(row["value"])] for row in ctx.db.query(table).with_index("by_name").collect()]


def put(ctx: MutationCtx, table: str, name: int, value: int | None) -> None:
    row = ctx.db.query(table).with_index("by_name", name=name).unique()
    if row is not None and value is not None:
        ctx.db.patch(row["_id"], {"value": value})
    elif row is not None:
        ctx.db.delete(row["_id"])
    elif value is not None:
        ctx.db.insert(table, {"name": name, "value": value})


@mutation
def write(ctx: MutationCtx, name: int, value: int | None) -> None:
    """A new row, another value, or none any more."""
    put(ctx, "left", name, value)
    put(ctx, "right", name, value)


@mutation
def compare_and_write(ctx: MutationCtx, name: int, value: int) -> None:
    compare(ctx)
    put(ctx, "left", name, value)
    put(ctx, "right", name, value)
    compare(ctx)


def compare(ctx: MutationCtx) -> None:
    left, right = rows_of(ctx, "left"), rows_of(ctx, "right")
    if left != right:
        raise ConvexError(f"a mutation has seen {left} and {right}")


@query
def both(ctx: QueryCtx) -> list[list[list[int]]]:
    return [rows_of(ctx, "left"), rows_of(ctx, "right")]


@query
def side(ctx: QueryCtx, table: str) -> list[list[int]]:
    return rows_of(ctx, table)
