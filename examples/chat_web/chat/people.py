"""Who is asking: whoever has signed in. Everybody else may read."""

import hashlib
from typing import TypedDict

from evolute import ConvexError, MutationCtx, QueryCtx, query

NAME_LENGTH_MAX = 40


class Person(TypedDict):
    """`user` is the same for ever, and says nothing of where or as whom he signed in; `name` is what he is called."""

    user: str
    name: str


@query
def me(ctx: QueryCtx) -> Person | None:
    return _person(ctx)


def current_person(ctx: MutationCtx) -> Person:
    """Raises ConvexError for a visitor who has not signed in."""
    person = _person(ctx)
    if person is None:
        raise ConvexError({"code": "NotSignedIn", "message": "Sign in to take part."})
    return person


def _person(ctx: QueryCtx | MutationCtx) -> Person | None:
    identity = ctx.auth.get_user_identity()
    if identity is None:
        return None
    user = hashlib.sha256(identity["tokenIdentifier"].encode()).hexdigest()[:16]
    name = str(identity.get("name") or "").strip()[:NAME_LENGTH_MAX]
    return {"user": user, "name": name or "somebody"}
