"""An outcome on its way to the server: it must fit into a frame, and there must always be one.

Results that are too large together give way where the frame is full, each to an error that names the setting; a
mutation whose write set is too large fails as a whole. What the runtime itself could not do is an error of every call.
"""

from __future__ import annotations

import dataclasses
import marshal
from collections.abc import Callable

from evolute.database.read_set import ReadSet
from evolute.errors import EvoluteError, LimitReached
from evolute.execution.call_failure import INTERNAL_CODE, call_error
from evolute.execution.channel import Frame
from evolute.execution.request import CallError, CallResult, FunctionOutcome, FunctionRequest
from evolute.limits import Limits
from evolute.storage.keyspace import DEPLOYMENT

FRAME_BYTES_EXTRA = 100  # the frame's name, the outcome's own numbers
RESULT_BYTES_EXTRA = 20


def send_outcome(send: Callable[[Frame], None], outcome: FunctionOutcome, limits: Limits) -> FunctionOutcome:
    """Sends `outcome`, or if no frame can hold it one that fits and says why it is not that one; returns which."""
    try:
        send(("outcome", outcome.to_wire()))
    except LimitReached:
        outcome = _fitting(outcome, limits)
        send(("outcome", outcome.to_wire()))
    return outcome


def _fitting(outcome: FunctionOutcome, limits: Limits) -> FunctionOutcome:
    failed = [_without_value(result, limits) for result in outcome.results]
    left = limits.frame_bytes_max - FRAME_BYTES_EXTRA - sum(map(_size, failed))
    if outcome.write_set is not None:
        return outcome._replace(results=tuple(failed), write_set=None)
    results: list[CallResult] = []
    for result, without in zip(outcome.results, failed, strict=True):
        more = _size(result) - _size(without)
        fits = more <= left
        results.append(result if fits else without)
        left -= more if fits else 0
    return outcome._replace(results=tuple(results))


def _size(result: CallResult) -> int:
    return len(marshal.dumps(result.to_wire())) + RESULT_BYTES_EXTRA


def _without_value(result: CallResult, limits: Limits) -> CallResult:
    text = (
        f"The outcome of the call is too large for one frame between worker and server (limit: "
        f"{limits.frame_bytes_max} bytes; the setting is frame_bytes_max). Return or write less at a time."
    )
    return result._replace(value=None, error=CallError(text, None, "LimitReached"), log_lines=())


def unanswerable(request: FunctionRequest, error: BaseException, package: str, limits: Limits) -> FunctionOutcome:
    """The outcome of a request that the runtime itself could not run."""
    code = error.code if isinstance(error, EvoluteError) else INTERNAL_CODE
    failure = dataclasses.replace(call_error(error, package, limits), code=code)
    read_set = ReadSet()
    read_set.add_point(DEPLOYMENT)
    results = tuple(CallResult(None, failure, (), read_set, journal=call.journal) for call in request.calls)
    return FunctionOutcome(request.id, 0, results, exiting=not isinstance(error, EvoluteError))
