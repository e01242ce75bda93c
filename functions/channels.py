"""Rooms to talk in."""

from evolute import ConvexError, Id, MutationCtx, QueryCtx, mutation, query
from functions.schema import Channel


@query
def list_all(ctx: QueryCtx) -> list[Channel]:
    return ctx.db.query(Channel).with_index("by_name").collect()


@mutation
def create(ctx: MutationCtx, name: str) -> Id[Channel]:
    """Two people who create the same channel at once cannot both succeed: the name that was looked up is guarded."""
    if ctx.db.query(Channel).with_index("by_name", name=name).first() is not None:
        raise ConvexError({"code": "NameTaken", "name": name})
    return ctx.db.insert(Channel, {"name": name})
