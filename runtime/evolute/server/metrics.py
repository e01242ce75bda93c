"""GET /metrics: what the server can say of itself, in the words of Prometheus. Needs the admin key.

    scrape ──► job_admin.backlog() ─┐
               backend.statistics() ┴──► StatisticsCollector ──► prometheus_client ──► text

Nothing is counted here: every figure is read from the `statistics()` of its owner when it is asked for, and costs
nothing between. Labels are functions of the deployment, its pools, and kinds; what is of no deployment any more is told
together. The key is needed on the loopback, too, because a proxy's requests come from there, and so do those of any
page in a browser on the same machine. The library is imported at the first scrape: a server that nobody watches does
without it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from evolute.backend import Backend, BackendStatistics
from evolute.clock import NS_PER_S
from evolute.execution.call_durations import BUCKETS_MS
from evolute.registry.registry import RegistryReport
from evolute.server.auth import Authenticator
from evolute.server.http_request import require_admin, wait_identity
from evolute.stages import BOUNDS_US

if TYPE_CHECKING:
    from prometheus_client.core import Metric

GONE = "(gone)"
EVERYTHING = "(everything)"
DEFAULT = "default"
MS_PER_S = 1000
US_PER_S = 1_000_000

Samples = Iterable[tuple[tuple[str, ...], float]]


class Waiting(NamedTuple):
    """Of one pool: how many jobs are due and not begun, and for how long the first of them has been."""

    length: int
    lag_s: float


@dataclass(frozen=True)
class Scrape:
    """All that a page is made from."""

    statistics: BackendStatistics
    backlog: Mapping[str, Waiting]
    paused: frozenset[str | None]
    report: RegistryReport


class Metrics:
    """The endpoint. `page` raises HttpError or an EvoluteError, which the application answers."""

    def __init__(self, backend: Backend, authenticator: Authenticator) -> None:
        self._backend = backend
        self._authenticator = authenticator

    async def page(self, request: Request) -> Response:
        require_admin(await wait_identity(request, self._authenticator))
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "prometheus_client")
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatisticsCollector(await self._scrape()))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def _scrape(self) -> Scrape:
        backend = self._backend
        backlog, paused = await backend.job_admin.backlog(), await backend.job_admin.paused()
        now_ns = backend.clock.now_ns()
        waiting = {pool: Waiting(found.length, found.lag_ns(now_ns) / NS_PER_S) for pool, found in backlog.items()}
        return Scrape(backend.statistics(), waiting, paused, backend.report)


class StatisticsCollector:
    """A collector in the sense of `prometheus_client`, over figures that are there already."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        yield from self._jobs()
        yield from self._crons()
        yield from self._calls()
        yield from self._database()
        yield from self._workers()

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def _jobs(self) -> Iterator[Metric]:
        scrape, found = self._scrape, self._scrape.statistics.scheduler
        lags, lengths, running = (dict.fromkeys((DEFAULT, *scrape.report.pools), 0.0) for _ in range(3))
        for pool, waiting in scrape.backlog.items():
            name = self._pool(pool)
            lags[name] = max(lags.get(name, 0.0), waiting.lag_s)
            lengths[name] = lengths.get(name, 0.0) + waiting.length
        for pool, count in found.running_by_pool.items():
            running[self._pool(pool)] = running.get(self._pool(pool), 0.0) + count
        yield _gauge("job_lag_seconds", "How long the oldest job that is due has not been begun.", *_by("pool", lags))
        yield _gauge("job_backlog", "Jobs that are due and not begun, as far as counted.", *_by("pool", lengths))
        yield _gauge("jobs_running", "Jobs that have been begun.", *_by("pool", running))
        paused = {EVERYTHING if pool is None else self._pool(pool): 1.0 for pool in scrape.paused}
        yield _gauge("jobs_paused", "What is paused.", *_by("pool", paused))
        runs: dict[tuple[str, ...], float] = {}
        for (path, outcome), count in found.outcomes.items():
            label = (path if path in scrape.report.functions else GONE, outcome)
            runs[label] = runs.get(label, 0.0) + count
        text = "How runs of jobs ended; `again` is put off and tried later."
        yield _counter("job_runs", text, ("function", "outcome"), runs.items())
        yield _counter("job_looks", "How often the scheduler has read the table of jobs.", (), _only(found.looks))

    def _pool(self, pool: str) -> str:
        return pool if pool == DEFAULT or pool in self._scrape.report.pools else GONE

    def _crons(self) -> Iterator[Metric]:
        found = self._scrape.statistics.crons
        yield _gauge("crons_running", "Crons that run now.", (), _only(found.running))
        yield _counter("cron_runs", "Runs of crons that have begun.", (), _only(found.runs))
        yield _counter("cron_skipped_runs", "Runs of crons that were left out.", (), _only(found.skipped))

    def _calls(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        found = self._scrape.statistics
        text = "Calls by kind, from their entering to their answer; queries that were not cached."
        durations = HistogramMetricFamily("evolute_call_duration_seconds", text, labels=("kind",))
        bounds = [str(bucket_ms / MS_PER_S) for bucket_ms in BUCKETS_MS] + ["+Inf"]
        for kind, of_kind in found.calls.items():
            buckets = list(zip(bounds, map(float, accumulate(of_kind.counts)), strict=True))
            durations.add_metric((kind,), buckets, of_kind.total_ms / MS_PER_S)
        yield durations
        text = "Stages of mutations and queries; runtime/README.md says what each is."
        stages = HistogramMetricFamily("evolute_stage_duration_seconds", text, labels=("kind", "stage"))
        bounds = [str(bound_us / US_PER_S) for bound_us in BOUNDS_US] + ["+Inf"]
        for names, of_stage in found.stages.items():
            buckets = list(zip(bounds, map(float, accumulate(of_stage.counts)), strict=True))
            stages.add_metric(names, buckets, of_stage.total_s)
        yield stages
        errors = {kind: float(of_kind.errors) for kind, of_kind in found.calls.items()}
        yield _counter("call_errors", "Calls that failed.", *_by("kind", errors))
        executor, cache = found.executor, found.query_cache
        yield _gauge("calls_running", "Calls that have entered and are not answered.", (), _only(executor.running))
        yield _gauge("calls_in_line", "Of these the ones that wait for a contended key.", (), _only(executor.in_line))
        yield _counter("transaction_conflicts", "Runs that another commit came before.", (), _only(executor.conflicts))
        yield _counter("serial_runs", "Runs that all commits had to wait for.", (), _only(executor.serial_runs))
        yield _gauge("query_cache_results", "Results of queries that are kept.", (), _only(cache.results))
        yield _gauge("query_cache_idle_bytes", "What those take that nobody watches.", (), _only(cache.idle_bytes))
        yield _counter("query_cache_hits", "Queries that were answered without a run.", (), _only(cache.hits))
        yield _counter("query_cache_runs", "Runs of queries.", (), _only(cache.runs))

    def _database(self) -> Iterator[Metric]:
        found = self._scrape.statistics.database
        committer, engine = found.committer, found.engine
        yield _counter("commits", "Transactions that became durable.", (), _only(committer.commits))
        text = "Transactions that had seen a commit which the disk refused, and were run again."
        yield _counter("transactions_withdrawn", text, (), _only(committer.withdrawn))
        yield _counter("commit_batches", "Batches of them, each with one sync.", (), _only(committer.batches))
        yield _counter("commit_batches_failed", "Batches the disk refused.", (), _only(committer.failed_batches))
        yield _gauge("commit_queue_length", "Commits that are under way.", (), _only(committer.queue_length))
        yield _gauge("commit_queue_bytes", "Their length.", (), _only(committer.queue_bytes))
        yield _gauge("subscriptions", "Read sets that are watched.", (), _only(found.subscriptions.live))
        yield _counter(
            "subscriptions_broken", "Read sets that a commit touched.", (), _only(found.subscriptions.broken)
        )
        yield _gauge("write_log_keys", "Touched keys that are remembered.", (), _only(found.log.keys))
        yield _gauge(
            "store_bytes", "The store's file, free pages included.", (), _only(engine.pages * engine.page_bytes)
        )
        yield _gauge("store_bytes_max", "What it may grow to.", (), _only(engine.map_bytes))
        yield _gauge("store_readers", "Snapshots that are open.", (), _only(engine.readers))

    def _workers(self) -> Iterator[Metric]:
        found = self._scrape.statistics.pool
        lanes = {
            "transaction": float(found.transaction_workers),
            "action": float(found.action_workers),
            "blocking": float(found.blocking_workers),
        }
        yield _gauge("workers", "Worker processes.", *_by("lane", lanes))
        yield _gauge("worker_requests_queued", "Requests that wait for a worker.", (), _only(found.queued))
        yield _gauge("worker_requests_running", "Requests that a worker has.", (), _only(found.running))
        yield _counter("worker_deaths", "Worker processes that ended before their time.", (), _only(found.deaths))


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"evolute_{name}", text, labels=labels)
    for values, figure in samples:
        family.add_metric(values, figure)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"evolute_{name}", text, labels=labels)
    for values, figure in samples:
        family.add_metric(values, figure)
    return family


def _only(figure: float) -> Samples:
    return [((), figure)]


def _by(label: str, figures: Mapping[str, float]) -> tuple[tuple[str, ...], Samples]:
    return (label,), [((value,), figure) for value, figure in figures.items()]
