"""The answer of a mutation or an action as it leaves, with as much of an error as the deployment discloses."""

from __future__ import annotations

from evolute.execution.request import Outcome
from evolute.protocol.codec import encode_server
from evolute.protocol.messages import ActionResponse, Failure, MutationResponse, Success
from evolute.sync.transition import Disclosure


def mutation_answer(request_id: int, outcome: Outcome, session_id: str | None, disclosure: Disclosure) -> bytes:
    """It tells the commit's timestamp, unless there was no commit."""
    result, log_lines = _disclosed(request_id, outcome, session_id, disclosure)
    return encode_server(MutationResponse(request_id, result, outcome.ts if outcome.error is None else None, log_lines))


def action_answer(request_id: int, outcome: Outcome, session_id: str | None, disclosure: Disclosure) -> bytes:
    return encode_server(ActionResponse(request_id, *_disclosed(request_id, outcome, session_id, disclosure)))


def _disclosed(
    request_id: int, outcome: Outcome, session_id: str | None, disclosure: Disclosure
) -> tuple[Success | Failure, tuple[str, ...]]:
    name = "" if outcome.error is None else disclosure.request_name(session_id, request_id)
    return disclosure.answer(outcome.value, outcome.error, name), disclosure.log_lines(outcome.log_lines)
