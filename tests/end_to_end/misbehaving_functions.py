"""A functions folder in which everything goes wrong, each function in a way of its own, and one that is well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

SCHEMA = """
from evolute import Document, define_schema, define_table

class Item(Document):
    n: int

schema = define_schema(items=define_table(Item).index("by_n", ["n"]))
"""

WELL = """
from typing import Any
from evolute import ActionCtx, Id, Int64, MutationCtx, QueryCtx, action, internal_query, mutation, query
from functions.schema import Item

@mutation
def add(ctx: MutationCtx) -> int:
    row = ctx.db.query("counters").first()
    if row is None:
        ctx.db.insert("counters", {"n": 1})
        return 1
    ctx.db.patch(row["_id"], {"n": row["n"] + 1})
    return row["n"] + 1

@query
def count(ctx: QueryCtx) -> int:
    row = ctx.db.query("counters").first()
    return 0 if row is None else row["n"]

@query
def echo(ctx: QueryCtx, value: Any = None) -> Any:
    return value

@query
def typed(ctx: QueryCtx, whole: int, text: str = "", inner: list[dict[str, int]] = []) -> int:
    return whole

@query
def of_item(ctx: QueryCtx, item: Id[Item]) -> bool:
    return ctx.db.get(item) is not None

@internal_query
def hidden(ctx: QueryCtx) -> None: ...

@action
async def pause(ctx: ActionCtx) -> int:
    return await ctx.run_query(count)

@mutation
def insert_any(ctx: MutationCtx, table: str, fields: Any) -> str:
    return ctx.db.insert(table, fields)

@mutation
def patch_any(ctx: MutationCtx, id: Any, fields: Any) -> None:
    ctx.db.patch(id, fields)

@mutation
def delete_any(ctx: MutationCtx, id: Any) -> None:
    ctx.db.delete(id)

@query
def get_any(ctx: QueryCtx, id: Any) -> Any:
    return ctx.db.get(id)

@query
def rows(ctx: QueryCtx, table: str) -> int:
    return len(ctx.db.query(table).collect())

@mutation
def later(ctx: MutationCtx, delay: Any, target: str = "well:add", args: Any = {}) -> str:
    return ctx.scheduler.run_after(delay, target, **args)

@mutation
def at(ctx: MutationCtx, time: Any) -> str:
    return ctx.scheduler.run_at(time, "well:add")

@mutation
def cancel(ctx: MutationCtx, job: Any) -> None:
    ctx.scheduler.cancel(job)

@action
async def action_later(ctx: ActionCtx, delay: Any, target: str = "well:add") -> str:
    return await ctx.scheduler.run_after(delay, target)

@action
async def action_cancel(ctx: ActionCtx, job: Any) -> None:
    await ctx.scheduler.cancel(job)

@query
def job_error(ctx: QueryCtx, job: str) -> Any:
    row = ctx.db.system.get(job)
    return None if row is None else row["state"].get("error")
"""

RESULTS = """
import datetime, decimal, math
from typing import Any
from evolute import ActionCtx, QueryCtx, action, query

def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value

class Thing:
    def __repr__(self):
        raise ValueError("no picture")

circle: list[Any] = []
circle.append(circle)

MAKERS = {
    "set": lambda: {1},
    "tuple": lambda: {"pair": (1, 2)},
    "datetime": lambda: [datetime.datetime(2024, 1, 1)],
    "decimal": lambda: decimal.Decimal(1),
    "object": lambda: {"a": [Thing()]},
    "huge": lambda: 2**60,
    "key": lambda: {"schlüssel": 1},
    "dollar": lambda: {"a": {"$b": 1}},
    "number key": lambda: {1: 2},
    "surrogate": lambda: {"a": ["\\ud800"]},
    "circle": lambda: circle,
    "deep": lambda: deep(65),
    "deepest": lambda: deep(64),
    "long": lambda: "x" * (2 << 20),
    "items": lambda: {"a": [0] * 8193},
    "fields": lambda: {f"f{n}": n for n in range(1025)},
    "function": lambda: deep,
    "generator": lambda: (n for n in range(3)),
    "nan": lambda: [math.nan, math.inf, -math.inf, -0.0],
}

@query
def give(ctx: QueryCtx, what: str):
    return MAKERS[what]()

@action
async def give_later(ctx: ActionCtx, what: str):
    return MAKERS[what]()

@query
def wrongly_typed(ctx: QueryCtx) -> list[dict[str, int]]:
    return [{"a": 1}, {"b": "two"}]

@query
def unread(ctx: QueryCtx):
    return ctx.db.query("items")

@query
def unread_part(ctx: QueryCtx):
    return {"rows": ctx.db.query("items").with_index("by_n", n=1)}

@action
async def coroutine(ctx: ActionCtx):
    return ctx.run_query("well:count")
"""

RAISES = """
import builtins, os, sys
from typing import Any
from evolute import ActionCtx, ConvexError, MutationCtx, QueryCtx, action, internal_mutation, mutation, query

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

class Forgetful(ConvexError):
    def __init__(self):
        pass

def noted() -> BaseException:
    error = ValueError("with notes")
    error.__notes__ = 7
    return error

def recurse(n: int = 0) -> int:
    return recurse(n + 1) + 1

class Loop(BaseException): ...

def raise_(what: str) -> Any:
    match what:
        case "SystemExit":
            sys.exit(3)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "GeneratorExit":
            raise GeneratorExit
        case "StopIteration":
            raise StopIteration
        case "BaseException":
            raise Loop("of my own")
        case "Unprintable":
            raise Unprintable
        case "data":
            raise ConvexError({"when": {1, 2}})
        case "surrogate data":
            raise ConvexError("\\ud800")
        case "Forgetful":
            raise Forgetful
        case "notes":
            raise noted()
        case "surrogate":
            raise ValueError("half a \\ud83d pair")
        case "long":
            raise ValueError("x" * 1_000_000)
        case "group":
            raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])
        case "recursion":
            return recurse()

@query
def in_query(ctx: QueryCtx, what: str):
    return raise_(what)

@mutation
def in_mutation(ctx: MutationCtx, what: str):
    ctx.db.insert("never", {"what": what})
    return raise_(what)

@action
async def in_action(ctx: ActionCtx, what: str):
    return raise_(what)

@internal_mutation
def in_job(ctx: MutationCtx) -> None:
    raise_("surrogate")

@query
def prints(ctx: QueryCtx, what: str) -> str:
    if what == "megabyte":
        print("x" * 1_000_000)
    elif what == "lines":
        for n in range(1000):
            print("line", n)
    elif what == "surrogate":
        print("half a \\ud83d pair")
    elif what == "closed":
        print("before")
        sys.stdout.close()
        print("after")
    elif what == "replaced":
        sys.stdout = None
    elif what == "stderr":
        sys.stderr.close()
    return what

@mutation
def prints_and_writes(ctx: MutationCtx) -> str:
    print("half a \\ud83d pair")
    ctx.db.insert("printed", {})
    return "ok"

@mutation
def dies(ctx: MutationCtx) -> None:
    ctx.db.insert("never", {})
    os._exit(9)

@query
def dies_reading(ctx: QueryCtx) -> None:
    os._exit(9)

@action
async def dies_acting(ctx: ActionCtx) -> None:
    os._exit(9)

@mutation
def without(ctx: MutationCtx, builtin: str) -> None:
    ctx.db.insert("never", {})
    delattr(builtins, builtin)

@action
async def without_later(ctx: ActionCtx, builtin: str) -> None:
    delattr(builtins, builtin)

@query
def shallow(ctx: QueryCtx) -> None:
    sys.setrecursionlimit(20)

@query
def hungry(ctx: QueryCtx) -> int:
    return len(b"x" * (8 << 30))

@mutation
def deep_insert(ctx: MutationCtx) -> int:
    \"\"\"Runs out of stack inside `ctx` again and again, and swallows it.\"\"\"
    done = 0

    def down(n: int) -> None:
        nonlocal done
        try:
            down(n + 1)
        except RecursionError:
            pass
        try:
            ctx.db.insert(f"deep{n % 50}", {"n": n})
            done += 1
        except RecursionError:
            pass

    down(0)
    return done
"""

KEEPS = """
import asyncio, threading
from typing import Any
from evolute import ActionCtx, MutationCtx, QueryCtx, action, mutation, query

kept: dict[str, Any] = {}

@mutation
def keep(ctx: MutationCtx) -> None:
    for n in range(3):
        ctx.db.insert("items", {"n": n})
    rows = iter(ctx.db.query("items"))
    next(rows)
    kept.update(ctx=ctx, query=ctx.db.query("items"), rows=rows, db=ctx.db, scheduler=ctx.scheduler)

USES = {
    "ctx": lambda: kept["ctx"].db.query("items").collect(),
    "run": lambda: kept["ctx"].run_query("well:count"),
    "query": lambda: kept["query"].collect(),
    "rows": lambda: next(kept["rows"]),
    "db": lambda: kept["db"].insert("items", {"n": 9}),
    "scheduler": lambda: kept["scheduler"].run_after(0, "well:add"),
    "action": lambda: kept["action"],
}

@mutation
def use(ctx: MutationCtx, what: str) -> str:
    \"\"\"Keeps and then uses in the next call of the same worker; None if another one has it.\"\"\"
    if "ctx" not in kept:
        return "nothing kept"
    USES[what]()
    return "used"

@mutation
def forget(ctx: MutationCtx) -> None:
    kept.clear()

@mutation
def nested_keeps(ctx: MutationCtx) -> Any:
    ctx.run_mutation(keep)
    return kept["ctx"].db.query("items").collect()

def act_on(ctx: ActionCtx) -> Any:
    return asyncio.run(ctx.run_query("well:count"))

@action
async def from_thread(ctx: ActionCtx) -> Any:
    return await asyncio.to_thread(act_on, ctx)

@action
async def keep_action(ctx: ActionCtx) -> None:
    kept["action"] = ctx

@action
async def use_action(ctx: ActionCtx) -> Any:
    if "action" not in kept:
        return "nothing kept"
    return await kept["action"].run_query("well:count")

waiting = threading.Event()
results: list[str] = []

def wait_for_ctx() -> None:
    \"\"\"A thread from the time of import, which is not refused.\"\"\"
    while True:
        waiting.wait()
        waiting.clear()
        try:
            kept["lent"].db.insert("items", {"n": 1})
            results.append("inserted")
        except BaseException as error:
            results.append(f"{type(error).__name__}: {error}")
        answered.set()

answered = threading.Event()
threading.Thread(target=wait_for_ctx, daemon=True).start()

@mutation
def lend(ctx: MutationCtx) -> str:
    kept["lent"] = ctx
    waiting.set()
    answered.wait(1)
    answered.clear()
    return results[-1]
"""

SWALLOWS = """
import builtins, os, socket, subprocess, threading
from typing import Any
from evolute import MutationCtx, QueryCtx, action, mutation, query

@mutation
def limit(ctx: MutationCtx, how: str) -> str:
    ctx.db.insert("never", {"how": how})
    try:
        if how == "read":
            for _ in range(200):
                ctx.db.query("items").collect()
                ctx.db.query("never").collect()
        elif how == "write":
            for n in range(1600):
                ctx.db.insert("never", {"n": n})
        elif how == "intervals":
            for n in range(2100):
                ctx.db.query("items").with_index("by_n", n=n).collect()
        elif how == "query":
            query = ctx.db.query("items")
            query.collect()
            query.collect()
        elif how == "order":
            ctx.db.query("items").order("asc").order("desc")
        elif how == "range":
            ctx.db.query("items").with_index("by_n", m=1).collect()
    except Exception:
        return "swallowed"
    return "no error"

@mutation
def time(ctx: MutationCtx) -> str:
    ctx.db.insert("never", {})
    try:
        while True:
            pass
    except BaseException:
        return "swallowed"

@mutation
def side_effect(ctx: MutationCtx, what: str, path: str) -> Any:
    ctx.db.insert("never", {})
    match what:
        case "socket":
            socket.create_connection(("127.0.0.1", 9))
        case "file":
            open(path, "w")
        case "os.open":
            os.open(path, os.O_CREAT | os.O_WRONLY)
        case "remove":
            os.remove(path)
        case "subprocess":
            subprocess.run(["true"])
        case "fork":
            os.fork()
        case "system":
            os.system("true")
        case "thread":
            threading.Thread(target=print).start()

@mutation
def mutates_arguments(ctx: MutationCtx, value: Any) -> Any:
    value["list"].append(1)
    value["self"] = value["list"]
    row = ctx.db.query("mine").first()
    if row is None:
        ctx.db.insert("mine", value)
        value["list"].append(2)
        row = ctx.db.query("mine").first()
    row["list"].clear()
    return ctx.db.query("mine").first()["list"]
"""

MISUSES = """
from evolute import ActionCtx, MutationCtx, QueryCtx, action, mutation, query

USES = {
    "table": lambda ctx: ctx.db.query(5),
    "id": lambda ctx: ctx.db.normalize_id("items", 5),
    "system table": lambda ctx: ctx.db.system.normalize_id(5, "x"),
    "system": lambda ctx: ctx.db.system.query("_sessions"),
    "index": lambda ctx: ctx.db.query("items").with_index(5).collect(),
    "bound": lambda ctx: ctx.db.query("items").with_index("by_n", n=object()).collect(),
    "builder": lambda ctx: ctx.db.query("items").with_index("by_n", 5).collect(),
    "predicate": lambda ctx: ctx.db.query("items").filter(5).collect(),
    "take": lambda ctx: ctx.db.query("items").take("x"),
    "name": lambda ctx: ctx.db.insert("others", {5: 1}),
    "value": lambda ctx: ctx.db.insert("others", {"a": {1}}),
    "text": lambda ctx: ctx.db.insert("others", {"a": "\\ud800"}),
    "function": lambda ctx: ctx.run_query(5),
    "kind": lambda ctx: ctx.run_query("well:add"),
    "missing": lambda ctx: ctx.run_query("well:nothing"),
    "arguments": lambda ctx: ctx.run_query("well:typed", whole="x"),
    "object": lambda ctx: ctx.run_query("well:echo", value=object()),
    "target": lambda ctx: ctx.scheduler.run_after(0, 5),
    "action": lambda ctx: ctx.run_action("well:pause"),
}

@mutation
def use(ctx: MutationCtx, what: str) -> None:
    USES[what](ctx)

@query
def use_reading(ctx: QueryCtx, what: str) -> None:
    USES[what](ctx)

@action
async def use_acting(ctx: ActionCtx, what: str) -> None:
    await USES[what](ctx)
"""

FUNCTIONS: Mapping[str, str] = {
    "schema.py": SCHEMA,
    "well.py": WELL,
    "results.py": RESULTS,
    "raises.py": RAISES,
    "keeps.py": KEEPS,
    "swallows.py": SWALLOWS,
    "misuses.py": MISUSES,
}


def write_functions(folder: Path) -> Path:
    """Makes the folder `functions` in `folder` and returns it."""
    functions = folder / "functions"
    functions.mkdir()
    for name, text in FUNCTIONS.items():
        (functions / name).write_text(text)
    return functions
