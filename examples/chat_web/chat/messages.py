"""What is said in a channel."""

from chat.people import current_person
from chat.schema import Channel, Message
from evolute import (
    ConvexError,
    Id,
    MutationCtx,
    PaginationOptions,
    PaginationResult,
    QueryCtx,
    internal_mutation,
    mutation,
    query,
)

BODY_LENGTH_MAX = 4000
KEY_LENGTH_MAX = 64
LIFE_MS_MIN, LIFE_MS_MAX = 1000, 24 * 60 * 60 * 1000


@query
def history(ctx: QueryCtx, channel: Id[Channel], paginationOpts: PaginationOptions) -> PaginationResult[Message]:
    """The newest first, page by page."""
    return ctx.db.query(Message).with_index("by_channel", channel=channel).order("desc").paginate(paginationOpts)


@mutation
def send(ctx: MutationCtx, channel: Id[Channel], body: str, key: str, life_ms: float | None = None) -> Id[Message]:
    """A message with a `life_ms` is deleted after that time, by a job that is scheduled in the same transaction."""
    person = current_person(ctx)
    text = body.strip()
    if not text:
        raise ConvexError({"code": "EmptyMessage", "message": "There is nothing to send."})
    if len(text) > BODY_LENGTH_MAX:
        raise ConvexError({"code": "LongMessage", "message": f"A message has at most {BODY_LENGTH_MAX} characters."})
    if ctx.db.get(channel) is None:
        raise ConvexError({"code": "NoChannel", "message": "This channel is gone."})
    message = ctx.db.insert(
        Message,
        {
            "channel": channel,
            "user": person["user"],
            "author": person["name"],
            "key": key[:KEY_LENGTH_MAX],
            "body": text,
        },
    )
    if life_ms is not None:
        vanishes_at = ctx.now_ms + min(max(life_ms, LIFE_MS_MIN), LIFE_MS_MAX)
        ctx.db.patch(message, {"vanishes_at": vanishes_at})
        ctx.scheduler.run_at(vanishes_at, vanish, message=message)
    return message


@internal_mutation
def vanish(ctx: MutationCtx, message: Id[Message]) -> None:
    if ctx.db.get(message) is not None:
        ctx.db.delete(message)
