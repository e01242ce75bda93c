"""One note: a mutation writes it, a subscription shows it."""

from __future__ import annotations

from evolute import MutationCtx, QueryCtx, mutation, query


@mutation
def write(ctx: MutationCtx, name: str, body: str) -> None:
    note = ctx.db.query("notes").with_index("by_name", name=name).unique()
    if note is None:
        ctx.db.insert("notes", {"name": name, "body": body})
    else:
        ctx.db.patch(note["_id"], {"body": body})


@query
def read(ctx: QueryCtx, name: str) -> str | None:
    note = ctx.db.query("notes").with_index("by_name", name=name).unique()
    return None if note is None else str(note["body"])
