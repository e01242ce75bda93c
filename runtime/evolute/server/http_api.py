"""One-shot calls over HTTP: POST /api/query, /api/mutation, /api/action, and /api/function for administrators.

A function that ran, even one that raised, is answered with 200 and `status`; every other end has an HTTP status of its
own and a body of `code` and `message` (protocol §6.2). Clients rely on both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from evolute.clock import random_bytes
from evolute.errors import BadRequest, DiskFault, EvoluteError, FunctionNotFound, Retry, Unauthorized
from evolute.execution.executor import Executor
from evolute.execution.request import Call, CallError, Kind, Outcome
from evolute.limits import Limits
from evolute.protocol.codec import decode_arguments, encode_ts
from evolute.protocol.fields import shown
from evolute.server.auth import Authenticator
from evolute.sync.identity import Identity
from evolute.values import wire_codec
from evolute.values.function_path import canonical_path, missing_text

Format = Callable[[bytes], bytes]


def _as_it_is(value: bytes) -> bytes:
    return value


_FORMATS: Mapping[str, Format] = {
    "convex_encoded_json": _as_it_is,
    "convex_json": _as_it_is,
    "json": wire_codec.clean,
    "convex_clean_json": wire_codec.clean,
}
_DEFAULT_FORMAT = "json"

CLIENT_CLOSED_REQUEST = 408


class HttpError(Exception):
    """A request that no function was run for."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def response(self) -> Response:
        return json_response({"code": self.code, "message": str(self)}, self.status)


def bad_json_body(message: str) -> HttpError:
    return HttpError(400, "BadJsonBody", message)


def json_response(tree: object, status: int = 200) -> Response:
    return Response(orjson.dumps(tree), status, media_type="application/json")


def response_to_error(error: EvoluteError) -> Response | None:
    """The answer for an error of ours that is no function's; None if it is not for the client to know."""
    match error:
        case Retry() | DiskFault():
            status = 503
        case Unauthorized():
            status = 401
        case BadRequest():
            status = 400
        case _:
            return None
    return HttpError(status, error.code, str(error)).response


@dataclass(frozen=True)
class HttpCall:
    """What a body asks for. `fault` is why the arguments cannot be given to any function."""

    path: str
    arguments: bytes
    fault: str | None
    format: Format


class HttpApi:
    """The endpoints. Each raises HttpError or an EvoluteError, which the application answers."""

    def __init__(
        self,
        executor: Executor,
        limits: Limits,
        authenticator: Authenticator,
        published_ts: Callable[[], int],
        *,
        redact: bool,
    ) -> None:
        self._executor = executor
        self._limits = limits
        self._authenticator = authenticator
        self._published_ts = published_ts
        self._redact = redact

    async def query(self, request: Request) -> Response:
        return await self._call(request, "query")

    async def mutation(self, request: Request) -> Response:
        return await self._call(request, "mutation")

    async def action(self, request: Request) -> Response:
        return await self._call(request, "action")

    async def function(self, request: Request) -> Response:
        """A function of any kind, internal ones too; for administrators."""
        return await self._call(request, None)

    async def query_ts(self, request: Request) -> Response:
        """The latest timestamp."""
        return json_response({"ts": encode_ts(self._published_ts())})

    async def _call(self, request: Request, kind: Kind | None) -> Response:
        identity = await identity_of(request, self._authenticator)
        if kind is None:
            require_admin(identity)
        wanted = _decode_body(await read_body(request, self._limits), self._limits)
        outcome = await self._run(wanted, kind, identity)
        return self._response(request, wanted.format, outcome)

    async def _run(self, wanted: HttpCall, kind: Kind | None, identity: Identity) -> Outcome:
        if wanted.fault is not None:
            return Outcome(None, CallError(wanted.fault, code=BadRequest.code), (), 0)
        public_only = not identity.is_admin
        call = Call(wanted.path, wanted.arguments, kind=kind, public_only=public_only, identity=identity.attributes)
        match kind:
            case "query":
                return await self._executor.query(call)
            case "mutation":
                return await self._executor.mutate(call)
            case "action":
                return await self._executor.act(call)
            case None:
                return await self._executor.run_any(call)

    def _response(self, request: Request, format: Format, outcome: Outcome) -> Response:
        def spelt(value: bytes) -> orjson.Fragment:
            spelt = format(value)
            # PyPI's http_client takes a bare `3` for something that is not a number of Convex's.
            is_python = request.headers.get("convex-client", "").startswith("python-")
            return orjson.Fragment(wire_codec.with_points(spelt) if is_python else spelt)

        tree: dict[str, object]
        if outcome.error is None:
            assert outcome.value is not None
            tree = {"status": "success", "value": spelt(outcome.value)}
        else:
            text = outcome.error.client_text(random_bytes(8).hex(), redact=self._redact)
            tree = {"status": "error", "errorMessage": _encodable(text)}
            if outcome.error.data is not None:
                tree["errorData"] = spelt(outcome.error.data)
        if outcome.log_lines and not self._redact:
            tree["logLines"] = [_encodable(line) for line in outcome.log_lines]
        return json_response(tree)


async def identity_of(request: Request, authenticator: Authenticator) -> Identity:
    """Who asks. Raises Unauthorized, and IssuerUnavailable if that cannot be known."""
    header = request.headers.get("authorization")
    key = request.query_params.get("adminKey")
    return await authenticator.wait_identity(f"Convex {key}" if header is None and key else header)


def require_admin(identity: Identity) -> None:
    """Raises HttpError for everybody else."""
    if not identity.is_admin:
        raise HttpError(403, "BadDeployKey", "This endpoint needs the admin key: `Authorization: Convex <key>`.")


async def read_body(request: Request, limits: Limits) -> bytes:
    """A body of JSON, not parsed yet. Raises HttpError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise bad_json_body(f"The Content-Type must be application/json, got {media_type or 'none'!r}.")
    bytes_max = limits.http_body_bytes_max
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise bad_json_body(f"The body is longer than {bytes_max} bytes (http_body_bytes_max).")
    except ClientDisconnect:
        raise HttpError(CLIENT_CLOSED_REQUEST, "ClientDisconnected", "The client went away.") from None
    return bytes(body)


def _encodable(text: str) -> str:
    """What functions print and raise may hold lone surrogates, which JSON cannot; they become `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises HttpError."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_json_body(f"The body is not JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise bad_json_body(f"The body must be a JSON object, got {shown(tree)}.")
    return tree


def _decode_body(body: bytes, limits: Limits) -> HttpCall:
    """Raises HttpError, which names what is wrong."""
    tree = json_object(body)
    written_path = tree.get("path")
    if not isinstance(written_path, str):
        raise bad_json_body(f"The field `path` must be a string, got {shown(written_path)}.")
    if "args" not in tree:
        raise bad_json_body("The field `args` is missing: the object of named arguments.")
    format_name = tree.get("format") or _DEFAULT_FORMAT
    format = _FORMATS.get(format_name) if isinstance(format_name, str) else None
    if format is None:
        names = ", ".join(_FORMATS)
        raise HttpError(400, "BadFormat", f"There is no format {shown(format_name)}; there are {names}.")
    try:
        path = canonical_path(written_path)
    except FunctionNotFound as error:
        raise HttpError(400, "BadConvexFunctionIdentifier", str(error)) from None
    if tree.get("componentPath"):
        return HttpCall(path, b"{}", missing_text(path), format)
    arguments, fault = decode_arguments(path, tree["args"], limits)
    return HttpCall(path, arguments, fault, format)
