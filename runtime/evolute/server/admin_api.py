"""What operators do over HTTP, with an admin key: POST /api/admin/jobs/…, crons/… and keys/…, JSON both ways.

    jobs/list  show  cancel  retry  purge  pause  resume      crons/list  run      statistics
    keys/create  list  revoke

A read-only key is enough to look. Every answer is bounded. A list has a `next`, which is given back as `after` for the
page behind it; so has what is done to many jobs, which is done up to `before`, the time of the first page. Refusals are
those of the other endpoints: a status, a `code` and a `message`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from evolute.backend import Backend
from evolute.clock import NS_PER_MS
from evolute.errors import FunctionNotFound
from evolute.protocol.fields import Fields, shown
from evolute.server.auth import Authenticator
from evolute.server.http_error import HttpError, bad_json_body, json_response
from evolute.server.http_request import json_object, read_json_body, require_admin, require_full_key, wait_identity
from evolute.values.function_path import canonical_path

Answer = Mapping[str, Any]
PAGE_ROWS = 50
_PREFIX = "/api/admin/"
_LOOKS = frozenset({"jobs/list", "jobs/show", "crons/list", "keys/list", "statistics"})


class AdminApi:
    """The endpoints. Each raises HttpError or an EvoluteError, which the application answers."""

    def __init__(self, backend: Backend, authenticator: Authenticator) -> None:
        self._backend = backend
        self._jobs = backend.job_admin
        self._crons = backend.cron_admin
        self._keys = backend.key_ring
        self._authenticator = authenticator
        self._limits = backend.config.limits

    def routes(self) -> list[Route]:
        operations: dict[str, Callable[[Fields], Awaitable[Answer]]] = {
            "jobs/list": self._list_jobs,
            "jobs/show": self._show_job,
            "jobs/cancel": self._cancel_job,
            "jobs/retry": self._retry_jobs,
            "jobs/purge": self._purge_jobs,
            "jobs/pause": self._pause,
            "jobs/resume": self._resume,
            "crons/list": self._list_crons,
            "crons/run": self._run_cron,
            "keys/create": self._create_key,
            "keys/list": self._list_keys,
            "keys/revoke": self._revoke_key,
            "statistics": self._statistics,
        }
        return [Route(_PREFIX + name, self._endpoint(name, of), methods=["POST"]) for name, of in operations.items()]

    def _endpoint(
        self, name: str, operation: Callable[[Fields], Awaitable[Answer]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            require = require_admin if name in _LOOKS else require_full_key
            require(await wait_identity(request, self._authenticator))
            return json_response(
                await operation(Fields(name, json_object(await read_json_body(request, self._limits))))
            )

        return endpoint

    # --- Jobs ---------------------------------------------------------------------------------------------------------

    async def _list_jobs(self, given: Fields) -> Answer:
        page = await self._jobs.find(
            state=given.optional_string("state"),
            function=_function(given),
            pool=given.optional_string("pool"),
            stuck=bool(given.optional_boolean("stuck")),
            order=given.optional_string("order") or "newest",
            after=given.optional_string("after"),
            limit=self._page_length(given),
        )
        return {"jobs": page.jobs, "next": page.next, "paused": _paused(page.paused)}

    async def _show_job(self, given: Fields) -> Answer:
        job_id = given.string("id")
        job = await self._jobs.show(job_id)
        if job is None:
            raise _no_job(job_id)
        # Arguments are values, spelt as everywhere; those that are too long to be kept in the row are not shown.
        arguments = None if job.arguments is None else orjson.Fragment(job.arguments)
        return {**job.fields, "args": arguments}

    async def _cancel_job(self, given: Fields) -> Answer:
        job_id = given.string("id")
        state = await self._jobs.cancel(job_id)
        if state is None:
            raise _no_job(job_id)
        if state not in ("pending", "inProgress"):
            raise HttpError(400, "JobHasEnded", f"The job {job_id} has ended already: {state}.")
        return {"canceled": 1, "was": state}

    async def _retry_jobs(self, given: Fields) -> Answer:
        job_id = given.optional_string("id")
        if job_id is None:
            if not given.optional_boolean("all"):
                raise bad_json_body('Give the `id` of a failed job, or `"all": true`.')
            before_ms = self._before_ms(given)
            function, after = _function(given), given.optional_string("after")
            done = await self._jobs.retry_failed(function=function, after=after, before_ms=before_ms)
            return {"retried": done.jobs, "next": done.next, "before": before_ms}
        state = await self._jobs.retry(job_id)
        if state is None:
            raise _no_job(job_id)
        if state != "failed":
            raise HttpError(400, "JobHasNotFailed", f"Only failed jobs are run again, and {job_id} is not: {state}.")
        return {"retried": 1, "next": None, "before": None}

    async def _purge_jobs(self, given: Fields) -> Answer:
        which = given.string("which")
        before_ms, after = self._before_ms(given), given.optional_string("after")
        done = await self._jobs.purge(which, after=after, before_ms=before_ms)
        return {"purged": done.jobs, "next": done.next, "before": before_ms}

    async def _pause(self, given: Fields) -> Answer:
        return {"paused": _paused(await self._jobs.pause(given.optional_string("pool")))}

    async def _resume(self, given: Fields) -> Answer:
        return {"paused": _paused(await self._jobs.resume(given.optional_string("pool")))}

    # --- Crons --------------------------------------------------------------------------------------------------------

    async def _list_crons(self, given: Fields) -> Answer:
        page = await self._crons.find(after=given.optional_string("after"), limit=self._page_length(given))
        return {"crons": page.crons, "next": page.next}

    async def _run_cron(self, given: Fields) -> Answer:
        name = given.string("name")
        await self._crons.run_now(name)
        return {"name": name}

    # --- Keys ---------------------------------------------------------------------------------------------------------

    async def _create_key(self, given: Fields) -> Answer:
        """The only answer that has the key in it."""
        name, read_only = given.string("name"), bool(given.optional_boolean("readOnly"))
        return {"name": name, "readOnly": read_only, "key": await self._keys.create(name, read_only=read_only)}

    async def _list_keys(self, given: Fields) -> Answer:
        return {
            "keys": [
                {
                    "name": key.name,
                    "readOnly": key.read_only,
                    "createdTime": key.created_ms,
                    "lastUsedTime": key.used_ms,
                }
                for key in self._keys.shown()
            ]
        }

    async def _revoke_key(self, given: Fields) -> Answer:
        name = given.string("name")
        await self._keys.revoke(name)
        return {"name": name}

    # --- Statistics ---------------------------------------------------------------------------------------------------

    async def _statistics(self, given: Fields) -> Answer:
        backlog, paused = await self._jobs.backlog(), await self._jobs.paused()
        now_ns, found = self._backend.clock.now_ns(), self._backend.statistics()
        return {
            "running": found.scheduler.running,
            "pools": {
                pool: {
                    "backlog": waiting.length,
                    "lagMs": waiting.lag_ns(now_ns) / NS_PER_MS,
                    "running": found.scheduler.running_by_pool.get(pool, 0),
                }
                for pool, waiting in backlog.items()
            },
            "outcomes": [
                {"function": function, "outcome": outcome, "count": count}
                for (function, outcome), count in found.scheduler.outcomes.items()
            ],
            "looks": found.scheduler.looks,
            "crons": asdict(found.crons),
            "paused": _paused(paused),
        }

    # --- Fields -------------------------------------------------------------------------------------------------------

    def _page_length(self, given: Fields) -> int:
        """How many at most; who wants more than `admin_page_rows_max` gets so many, and goes on from there."""
        length = given.optional_whole("limit")
        if length is not None and length < 1:
            raise bad_json_body(f"{given.where}.limit must be at least 1, got {length}.")
        return PAGE_ROWS if length is None else length

    def _before_ms(self, given: Fields) -> float:
        before = given.tree.get("before")
        if before is None:
            return self._backend.clock.now_ns() / NS_PER_MS
        if isinstance(before, bool) or not isinstance(before, int | float):
            raise bad_json_body(f"{given.where}.before must be a time in milliseconds, got {shown(before)}.")
        return float(before)


def _function(given: Fields) -> str | None:
    written = given.optional_string("function")
    try:
        return None if written is None else canonical_path(written)
    except FunctionNotFound as error:
        raise HttpError(400, "BadConvexFunctionIdentifier", str(error)) from None


def _paused(paused: frozenset[str | None]) -> dict[str, Any]:
    return {"everything": None in paused, "pools": sorted(pool for pool in paused if pool is not None)}


def _no_job(job_id: str) -> HttpError:
    return HttpError(404, "JobNotFound", f"There is no job {job_id}.")
