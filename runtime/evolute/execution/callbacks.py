"""What an action may ask of the server while it runs: calls of other functions, and the scheduler.

Each is an operation of its own that enters by the one door and commits by itself. The caller's identity, its job and
its depth come from the action's own call, never from what the worker sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from evolute.database.transaction import Transaction
from evolute.errors import LimitReached, MalformedMessage
from evolute.execution.request import Call, Outcome
from evolute.limits import Limits
from evolute.system import jobs
from evolute.values import wire_codec


class Door(Protocol):
    """The part of the executor that actions reach."""

    async def query(self, call: Call) -> Outcome: ...
    async def mutate(self, call: Call) -> Outcome: ...
    async def act(self, call: Call, *, nested: bool = False) -> Outcome: ...
    async def run_system(self, function: Callable[[Transaction], Any]) -> Any: ...


async def answer_callback(
    door: Door, limits: Limits, parent: Call, operation: str, payload: Any
) -> tuple[bool, bytes | tuple[Any, ...]]:
    """(True, canonical JSON of the value) or (False, a CallError's wire form). Raises what the executor raises."""
    match operation:
        case "run_query" | "run_mutation" | "run_action":
            outcome = await _run(door, operation, _nested(parent, Call.from_wire(payload), limits))
            if outcome.error is not None:
                return False, outcome.error.to_wire()
            assert outcome.value is not None
            return True, outcome.value
        case "schedule":
            path, arguments, due_ns, scheduled_ms, options = payload

            def schedule(transaction: Transaction) -> str:
                return jobs.schedule(
                    transaction,
                    path=path,
                    arguments=wire_codec.decode_canonical(arguments),
                    due_ns=due_ns,
                    scheduled_ms=scheduled_ms,
                    parent_job=parent.job or parent.parent_job,
                    options=jobs.JobOptions.from_wire(options),
                )

            return True, wire_codec.encode((await door.run_system(schedule)).value)
        case "cancel":
            await door.run_system(lambda transaction: jobs.cancel(transaction, payload))
            return True, wire_codec.encode(None)
        case _:
            raise MalformedMessage(f"An action asked for an unknown operation {operation!r}")


def _nested(parent: Call, call: Call, limits: Limits) -> Call:
    depth = parent.depth + 1
    if depth > limits.call_depth_max:
        raise LimitReached(
            f"{call.path} was called {depth} calls deep; the setting is call_depth_max. Do calls go round in a circle?"
        )
    return call._replace(
        public_only=False,
        identity=parent.identity,
        session=None,
        job=None,
        parent_job=parent.job or parent.parent_job,
        depth=depth,
        cron=None,
        ending=None,
        place=parent.place,
    )


async def _run(door: Door, operation: str, call: Call) -> Outcome:
    if operation == "run_query":
        # A query schedules nothing, so for whose job it is asked makes no difference to its answer.
        return await door.query(call._replace(kind="query", parent_job=None, place=None))
    if operation == "run_mutation":
        return await door.mutate(call._replace(kind="mutation"))
    return await door.act(call._replace(kind="action"), nested=True)
