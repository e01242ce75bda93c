"""A functions folder and a store in a temporary folder, and a runner over both, for tests of running functions."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

from evolute.database.snapshot import Snapshot
from evolute.database.transaction import Transaction
from evolute.database.write_set import WriteSet
from evolute.execution.request import Call, FunctionOutcome, FunctionRequest, Kind
from evolute.execution.runner import Runner
from evolute.limits import Limits
from evolute.registry.loader import Deployment, load, read_folder
from evolute.storage.keyspace import LAST_TS, encode_number
from evolute.storage.lmdb_engine import LmdbEngine
from evolute.system import deployments, tables
from evolute.values.wire_codec import COMMIT_TS_PLACEHOLDER, int64_json

NOW_NS = 1_700_000_000_123_000_000
SEED = bytes(range(32))
HEADER = """\
from __future__ import annotations
from typing import Any
from evolute import (
    ActionCtx, BlockingActionCtx, ConvexError, Id, MutationCtx, QueryCtx, action, internal_action, internal_mutation,
    internal_query, mutation, query,
)
"""


def write_folder(folder: Path, files: dict[str, str]) -> Path:
    """Module texts without their imports; `schema.py` has its own."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(("" if name == "schema.py" else HEADER) + dedent(text))
    return folder


class FunctionStore:
    """Commits by hand, one transaction after the other, as the committer would."""

    def __init__(self, folder: Path, files: dict[str, str], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.deployment: Deployment = read_folder(write_folder(folder / "functions", files), self.limits)
        self.registry = load(self.deployment, self.limits)
        self.path = folder / "store"
        self.engine = LmdbEngine(self.path, self.limits, sync=False)
        self.ts = NOW_NS
        self.engine.write({LAST_TS: encode_number(self.ts)})
        self.runner = Runner(self.registry, self.limits)
        self._requests = 0
        with self.snapshot() as snapshot:
            transaction = Transaction(snapshot, limits=self.limits, now_ns=NOW_NS, seed=b"set up", writable=True)
            tables.bootstrap(transaction)
            deployments.activate(transaction, self.deployment, self.registry.schema.to_wire())
            self.commit(transaction.write_set())

    def snapshot(self) -> Snapshot:
        return Snapshot(self.engine.reader())

    def commit(self, write_set: WriteSet) -> int:
        self.ts += 1
        puts = dict(write_set.puts)
        for key, count in write_set.stamped.items():
            value = puts[key]
            assert value is not None
            puts[key] = value.replace(COMMIT_TS_PLACEHOLDER, int64_json(self.ts), count)
        self.engine.write({**puts, LAST_TS: encode_number(self.ts)})
        return self.ts

    def request(self, kind: Kind, *calls: Call) -> FunctionRequest:
        self._requests += 1
        request_kind = "queries" if kind == "query" else kind
        seed = SEED + self._requests.to_bytes(4, "big")
        return FunctionRequest(self._requests, request_kind, self.deployment.hash, calls, NOW_NS, seed)

    def run_mutation(self, call: Call) -> FunctionOutcome:
        """Runs it; the caller commits."""
        with self.snapshot() as snapshot:
            return self.runner.run(self.request("mutation", call), snapshot)

    def run_queries(self, *calls: Call) -> FunctionOutcome:
        with self.snapshot() as snapshot:
            return self.runner.run(self.request("query", *calls), snapshot)

    def mutate(self, path: str, **arguments: object) -> Any:
        """Runs the mutation and commits it; what it returned, parsed. Fails the test if it failed."""
        outcome = self.run_mutation(call(path, "mutation", **arguments))
        result = outcome.results[0]
        assert result.error is None, result.error
        assert result.value is not None
        assert outcome.write_set is not None
        self.commit(outcome.write_set)
        return json.loads(result.value)

    def query(self, path: str, **arguments: object) -> Any:
        """What the query returns, parsed. Fails the test if it failed."""
        result = self.run_queries(call(path, "query", **arguments)).results[0]
        assert result.error is None, result.error
        assert result.value is not None
        return json.loads(result.value)

    def error(self, path: str, kind: Kind = "mutation", **arguments: object) -> str:
        """The text of the error that the call ends with."""
        run = self.run_mutation if kind == "mutation" else self.run_queries
        outcome = run(call(path, kind, **arguments))
        assert outcome.write_set is None
        error = outcome.results[0].error
        assert error is not None, outcome.results[0].value
        return error.message

    def close(self) -> None:
        self.engine.close()


def call(path: str, kind: Kind | None, **arguments: object) -> Call:
    return Call(path, json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode(), kind)
