"""A load: `python -m tests.end_to_end.commit_load PORT COMMITS_PER_S SECONDS` commits at that rate, or what can be had.

Prints "loading" when it begins, and at the end how many commits were answered.
"""

from __future__ import annotations

import selectors
import sys
import time

from tests.benchmarks.sync_socket import SyncSocket

SESSIONS = 16


def main(port: int, commits_per_s: float, seconds: float) -> None:
    """Every session has one mutation in flight, unless the rate is ahead of its plan."""
    idle = [SyncSocket(port) for _ in range(SESSIONS)]
    sockets = list(idle)
    selector = selectors.DefaultSelector()
    for session in sockets:
        selector.register(session, selectors.EVENT_READ)
    print("loading", flush=True)
    began = time.monotonic()
    sent = answered = 0
    while (passed := time.monotonic() - began) < seconds or len(idle) < SESSIONS:
        while idle and passed < seconds and sent < commits_per_s * passed:
            idle.pop().mutate("messages:send", {"body": f"{sent}"})
            sent += 1
        for key, _ in selector.select(timeout=0.001):
            readable = key.fileobj
            assert isinstance(readable, SyncSocket)
            for message in readable.receive():
                if message["type"] == "MutationResponse":
                    assert message["success"], message
                    answered += 1
                    idle.append(readable)
    for session in sockets:
        session.close()
    print(answered, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
