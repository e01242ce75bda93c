"""Rooms to talk in. There is always one."""

import re

from chat.people import current_person
from chat.schema import Channel
from evolute import ConvexError, MutationCtx, QueryCtx, mutation, query

FIRST = "general"
NAME_LENGTH_MAX = 32


@query
def list_all(ctx: QueryCtx) -> list[Channel]:
    return ctx.db.query(Channel).with_index("by_name").collect()


@mutation
def create(ctx: MutationCtx, name: str) -> Channel:
    """Two people who create the same channel at once get the same one: the name that was looked up is guarded."""
    current_person(ctx)
    tidy = re.sub(r"[^\w]+", "-", name.lower()).strip("-_")[:NAME_LENGTH_MAX]
    if not tidy:
        raise ConvexError({"code": "NoName", "message": "A channel needs a name."})
    existing = ctx.db.query(Channel).with_index("by_name", name=tidy).first()
    if existing is not None:
        return existing
    created = ctx.db.get(ctx.db.insert(Channel, {"name": tidy}))
    assert created is not None
    return created


@mutation
def open_first(ctx: MutationCtx) -> None:
    """Whoever comes first finds a room."""
    if ctx.db.query(Channel).first() is None:
        ctx.db.insert(Channel, {"name": FIRST})
