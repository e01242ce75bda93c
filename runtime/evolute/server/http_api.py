"""One-shot calls over HTTP (protocol §6), and several queries as of one time.

    POST /api/query  mutation  action    a function of that kind; GET /api/query has it in the address
    POST /api/run/<module>/<function>    of any kind; and so has /api/function, which is for administrators
    POST /api/query_batch                several queries
    POST /api/query_ts, query_at_ts      the latest timestamp, and then one query after the other as of that one

A function that ran, even one that raised, is answered with 200 and `status`; every other end has an HTTP status of its
own and a body of `code` and `message` (`http_error.py`). Clients rely on both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from evolute.errors import BadRequest
from evolute.execution.executor import Executor
from evolute.execution.past_queries import PastQueries
from evolute.execution.request import Call, CallError, Kind, Outcome
from evolute.limits import Limits
from evolute.protocol.fields import shown
from evolute.protocol.json_text import json_text
from evolute.protocol.messages import Failure
from evolute.protocol.timestamp import decode_ts, encode_ts
from evolute.server.auth import Authenticator
from evolute.server.http_error import HttpError, JsonResponse, bad_json_body, json_response
from evolute.server.http_request import (
    HttpRequest,
    json_object,
    read_json_body,
    request_id_of,
    require_admin,
    require_may_run,
    wait_identity,
)
from evolute.server.wanted_call import Format, WantedCall, is_ancient, path_of_address, wanted_by_address, wanted_call
from evolute.sync.identity import Identity
from evolute.sync.transition import Disclosure
from evolute.values import wire_codec
from evolute.values.export_codec import exported

_KEPT_BODIES_MAX = 1024
_KEPT_BODY_BYTES_MAX = 1024


class HttpApi:
    """The endpoints. Each raises HttpError or an EvoluteError, which the application answers."""

    def __init__(
        self,
        executor: Executor,
        past_queries: PastQueries,
        limits: Limits,
        authenticator: Authenticator,
        published_ts: Callable[[], int],
        disclosure: Disclosure,
    ) -> None:
        self._executor = executor
        self._past_queries = past_queries
        self._limits = limits
        self._authenticator = authenticator
        self._published_ts = published_ts
        self._disclosure = disclosure
        self._read_again = functools.lru_cache(_KEPT_BODIES_MAX)(self._read)

    async def query(self, request: HttpRequest) -> Response:
        """POST with a body, GET with the call in the address."""
        return await self._call(request, "query")

    async def mutation(self, request: HttpRequest) -> Response:
        return await self._call(request, "mutation")

    async def action(self, request: HttpRequest) -> Response:
        return await self._call(request, "action")

    async def function(self, request: Request) -> Response:
        """A function of any kind, internal ones too; for administrators."""
        identity = await wait_identity(request, self._authenticator)
        require_admin(identity)
        wanted = await self._wanted(request)
        return self._answer(request, wanted, await self._run(wanted, None, identity))

    async def run(self, request: Request) -> Response:
        """A function of any kind, named by the address."""
        identity = await wait_identity(request, self._authenticator)
        path = path_of_address(request.path_params["path"])
        wanted = wanted_call({**await self._body(request), "path": path}, self._limits, ancient=is_ancient(request))
        return self._answer(request, wanted, await self._run(wanted, None, identity))

    async def query_ts(self, request: Request) -> Response:
        """The latest timestamp, for `query_at_ts`."""
        return json_response({"ts": encode_ts(await self._past_queries.wait_ts())})

    async def query_at_ts(self, request: Request) -> Response:
        """A query as of an earlier `query_ts`. Who comes too late begins anew."""
        identity = await wait_identity(request, self._authenticator)
        tree = await self._body(request)
        written_ts = tree.get("ts")
        if not isinstance(written_ts, str):
            raise bad_json_body(f"The field `ts` must be the `ts` of /api/query_ts, got {shown(written_ts)}.")
        ts = decode_ts("ts", written_ts)
        if ts > self._published_ts():
            raise HttpError(
                400, "TimestampInFuture", f"Nothing has happened yet at {ts}: take the ts of /api/query_ts."
            )
        wanted = wanted_call(tree, self._limits, ancient=is_ancient(request))
        if wanted.fault is not None:
            return self._answer(request, wanted, _fault_of(wanted))
        call = _call_of(wanted, "query", identity)
        return self._answer(request, wanted, await self._past_queries.query_at(call, ts))

    async def query_batch(self, request: Request) -> Response:
        """Several queries, all answered as of one time."""
        identity = await wait_identity(request, self._authenticator)
        queries, queries_max = (await self._body(request)).get("queries"), self._limits.http_batch_queries_max
        if not isinstance(queries, list) or not all(isinstance(query, dict) for query in queries):
            raise bad_json_body(f"The field `queries` must be a list of objects, got {shown(queries)}.")
        if len(queries) > queries_max:
            text = f"One batch may have {queries_max} queries (http_batch_queries_max), got {len(queries)}."
            raise bad_json_body(text)
        ancient = is_ancient(request)
        wanted = [
            wanted_call(query, self._limits, ancient=ancient, where=f"queries[{place}].")
            for place, query in enumerate(queries)
        ]
        outcomes = await self._executor.query_batch(
            [_call_of(one, "query", identity) for one in wanted if one.fault is None]
        )
        results = [
            _fault_of(one) if one.fault is not None else outcomes[_call_of(one, "query", identity)] for one in wanted
        ]
        spelt = [self._spelt(request, one.format, result) for one, result in zip(wanted, results, strict=True)]
        return JsonResponse(b'{"results":[' + b",".join(spelt) + b"]}")

    # --- Inside ----------------------------------------------------------------------------------------------------

    async def _call(self, request: HttpRequest, kind: Kind) -> Response:
        identity = await wait_identity(request, self._authenticator)
        if request.method in ("GET", "HEAD"):
            wanted = wanted_by_address(request, self._limits)
        else:
            wanted = await self._wanted(request)
        return self._answer(request, wanted, await self._run(wanted, kind, identity))

    async def _wanted(self, request: HttpRequest) -> WantedCall:
        """The call of the body. Most are small and come again and again, so what was read of those is kept."""
        body = await read_json_body(request, self._limits)
        read = self._read_again if len(body) <= _KEPT_BODY_BYTES_MAX else self._read
        return read(body, is_ancient(request))

    def _read(self, body: bytes, ancient: bool) -> WantedCall:
        return wanted_call(json_object(body), self._limits, ancient=ancient)

    async def _body(self, request: HttpRequest) -> dict[str, Any]:
        return json_object(await read_json_body(request, self._limits))

    async def _run(self, wanted: WantedCall, kind: Kind | None, identity: Identity) -> Outcome:
        if wanted.fault is not None:
            return _fault_of(wanted)
        call = _call_of(wanted, kind, identity)
        require_may_run(identity, kind or self._kind_of(call.path))
        match kind:
            case "query":
                return await self._executor.query(call)
            case "mutation":
                return await self._executor.mutate(call)
            case "action":
                return await self._executor.act(call)
            case None:
                return await self._executor.run_any(call)

    def _kind_of(self, path: str) -> Kind:
        """That of the function; what is not there is nothing to refuse."""
        function = self._executor.report.functions.get(path)
        return "query" if function is None else function.kind

    def _answer(self, request: HttpRequest, wanted: WantedCall, outcome: Outcome) -> Response:
        return JsonResponse(self._spelt(request, wanted.format, outcome))

    def _spelt(self, request: HttpRequest, format: Format, outcome: Outcome) -> bytes:
        parts: list[bytes]
        if outcome.error is None:
            assert outcome.value is not None
            parts = [b'{"status":"success","value":', _value(request, format, outcome.value)]
        else:
            failure = self._disclosure.answer(None, outcome.error, request_id_of(request))
            assert isinstance(failure, Failure)
            parts = [b'{"status":"error","errorMessage":', json_text(failure.message)]
            if outcome.error.data is not None:
                parts += (b',"errorData":', _value(request, format, outcome.error.data))
        if log_lines := self._disclosure.log_lines(outcome.log_lines):
            parts += (b',"logLines":', json_text(log_lines))
        parts.append(b"}")
        return b"".join(parts)


def _value(request: HttpRequest, format: Format, value: bytes) -> bytes:
    spelt = format(value)
    # PyPI's http_client takes a bare `3` for something that is not a number of Convex's.
    is_python = format is not exported and request.headers.get("convex-client", "").startswith("python-")
    return wire_codec.with_points(spelt) if is_python else spelt


def _call_of(wanted: WantedCall, kind: Kind | None, identity: Identity) -> Call:
    public_only = not identity.is_admin
    return Call(wanted.path, wanted.arguments, kind=kind, public_only=public_only, identity=identity.attributes)


def _fault_of(wanted: WantedCall) -> Outcome:
    """The answer of a call that no function can be given."""
    assert wanted.fault is not None
    return Outcome(None, CallError(wanted.fault, code=BadRequest.code), (), 0)
