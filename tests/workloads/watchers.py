"""Clients that only look: sessions over websockets, each with many subscriptions, while others write.

What they are shown in one Transition must be of one time, so whatever a workload says of a view must hold in each of
them; and when nobody writes any more, every view must become what the store holds, without anybody asking again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, NamedTuple, TypeAlias

from websockets.asyncio.client import ClientConnection, connect

UP_TO_DATE_S_MAX = 20.0
CHANGES_ITS_MIND = 0.1  # for each Transition


class Question(NamedTuple):
    """A query to subscribe to, with its arguments as JSON."""

    path: str
    arguments: str = "{}"


# What a session is shown, without what it waits for and what could not be run.
View: TypeAlias = Mapping[Question, Any]
CheckView: TypeAlias = Callable[[View, View], None]


class Watcher:
    """One session. `check_view(before, after)` is called for every Transition, and raises AssertionError."""

    def __init__(self, port: int, random: Random, questions: Iterable[Question], check_view: CheckView) -> None:
        self.transitions = 0
        self._address = f"ws://127.0.0.1:{port}/api/sync"
        self._random = random
        self._questions = list(questions)
        self._check_view = check_view
        self._asked: dict[int, Question] = {}
        self._view: dict[Question, Any] = {}
        self._version: dict[str, object] = {"querySet": 0, "identity": 0, "ts": "AAAAAAAAAAA="}
        self._query_set = self._query_ids = 0
        self._changed = asyncio.Event()
        self._settled = False

    async def watch(self) -> None:
        """Until it is cancelled."""
        async with connect(self._address, max_size=None, compression=None) as socket:
            await self._send(socket, {"type": "Connect", "sessionId": str(uuid.uuid4()), "connectionCount": 0})
            await self._modify(socket, add=self._questions)
            async for frame in socket:
                message = json.loads(frame)
                assert message["type"] in ("Transition", "Ping"), message
                if message["type"] == "Transition":
                    self._apply(message)
                    if not self._settled and self._random.random() < CHANGES_ITS_MIND:
                        await self._change_its_mind(socket)

    async def becomes(self, truth: View) -> None:
        """Waits until it is shown what is true now, of all that it watches. It no longer changes its mind."""
        self._settled = True
        try:
            async with asyncio.timeout(UP_TO_DATE_S_MAX):
                while self._query_set != self._version["querySet"] or self._view != self._wanted(truth):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            wanted = self._wanted(truth)
            stale = {one: (self._view.get(one), wanted[one]) for one in wanted if self._view.get(one) != wanted[one]}
            raise AssertionError(
                f"{UP_TO_DATE_S_MAX} s after the last write a view is {self._version}, {stale}"
            ) from None

    def _wanted(self, truth: View) -> View:
        return {question: truth[question] for question in self._asked.values()}

    async def _change_its_mind(self, socket: ClientConnection) -> None:
        """Watches something else as well, or something no more; or both at once."""
        missing = [question for question in self._questions if question not in self._asked.values()]
        removed = self._random.sample(sorted(self._asked), min(len(self._asked), self._random.randint(0, 2)))
        await self._modify(socket, remove=removed, add=self._random.sample(missing, min(len(missing), 1)))

    async def _modify(
        self, socket: ClientConnection, *, remove: Iterable[int] = (), add: Iterable[Question] = ()
    ) -> None:
        modifications: list[dict[str, object]] = []
        for query_id in remove:
            self._view.pop(self._asked.pop(query_id), None)
            modifications.append({"type": "Remove", "queryId": query_id})
        for question in add:
            query_id, self._query_ids = self._query_ids, self._query_ids + 1
            self._asked[query_id] = question
            arguments = [json.loads(question.arguments)]
            modifications.append({"type": "Add", "queryId": query_id, "udfPath": question.path, "args": arguments})
        base, self._query_set = self._query_set, self._query_set + 1
        versions = {"baseVersion": base, "newVersion": self._query_set}
        await self._send(socket, {"type": "ModifyQuerySet", **versions, "modifications": modifications})

    @staticmethod
    async def _send(socket: ClientConnection, message: Mapping[str, object]) -> None:
        await socket.send(json.dumps(message))

    def _apply(self, transition: Mapping[str, Any]) -> None:
        assert transition["startVersion"] == self._version, (transition, self._version)
        self._version = transition["endVersion"]
        before = dict(self._view)
        for modification in transition["modifications"]:
            question = self._asked.get(modification["queryId"])
            if question is None:
                continue  # it was removed meanwhile, or this says so
            if modification["type"] == "QueryUpdated":
                self._view[question] = modification["value"]
            else:  # its worker was killed, or its arguments changed
                self._view.pop(question, None)
        self.transitions += 1
        self._check_view(before, self._view)
        self._changed.set()


@contextlib.asynccontextmanager
async def watching(watchers: Iterable[Watcher]) -> Any:
    """They watch while the block runs; what they find wrong ends it."""
    async with asyncio.TaskGroup() as tasks:
        watches = [tasks.create_task(watcher.watch()) for watcher in watchers]
        yield
        for watch in watches:
            watch.cancel()
