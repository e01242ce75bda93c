"""The one thread that writes: it waits for the disk, so that the event loop need not.

Batches are written one after the other, in the order in which they are given. What became of one is said on the event
loop: nothing, an error after which the batch was certainly not written, or one after which nobody knows.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue

from evolute import failpoints
from evolute.clock import monotonic_ns
from evolute.database.commit_batch import CommitBatch
from evolute.errors import FateUnknown, StorageFailed, StorageFull
from evolute.storage.engine import Engine
from evolute.storage.keyspace import LAST_TS, decode_number


class BatchWriter:
    """Make it on the event loop. `on_settled(batch, error)` is called there: None if the batch is durable, StorageFull
    or StorageFailed only if it certainly was not written. `close` it before the engine.
    """

    def __init__(self, engine: Engine, on_settled: Callable[[CommitBatch, BaseException | None], None]) -> None:
        self._engine = engine
        self._on_settled = on_settled
        self._loop = asyncio.get_running_loop()
        self._batches: SimpleQueue[CommitBatch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_batches, name="evolute-writer", daemon=True)
        self._thread.start()

    def write(self, batch: CommitBatch) -> None:
        batch.begun_ns = monotonic_ns()
        self._batches.put(batch)

    def stop(self) -> None:
        """Ends the thread when it has written what it was given."""
        self._batches.put(None)

    def close(self) -> None:
        """The same, and waits for it."""
        self.stop()
        self._thread.join()

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            error = self._write(batch)
            batch.written_ns = monotonic_ns()
            try:
                self._loop.call_soon_threadsafe(self._on_settled, batch, error)
            except RuntimeError:  # the loop was closed without us: there is nobody left to tell
                return

    def _write(self, batch: CommitBatch) -> BaseException | None:
        try:
            self._engine.write(batch.puts(), on_puts=lambda: failpoints.hit(failpoints.AFTER_PUTS))
        except (StorageFull, StorageFailed) as error:
            return self._confirm_unwritten(batch, error)
        except BaseException as error:
            return error
        failpoints.hit(failpoints.AFTER_COMMIT)
        return None

    def _confirm_unwritten(self, batch: CommitBatch, error: StorageFull | StorageFailed) -> BaseException:
        """The store's own word against the engine's: `error` if they agree."""
        try:
            reader = self._engine.reader()
            try:
                stored = reader.get(LAST_TS)
            finally:
                reader.close()
        except Exception as second_error:
            return FateUnknown(f"A write failed ({error}), and then the store could not be read: {second_error}")
        if stored is not None and decode_number(stored) >= batch.first_ts:
            return FateUnknown(f"A write was reported as failed ({error}), but the store holds it.")
        return error
