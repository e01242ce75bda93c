"""Mutations and actions from the call to its end, across lost connections.

    call ──► waiting ──► in flight ──► answered ──► complete
                ▲            │             │
                └────────────┘ reconnect   └ a success of a mutation is complete only when the view shows it

A mutation that was in flight, or answered but not yet shown, is sent again on the next connection: the server knows it
by session and request id and answers with what it did the first time. An action is never sent twice; one that was in
flight when the connection went is `Lost`. At most `in_flight_max` of each kind are unanswered at a time, so that a
burst of calls does not overrun the server's queue, which would cost the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from evolute.protocol.messages import Action, ActionResponse, Failure, Mutation, MutationResponse, Success

Request: TypeAlias = Mutation | Action


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection went while the action ran: how far it came is unknown."""

    message: str = "Connection lost while action was in flight"


@dataclass(frozen=True, slots=True)
class Completion:
    request_id: int
    result: Success | Failure | Lost


class _Lane:
    """The requests of one kind: those that wait, in order, and those that the server has not answered."""

    def __init__(self, in_flight_max: int) -> None:
        self.in_flight_max = in_flight_max
        self.waiting: deque[int] = deque()
        self.in_flight: set[int] = set()

    def has_next(self) -> bool:
        return bool(self.waiting) and len(self.in_flight) < self.in_flight_max

    def restart(self, waiting: Iterable[int]) -> None:
        self.waiting = deque(waiting)
        self.in_flight = set()


class Requests:
    def __init__(self, *, mutations_in_flight_max: int, actions_in_flight_max: int) -> None:
        self.next_id = 0
        self._open: dict[int, Request] = {}
        self._answers: dict[int, tuple[int, Success]] = {}
        self._older: set[int] = set()
        self._mutations = _Lane(mutations_in_flight_max)
        self._actions = _Lane(actions_in_flight_max)

    @property
    def caught_up(self) -> bool:
        """Every request that is older than this connection is complete."""
        return not self._older

    def path(self, request_id: int) -> str | None:
        request = self._open.get(request_id)
        return None if request is None else request.path

    def mutation(self, path: str, arguments: bytes) -> int:
        request_id = self._take_id()
        self._open[request_id] = Mutation(request_id, path, arguments)
        self._mutations.waiting.append(request_id)
        return request_id

    def action(self, path: str, arguments: bytes) -> int:
        request_id = self._take_id()
        self._open[request_id] = Action(request_id, path, arguments)
        self._actions.waiting.append(request_id)
        return request_id

    def take_sendable(self) -> list[Request]:
        """The requests to send now, in the order in which they were made; they are in flight from here on."""
        taken: list[Request] = []
        while lanes := [lane for lane in (self._mutations, self._actions) if lane.has_next()]:
            lane = min(lanes, key=lambda lane: lane.waiting[0])
            request_id = lane.waiting.popleft()
            if request_id in self._open:  # a Transition may have completed it while it waited to be sent again
                lane.in_flight.add(request_id)
                taken.append(self._open[request_id])
        return taken

    def answer(self, response: MutationResponse | ActionResponse, view_ts: int) -> list[Completion]:
        """What is complete now. Answers to requests that are unknown or answered already are ignored."""
        request_id, result = response.request_id, response.result
        self._mutations.in_flight.discard(request_id)
        self._actions.in_flight.discard(request_id)
        if request_id not in self._open or request_id in self._answers:
            return []
        if isinstance(response, MutationResponse) and isinstance(result, Success):
            assert response.ts is not None
            self._answers[request_id] = (response.ts, result)
            return self.reach(view_ts)
        return [self._complete(request_id, result)]

    def reach(self, view_ts: int) -> list[Completion]:
        """The mutations that the view shows at `view_ts`."""
        shown = [(request_id, result) for request_id, (ts, result) in self._answers.items() if ts <= view_ts]
        return [self._complete(request_id, result) for request_id, result in shown]

    def disconnect(self) -> list[Completion]:
        """The connection is gone: the actions that were in flight are lost."""
        lost = [self._complete(request_id, Lost()) for request_id in sorted(self._actions.in_flight)]
        self._actions.in_flight.clear()
        return lost

    def restart(self) -> None:
        """A new connection: every mutation that is not complete is sent again, in order."""
        self._older = set(self._open)
        self._mutations.restart(key for key, request in self._open.items() if isinstance(request, Mutation))
        self._actions.restart(self._actions.waiting)

    def _take_id(self) -> int:
        request_id, self.next_id = self.next_id, self.next_id + 1
        return request_id

    def _complete(self, request_id: int, result: Success | Failure | Lost) -> Completion:
        del self._open[request_id]
        self._answers.pop(request_id, None)
        self._older.discard(request_id)
        return Completion(request_id, result)
