"""The lane of a worker that looks at rows for a change of the schema: one request after the other.

It has loaded the schema that is to be activated, and serves no calls. Validators may be user code, so what functions
may not do, they may not do here either.
"""

from __future__ import annotations

import traceback

from evolute.database.snapshot import Snapshot
from evolute.execution import side_effects
from evolute.execution.channel import BlockingChannel
from evolute.execution.examination import RowsExamined, RowsRequest, examine
from evolute.limits import Limits
from evolute.registry.registry import Registry
from evolute.storage.lmdb_engine import LmdbEngine


def serve_examinations(channel: BlockingChannel, registry: Registry, engine: LmdbEngine, limits: Limits) -> None:
    """Until the server ends it. What goes wrong is told, and the process ends."""
    side_effects.install()

    def answer(request: RowsRequest) -> RowsExamined:
        with Snapshot(engine.reader()) as snapshot, side_effects.Refused():
            return examine(request, snapshot, registry.schema, limits)

    while True:
        for frame in channel.recv():
            match frame[0]:
                case "examine":
                    try:
                        examined = answer(RowsRequest(*frame[2]))
                    except Exception:
                        channel.send(("examination_failed", frame[1], traceback.format_exc()))
                        return
                    channel.send(("examined", frame[1], examined.to_wire()))
                case "exit":
                    return
