"""Messages that arrive later, unless they are called off."""

from datetime import UTC, datetime, timedelta
from typing import TypedDict

from evolute import Id, MutationCtx, QueryCtx, internal_mutation, mutation, query
from functions.messages import send
from functions.schema import Channel, Reminder


class ReminderState(TypedDict):
    reminder: Reminder
    due: float
    state: str


@mutation
def remind_after(ctx: MutationCtx, channel: Id[Channel], body: str, minutes: float) -> Id[Reminder]:
    job = ctx.scheduler.run_after(timedelta(minutes=minutes), ring, channel=channel, body=body)
    return ctx.db.insert(Reminder, {"channel": channel, "body": body, "job": job})


@mutation
def remind_at(ctx: MutationCtx, channel: Id[Channel], body: str, time: str) -> Id[Reminder]:
    """`time` in ISO form; without an offset it is UTC."""
    due = datetime.fromisoformat(time)
    job = ctx.scheduler.run_at(due if due.tzinfo else due.replace(tzinfo=UTC), ring, channel=channel, body=body)
    return ctx.db.insert(Reminder, {"channel": channel, "body": body, "job": job})


@mutation
def cancel(ctx: MutationCtx, reminder: Id[Reminder]) -> None:
    row = ctx.db.get(reminder)
    if row is not None:
        ctx.scheduler.cancel(row["job"])


@query
def list_all(ctx: QueryCtx, channel: Id[Channel]) -> list[ReminderState]:
    """The runtime keeps the state of each job for a week after it has ended."""
    found: list[ReminderState] = []
    for reminder in ctx.db.query(Reminder).with_index("by_channel", channel=channel):
        job = ctx.db.system.get(reminder["job"])
        if job is not None:
            found.append({"reminder": reminder, "due": job["scheduledTime"], "state": job["state"]["kind"]})
    return found


@internal_mutation
def ring(ctx: MutationCtx, channel: Id[Channel], body: str) -> None:
    ctx.run_mutation(send, channel=channel, body=body, author="reminder")
