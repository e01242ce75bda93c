"""The author's API as a type checker sees it: what an editor underlines is part of the product."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import evolute

ROOT = Path(__file__).parents[2]

RIGHT_AND_WRONG = """
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from evolute import (
    UNSET, ActionCtx, BlockingActionCtx, ConvexError, Crons, Document, Function, Id, Int64, MutationCtx,
    PaginationOptions, PaginationResult, QueryCtx, Range, Schedule, action, cron, daily, define_schema,
    define_table, hourly, internal_mutation, interval, monthly, mutation, q, query, v, weekly,
)

class Channel(Document):
    name: str

class Message(Document):
    channel: Id[Channel]
    body: str

@dataclass
class Point:
    x: float

schema = define_schema(channels=define_table(Channel), messages=define_table(Message).index("by_channel", ["channel"]))

@query
def recent(ctx: QueryCtx, channel: Id[Channel], limit: int = 50) -> list[Message]:
    found = ctx.db.query(Message).with_index("by_channel", channel=channel, _creationTime=Range(gt=3)).order("desc")
    ctx.db.query("untyped").with_index("by_x", lambda q: q.eq("x", 1).gt("y", 2)).filter(lambda row: row["z"] > 1)
    assert_type(found.first(), Message | None)
    assert_type(ctx.db.query(Point).collect(), list[Point])
    assert_type(ctx.db.query("points").unique(), dict[str, Any] | None)
    assert_type(ctx.db.get(channel), Channel | None)
    assert_type(ctx.db.get(Channel, channel), Channel | None)
    assert_type(ctx.db.get("channels", "x"), dict[str, Any] | None)
    ctx.db.query(Message).full_table_scan().filter(q.and_(q.eq(q.field("body"), "x"), q.not_(q.lt(1, q.field("n")))))
    ctx.db.query(Message).filter(q.field("read")).filter(q.literal(True)).filter(q.gt(q.add(q.field("n"), 1), UNSET))
    assert_type(ctx.now, datetime)
    assert_type(ctx.db.normalize_id(Channel, "x"), Id[Channel] | None)
    return [row for row in found if row["body"] and ctx.random.random() < 1.0][:limit]

@query
def pages(ctx: QueryCtx, channel: Id[Channel], paginationOpts: PaginationOptions) -> PaginationResult[Message]:
    found = ctx.db.query(Message).with_index("by_channel", channel=channel)
    assert_type(found.paginate(paginationOpts).page, list[Message])
    assert_type(found.paginate(num_items=3, cursor=None).map(lambda row: row["body"]), PaginationResult[str])
    ctx.db.query("untyped").paginate({"numItems": 3, "cursor": None}, maximum_rows_read=10)
    return found.paginate(paginationOpts, num_items=5)

@internal_mutation
def vanish(ctx: MutationCtx, message: Id[Message], key: str = "", function: int = 0, delay: int = 1) -> None:
    ctx.db.delete(message)

@mutation
def send(ctx: MutationCtx, /, channel: Id[Channel], body: str, **rest: Any) -> Id[Message]:
    message = ctx.db.insert(Message, {"channel": channel, "body": body})
    assert_type(message, Id[Message])
    ctx.db.patch(message, {"body": UNSET})
    ctx.db.patch(Message, message, {"body": ""})
    ctx.db.replace("messages", "x", {"channel": channel, "body": ""})
    for row in ctx.db.query(Message):
        ctx.db.delete(row["_id"])
    job = ctx.scheduler.run_after(timedelta(seconds=5), vanish, message=message, key="x", delay=3, function=4)
    ctx.scheduler.run_at(datetime.now(UTC), tell, message=message)
    ctx.scheduler.run_after(5, "notes:add", delay=1, function=2, anything=Int64(3))
    ctx.scheduler.cancel(job)
    ctx.crons.set("vanish", interval(minutes=5), vanish, message=message, key="x", delay=3, function=4)
    ctx.crons.set("by name", cron("*/5 * * * *", timezone="Europe/Berlin"), "notes:add", name=1, schedule=2, function=3)
    ctx.crons.remove("vanish")
    assert_type(ctx.run_query(recent, channel=channel), list[Message])
    assert_type(ctx.run_mutation(send, channel=channel, body=body), Id[Message])
    assert_type(recent(ctx, channel, limit=3), list[Message])
    helper(ctx)
    return message

@action(pool="cpu")
def render(ctx: BlockingActionCtx, message: Id[Message]) -> bytes:
    assert_type(ctx.run_query("messages:recent", channel="x"), Any)
    assert_type(ctx.run_mutation(vanish, message=message), None)
    assert_type(ctx.run_action(tell, message=message), int)
    assert_type(ctx.run_action(render, message=message), bytes)
    assert_type(render(ctx, message), bytes)
    ctx.scheduler.cancel(ctx.scheduler.run_after(0, vanish, message=message))
    ctx.scheduler.options(key="k").run_at(ctx.now, render, message=message)
    assert_type(ctx.auth.get_user_identity(), dict[str, Any] | None)
    return b""

@action
async def tell(ctx: ActionCtx, message: Id[Message]) -> int:
    assert_type(await ctx.run_query("messages:recent", channel="x"), Any)
    await ctx.run_mutation(vanish, message=message)
    assert_type(await ctx.run_action(tell, message=message), int)
    assert_type(await ctx.run_action(render, message=message), bytes)
    assert_type(await tell(ctx, message), int)
    await ctx.scheduler.run_after(0, vanish, message=message)
    identity = ctx.auth.get_user_identity()
    if identity is None:
        raise ConvexError({"code": "Anonymous"})
    return len(identity["subject"])

paging = {"limit": v.optional(v.number()), "after": v.string()}

@query(args={**paging, "channel": v.id("channels")}, returns=v.array(v.any()))
def page(ctx: QueryCtx, channel: str, after: str, limit: float = 10) -> list[Message]:
    return ctx.run_query(page, channel=channel, after=after)

@mutation(pool="cpu", args=v.object(paging).partial(), returns={"done": v.boolean()})
def mark(ctx: MutationCtx, after: str = "", limit: float = 10) -> dict[str, bool]:
    assert_type(ctx.run_mutation(mark, after=""), dict[str, bool])
    return {"done": True}

@mutation(args=v.union(v.object(paging), v.object({"all": v.boolean()})))
def either(ctx: MutationCtx, after: str = "", limit: float = 10, all: bool = False) -> None: ...

@mutation(args=v.any())
def whatever(ctx: MutationCtx, /, **rest: Any) -> None: ...

@action(args={}, returns=v.null())
async def explicit(ctx: ActionCtx) -> None:
    assert_type(await ctx.run_query(page, channel="", after="", limit=1), list[Message])

crons = Crons()
crons.add("tell", daily(hour=8, timezone="Europe/Berlin"), tell, message=Id("x"))
crons.add("vanish", weekly(day="monday", hour=8, minute=30), vanish, message=Id("x"), key="k", function=3)
crons.add("by name", interval(timedelta(hours=1)), "notes:add", name=1, schedule=2, function=3)
schedules: list[Schedule] = [hourly(), hourly(minute=5), monthly(day=31, hour=0)]

def helper(ctx: QueryCtx) -> None:
    functions: list[Function[..., object]] = [recent, send, tell]
    print(functions, ctx.db.query("channels").take(3))

def wrong(ctx: MutationCtx, m: Id[Message], c: Id[Channel]) -> None:
    ctx.scheduler.run_after(5, vanish, mesage=m)  # wrong: no such argument
    ctx.scheduler.run_after(5, vanish, message=c)  # wrong: an id of another table
    ctx.scheduler.run_after(5, vanish)  # wrong: an argument is missing
    ctx.scheduler.run_after(5, recent, channel=c)  # wrong: a query cannot be scheduled
    ctx.scheduler.run_at("tomorrow", vanish, message=m)  # wrong: not a time
    ctx.crons.set("a", interval(minutes=5), vanish)  # wrong: an argument is missing
    ctx.crons.set("a", timedelta(minutes=5), vanish, message=m)  # wrong: not a schedule
    ctx.run_query(send, channel=c, body="")  # wrong: not a query
    ctx.run_mutation(recent, channel=c)  # wrong: not a mutation
    ctx.run_query(recent, channel=c, limit="3")  # wrong: not a number
    ctx.db.query(Message).collect()[0]["text"]  # wrong: no such field
    ctx.db.query(Message).order("down")  # wrong: no such order
    ctx.db.patch("message", {})  # wrong: not an id
    ctx.db.query(Message).paginate(numItems=3)  # wrong: no such argument
    ctx.db.query(Message).filter(q.add(1, 2))  # wrong: not a condition
    ctx.db.query(Message).filter(q.and_(q.literal(1)))  # wrong: not a condition

crons.add("a", hourly(), tell, mesage=Id("x"))  # wrong: no such argument
crons.add("a", hourly(), recent, channel=Id("x"))  # wrong: a query cannot be scheduled
crons.add("a", weekly(day="Monday", hour=1), "notes:add")  # wrong: no such day
crons.add("a", daily(minute=1), "notes:add")  # wrong: when is missing

def wrong_in_queries(ctx: QueryCtx, m: Id[Message]) -> None:
    ctx.db.insert(Message, {})  # wrong: queries only read
    ctx.scheduler  # wrong: queries schedule nothing
    ctx.crons  # wrong: queries make no crons

async def wrong_in_actions(ctx: ActionCtx, m: Id[Message]) -> int:
    ctx.db  # wrong: actions have no transaction
    ctx.run_mutation(vanish, message=m)  # wrong: not awaited
    return await ctx.run_action(tell, message=3)  # wrong: not an id

@action  # wrong: an action that is a plain def gets a BlockingActionCtx
def blocking(ctx: ActionCtx) -> None: ...

@query(args={"text": str})  # wrong: not a validator
def hinted(ctx: QueryCtx, text: str) -> None: ...

@query(args=v.string())  # wrong: not an object
def spoken(ctx: QueryCtx, text: str) -> None: ...

@mutation(returns=v.optional(v.null()))  # wrong: only a field is optional
def absent(ctx: MutationCtx) -> None: ...

@mutation(args={})  # wrong: a mutation gets no ActionCtx
def acting(ctx: ActionCtx) -> None: ...

def wrong_in_pages(ctx: QueryCtx) -> None:
    ctx.run_query(page, channel="")  # wrong: an argument is missing
    v.array(v.optional(v.null()))  # wrong: only a field is optional
    v.object({"a": v.string})  # wrong: not called

def wrong_in_blocking_actions(ctx: BlockingActionCtx, m: Id[Message]) -> int:
    ctx.db  # wrong: actions have no transaction
    ctx.run_query(vanish, message=m)  # wrong: not a query
    ctx.scheduler.run_after(5, vanish)  # wrong: an argument is missing
    return ctx.run_action(render, message=3)  # wrong: not an id

@query  # wrong: a query gets no MutationCtx
def writing(ctx: MutationCtx) -> None: ...

from evolute import querry  # wrong: no such name
"""


def mypy(*arguments: str) -> str:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.stdout


def test_right_calls_pass_and_each_wrong_one_is_an_error(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(RIGHT_AND_WRONG)
    output = mypy("--enable-error-code", "unused-awaitable", str(sample))

    lines = RIGHT_AND_WRONG.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if "# wrong" in line}
    reported = {int(line.split(":")[1]) for line in output.splitlines() if ": error:" in line}
    assert reported == expected, output


def test_the_demo_functions_are_strictly_typed() -> None:
    assert mypy("functions") == ""


def test_every_public_name_comes_from_the_module_that_defines_it() -> None:
    for name in evolute.__all__:
        value = getattr(evolute, name)
        assert getattr(value, "__name__", name).removeprefix("evolute.values.") == name
        assert name in dir(evolute)
    assert evolute.query.__module__ == "evolute.registry.decorators"
    assert not hasattr(evolute, "TimeLimit")
    assert not hasattr(evolute, "Conflict")


def test_importing_a_part_imports_nothing_of_the_facade() -> None:
    program = "import sys, evolute.errors; print([name for name in sys.modules if name.startswith('evolute.')])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['evolute.errors']"


def test_authoring_loads_no_server() -> None:
    program = "import sys; from evolute import *; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "evolute.registry.decorators" in loaded
    for module in ("evolute.database.committer", "evolute.database.write_log", "asyncio", "lmdb", "starlette"):
        assert module not in loaded
