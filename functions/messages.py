"""What is said in a channel."""

from evolute import Id, MutationCtx, PaginationOptions, PaginationResult, QueryCtx, internal_mutation, mutation, query
from functions.schema import Channel, Message


@query
def list_recent(ctx: QueryCtx, channel: Id[Channel], limit: int = 50) -> list[Message]:
    """The newest first."""
    return ctx.db.query(Message).with_index("by_channel", channel=channel).order("desc").take(limit)


@query
def history(ctx: QueryCtx, channel: Id[Channel], paginationOpts: PaginationOptions) -> PaginationResult[Message]:
    """The newest first, page by page: for a list that grows as one scrolls."""
    return ctx.db.query(Message).with_index("by_channel", channel=channel).order("desc").paginate(paginationOpts)


@query
def search(ctx: QueryCtx, channel: Id[Channel], text: str, limit: int = 20) -> list[Message]:
    in_channel = ctx.db.query(Message).with_index("by_channel", channel=channel).order("desc")
    return in_channel.filter(lambda message: text.lower() in message["body"].lower()).take(limit)


@mutation
def send(
    ctx: MutationCtx,
    channel: Id[Channel],
    body: str,
    author: str = "anonymous",
    vanish_after_ms: float | None = None,
) -> Id[Message]:
    message = ctx.db.insert(Message, {"channel": channel, "author": author, "body": body})
    if vanish_after_ms is not None:
        ctx.scheduler.run_after(vanish_after_ms, vanish, message=message)
    return message


@internal_mutation
def vanish(ctx: MutationCtx, message: Id[Message]) -> None:
    ctx.db.delete(message)
