"""A worker process: `python -m evolute.execution.worker <channel fd> <lifeline fd>`, started by the server.

    lifeline ends ──► os._exit, whatever the process is doing
    "load"        ──► import the deployment's bytes, open the store for reading ──► "loaded" or "load_failed"
    "request"     ──► the transaction lane runs them one at a time, the action lane side by side,
                      the blocking lane is sent one when it has none ──► "outcome"
    "examine"     ──► the lane that looks at rows, for a change of the schema ──► "examined"
    "exit", or the channel closed ──► end

The transaction lane and the blocking lane are plain loops and import no asyncio. A worker never writes to the store.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from evolute import garbage_collector
from evolute.clock import monotonic_ns
from evolute.database.chain import ChainedWrites
from evolute.database.pending_view import NOTHING_SHOWN
from evolute.database.snapshot import Snapshot
from evolute.errors import DefinitionError, EvoluteError
from evolute.execution import function_log
from evolute.execution.channel import BlockingChannel
from evolute.execution.kept_snapshots import KeptSnapshots
from evolute.execution.outcome_frame import send_outcome, unanswerable
from evolute.execution.process_guard import ProcessGuard
from evolute.execution.request import NOT_YET_KNOWN, FunctionOutcome, FunctionRequest
from evolute.execution.runner import Runner
from evolute.execution.time_limits import CallClock
from evolute.limits import Limits
from evolute.registry.loader import Deployment, load
from evolute.registry.registry import Registry
from evolute.storage.lmdb_engine import LmdbEngine

LOAD_BYTES_MAX = 1 << 31  # The limits are not known before the first frame.
THREAD_STACK_BYTES = 64 * 1024


def main(arguments: list[str]) -> NoReturn:
    """Serves until the server ends it. Returns never: the process ends without running handlers of the user's code."""
    channel_fd, lifeline_fd = map(int, arguments)
    for fd in (channel_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # what an action starts must not hold them open
    _watch_lifeline(lifeline_fd)
    # Ctrl-C and a service manager's TERM reach the whole group; only the server ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.dont_write_bytecode = True  # a lazy import in a mutation must not look like a file opened for writing
    sys.stdout = sys.stderr
    sock = socket.socket(fileno=channel_fd)
    try:
        _serve(sock)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # The server is gone.
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def _end(status: int) -> NoReturn:
    try:
        sys.stderr.flush()
    finally:
        os._exit(status)


def _watch_lifeline(fd: int) -> None:
    """The server holds the other end for as long as it lives, and nobody ever writes to it."""

    def wait_for_end() -> None:
        os.read(fd, 1)
        os._exit(0)

    _let_the_kernel_watch(fd)
    before = threading.stack_size(THREAD_STACK_BYTES)
    threading.Thread(target=wait_for_end, daemon=True, name="lifeline").start()
    threading.stack_size(before)


def _let_the_kernel_watch(fd: int) -> None:
    """No thread gets its turn while C code keeps the interpreter's lock, so on Linux the pipe's end is a SIGKILL."""
    try:
        # The owner of a pipe's signals belongs to the open file, which all workers share: this is one of its own.
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC)
    except (OSError, AttributeError):
        return  # another system: the thread is what there is


def _serve(sock: socket.socket) -> None:
    frame = BlockingChannel(sock, LOAD_BYTES_MAX).recv()[0]
    assert frame[0] == "load", f"the first frame is load, not {frame[0]!r}"
    payload: dict[str, Any] = frame[1]
    limits = Limits(**payload["limits"])
    channel = BlockingChannel(sock, limits.frame_bytes_max)
    _bound_memory(limits.worker_memory_bytes_max)
    _give_way(limits.worker_niceness)
    try:
        sources = Deployment(payload["deployment"], payload["package"], payload["root"], payload["sources"])
        registry = load(sources, limits)
        engine = LmdbEngine(Path(payload["data"]), limits, read_only=True)
    except DefinitionError as error:
        channel.send(("load_failed", [str(error)]))
        return
    except (EvoluteError, MemoryError):
        channel.send(("load_failed", [traceback.format_exc()]))
        return
    function_log.install()
    garbage_collector.search_seldom()
    channel.send(("loaded", registry.report()))
    if payload["lane"] == "transaction":
        _serve_transactions(channel, registry, engine, limits)
    elif payload["lane"] == "blocking":
        from evolute.execution.blocking_worker import serve_blocking_actions  # transactions need none of this

        serve_blocking_actions(channel, registry, engine, limits)
    elif payload["lane"] == "rows":
        from evolute.execution.examining_worker import serve_examinations

        serve_examinations(channel, registry, engine, limits)
    else:
        from evolute.execution.action_worker import serve_actions  # asyncio is for this lane only

        serve_actions(sock, registry, engine, limits)


def _bound_memory(bytes_max: int) -> None:
    """Private memory only: the address space holds the store's map, which is larger than any machine's memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        bytes_max = min(bytes_max, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_max, hard))


def _give_way(niceness: int) -> None:
    """The server goes first where there are more processes than processors: it feeds all workers, and a function that
    computes must not keep it from answering. A worker that is sent something does not interrupt who runs, either."""
    os.nice(niceness)
    if hasattr(os, "SCHED_BATCH"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _serve_transactions(channel: BlockingChannel, registry: Registry, engine: LmdbEngine, limits: Limits) -> None:
    clock = CallClock(limits)
    clock.install()
    runner = Runner(registry, limits, clock, ProcessGuard())
    shown, kept, chained = NOTHING_SHOWN, KeptSnapshots(engine, limits), ChainedWrites(limits.pending_view_bytes_max)

    while True:
        for frame in channel.recv():
            match frame[0]:
                case "request":
                    request = FunctionRequest.from_wire(frame[1])
                    if request.pending is not None:
                        shown = shown.joined(request.pending)
                        request = request._replace(pending=shown)
                    begun_ns = monotonic_ns()
                    outcome = _run(runner, engine, request, limits, kept, chained)
                    outcome = outcome._replace(busy_ns=monotonic_ns() - begun_ns)
                    send_outcome(channel.send, outcome, limits)
                    if outcome.exiting:
                        return
                case "exit":
                    return
                case _:
                    pass  # "cancel" and "ping" are for actions.


def _run(
    runner: Runner,
    engine: LmdbEngine,
    request: FunctionRequest,
    limits: Limits,
    kept: KeptSnapshots,
    chained: ChainedWrites,
) -> FunctionOutcome:
    """One snapshot for one request, closed before the answer leaves, unless it is to be kept."""
    try:
        kept.let_go_of_the_old()
        if request.kept:
            return kept.run(runner, request)
        if request.chained is not None and chained.begin(request.chained):
            return _run_chained(runner, engine, request, chained)
        with Snapshot(engine.reader(), request.pending) as snapshot:
            return runner.run(request, snapshot)
    except BaseException as error:
        return unanswerable(request, error, runner.package, limits)


def _run_chained(
    runner: Runner, engine: LmdbEngine, request: FunctionRequest, chained: ChainedWrites
) -> FunctionOutcome:
    """What was run on what may never have been, and ends in a fault of ours, is to be run again."""
    with Snapshot(engine.reader(), request.pending, chained) as snapshot:
        again = FunctionOutcome(request.id, snapshot.begin_ts, (), refused=NOT_YET_KNOWN)
        try:
            outcome = runner.run(request, snapshot)
        except Exception as error:
            if not chained.last_id:
                raise
            return again._replace(exiting=runner.broken or not isinstance(error, EvoluteError))
    if snapshot.has_met_unknown:
        return again._replace(exiting=runner.broken)
    place = chained.origin, chained.last_id
    if outcome.write_set:
        chained.add(request.id, outcome.write_set)
    return outcome._replace(chained=place)


if __name__ == "__main__":
    main(sys.argv[1:])
