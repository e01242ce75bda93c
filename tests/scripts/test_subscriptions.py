"""Golden scripts: which commit breaks which subscription, and when.

A script is a sequence of blocks: commands, a line `---`, and exactly what came of the commands. Keys are words, `b..d`
is the range from b up to but without d, timestamps are small numbers:

    subscribe NAME at=TS KEY A..B      watch what was read at TS
    commit TS KEY ...                  a batch of one commit, published
    pending TS KEY ...                 a commit of the batch that is being formed
    publish / withdraw                 the formed batch becomes durable, or is refused by the disk
    close NAME                         the watch ends
    show                               every subscription that was made

A block's outcome has a line for each listener that is told, and what `subscribe` and `show` find; `ok` if there is
neither. With SCRIPTS_REWRITE=1 in the environment the scripts take on what came.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from evolute.database.read_set import ReadSet
from evolute.database.subscriptions import Subscription, Subscriptions, Token
from evolute.database.write_log import new_write_log
from evolute.limits import Limits

SCRIPTS = Path(__file__).parent / "subscriptions"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda script: script.stem)
def test_script(script: Path) -> None:
    database = Database()
    played: list[str] = []
    for block in script.read_text().split("\n\n"):
        commands, outcome, _ = (block.strip("\n") + "\n").partition("---\n")
        played.append(commands.rstrip("\n"))
        if outcome:
            came = [line for command in commands.splitlines() for line in database.perform(command)]
            played[-1] = "\n".join([played[-1], "---", *(came or ["ok"])])
    came_text = "\n\n".join(played) + "\n"
    if os.environ.get("SCRIPTS_REWRITE"):
        script.write_text(came_text)
    assert came_text == script.read_text()


class Database:
    """A write log with subscriptions, and the commands of the scripts."""

    def __init__(self) -> None:
        self.log, self.writer = new_write_log(0, Limits())
        self.subscriptions = Subscriptions(self.log, Limits())
        self.made: dict[str, Subscription] = {}
        self.closed: set[str] = set()
        self.told: list[str] = []
        self.batch: list[tuple[int, list[bytes]]] = []

    def perform(self, command: str) -> Iterator[str]:
        if not command or command.startswith("#"):
            return
        name, *words = command.split()
        yield from getattr(self, f"do_{name}")(*words)
        yield from self.told
        self.told.clear()

    def do_subscribe(self, name: str, at: str, *reads: str) -> Iterator[str]:
        read_set = ReadSet()
        for read in reads:
            start, is_range, end = read.partition("..")
            if is_range:
                read_set.add_range(start.encode(), end.encode())
            else:
                read_set.add_point(read.encode())
        token = Token(read_set, int(at.removeprefix("at=")))
        self.made[name] = self.subscriptions.subscribe(
            token, lambda commit_ts: self.told.append(f"{name} is told of {commit_ts}")
        )
        yield self.describe(name)

    def do_pending(self, commit_ts: str, *keys: str) -> Iterator[str]:
        if not self.batch:
            self.writer.begin_batch()
        self.batch.append((int(commit_ts), [key.encode() for key in keys]))
        self.writer.append(*self.batch[-1])
        yield from ()

    def do_publish(self) -> Iterator[str]:
        self.writer.publish(self.batch[-1][0])
        for commit_ts, keys in self.batch:
            self.subscriptions.publish(commit_ts, keys)
        self.batch.clear()
        yield from ()

    def do_withdraw(self) -> Iterator[str]:
        self.writer.withdraw(self.batch[-1][0])
        self.batch.clear()
        yield from ()

    def do_commit(self, commit_ts: str, *keys: str) -> Iterator[str]:
        yield from self.do_pending(commit_ts, *keys)
        yield from self.do_publish()

    def do_close(self, name: str) -> Iterator[str]:
        self.made[name].close()
        self.closed.add(name)
        yield from ()

    def do_show(self) -> Iterator[str]:
        yield from (self.describe(name) for name in self.made)

    def describe(self, name: str) -> str:
        token, broken_at = self.made[name].token, self.made[name].broken_at
        if broken_at is None and name in self.closed:
            return f"{name}: closed"
        if broken_at is None:
            return f"{name}: good from {token.ts} to {self.log.published_ts}"
        return f"{name}: good from {token.ts}, broken at {broken_at}"
