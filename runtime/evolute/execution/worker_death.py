"""What a call is told whose worker has died."""

from __future__ import annotations

from evolute.errors import FunctionCrashed, FunctionTimedOut, WorkerDied
from evolute.execution.pending_request import Pending
from evolute.execution.worker_process import WorkerProcess
from evolute.limits import Limits


def runs_again(pending: Pending) -> bool:
    """The calls of a batch are run one by one afterwards, and of a job's deaths the scheduler keeps count.

    A completion function is nobody's job, and is given up for good when it crashes: not for what others did once.
    """
    if pending.kept:
        return False  # by no other worker
    call = pending.calls[0]
    is_job = call.job is not None and (call.ending is None or call.ending.untold is not None)
    return len(pending.calls) == 1 and not is_job


def crashed(pending: Pending) -> FunctionCrashed:
    path = pending.calls[0].path if pending.calls else "(a snapshot)"
    return FunctionCrashed(
        f"{path}: the worker process died while this function ran, {'twice' if pending.deaths >= 2 else 'once'}"
    )


def timed_out(pending: Pending, limits: Limits) -> FunctionTimedOut:
    """A query or mutation for which its worker was killed."""
    name = "mutation_user_ms_max" if pending.kind == "mutation" else "query_user_ms_max"
    user_ms: int = getattr(limits, name)
    return FunctionTimedOut(
        f"Function execution timed out (maximum duration: {user_ms / 1000:g}s; the setting is {name}). "
        "It could not be interrupted, so its worker process was ended."
    )


def action_error(worker: WorkerProcess) -> Exception:
    """Of every action that ran in the worker."""
    if worker.killed_because in ("time limit", "its event loop was blocked"):
        settings = (
            "setting is action_ms_max"
            if worker.lane == "blocking"
            else ("settings are action_ms_max and action_block_ms_max")
        )
        return FunctionTimedOut(f"The action's worker process was ended: {worker.killed_because} (the {settings})")
    return WorkerDied()
