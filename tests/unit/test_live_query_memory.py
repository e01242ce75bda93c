"""What the server keeps of a query that is watched, from the arguments that came to the answer that left: how much."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

from evolute.execution.request import Call
from evolute.limits import Limits
from evolute.protocol.codec import decode_arguments
from evolute.sync.query_set import QuerySet
from evolute.sync.transition import Disclosure, encoded_answer
from tests.unit.test_query_cache import opened

COUNT = 500
BYTES_MAX = 2048


def test_a_live_query_takes_less_than_two_kib(tmp_path: Path) -> None:
    """Given many different queries that one session watches, I expect less than 2 KiB for each: all of the result, its
    read set, its subscription, its place in the cache and in the session, and the answer's bytes."""

    async def scenario() -> None:
        async with opened(tmp_path) as test:
            await test.put(**{f"note {number:04}": '"It was the best of times."' for number in range(COUNT)})
            gc.collect()
            tracemalloc.start()
            try:
                queries = QuerySet(lambda: None)
                disclosure = Disclosure(redact=True, new_request_id=lambda: "")
                for number in range(COUNT):
                    arguments, _ = decode_arguments("notes:read", {"name": f"note {number:04}"}, Limits())
                    queries.add(number, Call(f"note {number:04}", arguments, kind="query"))
                ts = test.database.log.published_ts
                _, results = await test.cache.results_at(queries.wanted()[0], (), at_least_ts=ts)
                for query in queries.accept(results):
                    assert query.held is not None
                    assert b"best of times" in encoded_answer(query.held, disclosure)
                del results, query
                gc.collect()
                each_bytes = tracemalloc.get_traced_memory()[0] / COUNT
            finally:
                tracemalloc.stop()
            assert each_bytes < BYTES_MAX
            assert test.cache.statistics().held == COUNT
            queries.close()

    asyncio.run(scenario())
