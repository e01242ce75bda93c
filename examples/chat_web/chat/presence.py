"""Who has a channel open.

The query reads no clock, so it is true for as long as its rows are: a visitor who falls silent is taken off the list by
a job, which every subscriber sees at once.
"""

from datetime import timedelta

from chat.people import Person, current_person
from chat.schema import Channel, Visitor
from evolute import Id, MutationCtx, QueryCtx, internal_mutation, mutation, query

SILENCE = timedelta(seconds=20)
SHOWN_MAX = 50


@query
def list_here(ctx: QueryCtx, channel: Id[Channel]) -> list[Person]:
    visitors = ctx.db.query(Visitor).with_index("by_channel", channel=channel).take(SHOWN_MAX)
    return [{"user": visitor["user"], "name": visitor["name"]} for visitor in visitors]


@mutation
def heartbeat(ctx: MutationCtx, channel: Id[Channel]) -> None:
    """To be called every few seconds for as long as the channel is open."""
    person = current_person(ctx)
    visitor = ctx.db.query(Visitor).with_index("by_channel", channel=channel, user=person["user"]).unique()
    if visitor is not None:
        ctx.db.patch(visitor["_id"], {"name": person["name"], "seen": ctx.now_ms})
        return
    arrived = ctx.db.insert(
        Visitor, {"channel": channel, "user": person["user"], "name": person["name"], "seen": ctx.now_ms}
    )
    ctx.scheduler.run_after(SILENCE, part_if_silent, visitor=arrived)


@mutation
def leave(ctx: MutationCtx, channel: Id[Channel]) -> None:
    person = current_person(ctx)
    visitor = ctx.db.query(Visitor).with_index("by_channel", channel=channel, user=person["user"]).unique()
    if visitor is not None:
        ctx.db.delete(visitor["_id"])


@internal_mutation
def part_if_silent(ctx: MutationCtx, visitor: Id[Visitor]) -> None:
    """Runs when the visitor would have been silent for long enough, and again later if that was not so."""
    row = ctx.db.get(visitor)
    if row is None:
        return
    silent_at = row["seen"] + SILENCE / timedelta(milliseconds=1)
    if ctx.now_ms < silent_at:
        ctx.scheduler.run_at(silent_at, part_if_silent, visitor=visitor)
    else:
        ctx.db.delete(visitor)
