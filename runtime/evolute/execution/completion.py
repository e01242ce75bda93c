"""The call that tells a job's completion function how the job ended: `function(ctx, job: JobOutcome)`.

It is a mutation like any other, but for its transaction, which holds the job's terminal state as well. It has no
identity and is nobody's child: what it schedules is not canceled with the job.
"""

from __future__ import annotations

import contextlib
import dataclasses

from evolute.errors import InvalidSchedule
from evolute.execution.request import Call
from evolute.execution.schedule_options import completion_parameter
from evolute.registry.job_options import JobOutcome
from evolute.registry.registry import Registry
from evolute.system.job_endings import JobEnd
from evolute.values import wire_codec


class CompletionSpoiled(Exception):
    """The completion function ended with `failure`, after which its transaction can only be given up."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__(str(failure))
        self.failure = failure


def completion_call(registry: Registry, path: str, end: JobEnd) -> Call:
    """The function may have changed since the job was scheduled; then the call fails as any call would."""
    ending = end.ending
    value = None if ending.value is None else wire_codec.decode_canonical(ending.value)
    outcome = JobOutcome(end.id, end.name, ending.kind, value, ending.error, end.attempts)
    parameter = "job"
    if path in registry.functions:
        with contextlib.suppress(InvalidSchedule):
            parameter = completion_parameter(registry.functions[path])
    arguments = wire_codec.encode({parameter: dataclasses.asdict(outcome)})
    return Call(path, arguments, kind="mutation", public_only=False)
