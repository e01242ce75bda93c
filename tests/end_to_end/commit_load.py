"""A load: `python -m tests.end_to_end.commit_load PORT COMMITS_PER_S` commits at that rate, or what can be had.

It ends when it is told anything on its standard input, and prints how many commits were answered.
"""

from __future__ import annotations

import selectors
import sys
import time

from tests.benchmarks.sync_socket import SyncSocket

SESSIONS = 16


def main(port: int, commits_per_s: float) -> None:
    """Every session has one mutation in flight, unless the rate is ahead of its plan."""
    sockets = [SyncSocket(port) for _ in range(SESSIONS)]
    idle = list(sockets)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for session in sockets:
        selector.register(session, selectors.EVENT_READ)
    began = time.monotonic()
    sent = answered = 0
    is_over = False
    while not is_over or len(idle) < SESSIONS:
        while idle and not is_over and sent < commits_per_s * (time.monotonic() - began):
            idle.pop().mutate("messages:send", {"body": f"{sent}"})
            sent += 1
        for key, _ in selector.select(timeout=0.001):
            if not isinstance(key.fileobj, SyncSocket):
                is_over = True
                selector.unregister(key.fileobj)
                continue
            for message in key.fileobj.receive():
                if message["type"] == "MutationResponse":
                    assert message["success"], message
                    answered += 1
                    idle.append(key.fileobj)
    for session in sockets:
        session.close()
    print(answered, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
