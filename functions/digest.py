"""A summary of a channel, written by an action: it reads, works outside any transaction, and writes."""

from collections import Counter

from evolute import (
    ActionCtx,
    Id,
    MutationCtx,
    QueryCtx,
    action,
    daily,
    internal_action,
    internal_mutation,
    mutation,
    query,
)
from functions.channels import list_all
from functions.messages import list_recent
from functions.schema import Channel, Digest


@action
async def write(ctx: ActionCtx, channel: Id[Channel], limit: int = 200) -> Id[Digest]:
    messages = await ctx.run_query(list_recent, channel=channel, limit=limit)
    authors = Counter(message["author"] for message in messages)
    words = Counter(word for message in messages for word in message["body"].lower().split() if len(word) > 3)
    text = f"{_ranking(authors)} spoke of {_ranking(words)}." if messages else "Nobody said anything."
    return await ctx.run_mutation(store, channel=channel, messages=len(messages), text=text)


@internal_action
async def write_all(ctx: ActionCtx, limit: int = 200) -> int:
    """Every week; see crons.py."""
    channels = await ctx.run_query(list_all)
    for channel in channels:
        await ctx.run_action(write, channel=channel["_id"], limit=limit)
    return len(channels)


@mutation
def write_daily(ctx: MutationCtx, channel: Id[Channel], hour: int, timezone: str = "UTC") -> None:
    """From now on; asked for again, at another hour."""
    ctx.crons.set(f"digest of {channel}", daily(hour=hour, timezone=timezone), write, channel=channel)


@mutation
def stop_writing_daily(ctx: MutationCtx, channel: Id[Channel]) -> None:
    ctx.crons.remove(f"digest of {channel}")


@internal_mutation
def store(ctx: MutationCtx, channel: Id[Channel], messages: int, text: str) -> Id[Digest]:
    return ctx.db.insert(Digest, {"channel": channel, "messages": messages, "text": text})


@query
def latest(ctx: QueryCtx, channel: Id[Channel]) -> Digest | None:
    return ctx.db.query(Digest).with_index("by_channel", channel=channel).order("desc").first()


def _ranking(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(3))
