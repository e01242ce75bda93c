"""The client as a type checker sees it: a decorated function says what its arguments and its result are."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolute import ActionCtx, BlockingActionCtx, MutationCtx, QueryCtx, action, mutation, query
from evolute_client.function_reference import named_arguments, path_of
from tests.unit.test_public_types import mypy

RIGHT_AND_WRONG = """
from typing import Any, assert_type

from evolute import ActionCtx, BlockingActionCtx, Document, Id, MutationCtx, QueryCtx, action, mutation, query
from evolute_client import Client, LocalStore, SyncClient, SyncStream

class Message(Document):
    body: str

@query
def recent(ctx: QueryCtx, channel: str, limit: int = 50) -> list[Message]: ...

@mutation
def send(ctx: MutationCtx, channel: str, body: str) -> Id[Message]: ...

@action
async def tell(ctx: ActionCtx, message: Id[Message]) -> int: ...

@action
def render(ctx: BlockingActionCtx, message: Id[Message]) -> bytes: ...

def update(store: LocalStore) -> None: ...

async def right(client: Client, message: Id[Message]) -> None:
    assert_type(await client.query(recent, channel="c", limit=3), list[Message])
    assert_type(await client.query("messages:recent", channel="c"), Any)
    assert_type(await client.mutation(send, channel="c", body="hi"), Id[Message])
    assert_type(await client.mutation(send, channel="c", body="hi", optimistic_update=update), Id[Message])
    assert_type(await client.mutation("messages:send", body="hi", optimistic_update=update), Any)
    assert_type(await client.action(tell, message=message), int)
    assert_type(await client.action(render, message=message), bytes)
    async for messages in client.subscribe(recent, channel="c"):
        assert_type(messages, list[Message])
    async for view in client.watch({"recent": (recent, {"channel": "c"}), "count": ("m:count", {})}):
        assert_type(view, dict[str, Any])
    history = client.paginated(recent, {"channel": "c"}, initial_items=10)
    assert_type(history.load_more(5), bool)

def right_blocking(client: SyncClient, message: Id[Message]) -> None:
    assert_type(client.query(recent, channel="c"), list[Message])
    assert_type(client.mutation(send, channel="c", body="hi"), Id[Message])
    assert_type(client.mutation(send, channel="c", body="hi", optimistic_update=update), Id[Message])
    assert_type(client.action(tell, message=message), int)
    assert_type(client.action(render, message=message), bytes)
    assert_type(client.subscribe(recent, channel="c"), SyncStream[list[Message]])

async def wrong(client: Client, message: Id[Message]) -> None:
    await client.query(recent, chanel="c")  # wrong: no such argument
    await client.query(recent)  # wrong: an argument is missing
    await client.query(recent, channel=3)  # wrong: not a str
    await client.query(send, channel="c", body="hi")  # wrong: not a query
    await client.mutation(recent, channel="c")  # wrong: not a mutation
    await client.action(send, channel="c", body="hi")  # wrong: not an action
    client.mutation(send, channel="c", body="hi")  # wrong: not awaited
    client.subscribe(tell, message=message)  # wrong: not a query
    client.paginated(recent, channel="c")  # wrong: how many items?

def wrong_blocking(client: SyncClient) -> None:
    client.query(recent, limit="3", channel="c")  # wrong: not a number
    client.mutation(recent, channel="c")  # wrong: not a mutation
"""


def test_right_calls_pass_and_each_wrong_one_is_an_error(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(RIGHT_AND_WRONG)
    output = mypy("--enable-error-code", "unused-awaitable", "--disable-error-code", "empty-body", str(sample))
    lines = RIGHT_AND_WRONG.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if "# wrong" in line}
    reported = {int(line.split(":")[1]) for line in output.splitlines() if ": error:" in line}
    assert reported == expected, output


@query
def listed(ctx: QueryCtx, from_: str) -> list[str]:
    return []


@mutation
def sent(ctx: MutationCtx) -> None: ...


@action
async def told(ctx: ActionCtx) -> None: ...


@action
def rendered(ctx: BlockingActionCtx) -> None: ...


def test_what_is_called() -> None:
    assert path_of("messages.js:list") == "messages.js:list"
    for function in (listed, sent, told, rendered):
        function.module = "todo.mail.messages"
    assert path_of(listed, "query") == "mail/messages:listed"
    listed.module = "todo.messages"
    assert path_of(listed) == "messages:listed"
    listed.module = "messages"
    assert path_of(listed) == "messages:listed"
    with pytest.raises(TypeError, match=r"todo.mail.messages:sent is a mutation, not a query"):
        path_of(sent, "query")
    assert named_arguments(listed, (), {"from_": "ann", "to_x": 1}) == {"from": "ann", "to_x": 1}
    assert named_arguments("m:f", (), {"from_": "ann"}) == {"from_": "ann"}
    with pytest.raises(TypeError, match="given by name, but 'ann' has none"):
        named_arguments(listed, ("ann",), {})
