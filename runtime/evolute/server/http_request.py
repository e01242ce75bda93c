"""What every endpoint takes from a request before it does anything: who asks, the body, the id of the request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
from starlette.types import Receive

from evolute.clock import random_bytes
from evolute.errors import KeyIsReadOnly
from evolute.execution.request import Kind
from evolute.limits import Limits
from evolute.protocol.fields import shown
from evolute.server.auth import Authenticator
from evolute.server.http_error import HttpError, bad_json_body
from evolute.sync.identity import Identity

CLIENT_CLOSED_REQUEST = 408

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class HttpRequest(Protocol):
    """What endpoints read of a request: Starlette's `Request`, or a `PlainRequest`."""

    @property
    def method(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By their names in lower case."""
        ...

    @property
    def query_params(self) -> Mapping[str, str]: ...

    @property
    def receive(self) -> Receive:
        """For the body, once."""
        ...


async def wait_identity(request: HttpRequest, authenticator: Authenticator) -> Identity:
    """Who asks. Raises Unauthorized, and IssuerUnavailable if that cannot be known."""
    header = request.headers.get("authorization")
    key = request.query_params.get("adminKey")
    found = authenticator.identity_of_header(f"Convex {key}" if header is None and key else header)
    return found if isinstance(found, Identity) else await found


def require_admin(identity: Identity) -> None:
    """Raises HttpError for everybody else."""
    if not identity.is_admin:
        raise HttpError(403, "BadDeployKey", "This endpoint needs the admin key: `Authorization: Convex <key>`.")


def require_full_key(identity: Identity) -> None:
    """For what changes something. Raises HttpError, and KeyIsReadOnly for a key that may only look."""
    require_admin(identity)
    if identity.is_read_only:
        raise KeyIsReadOnly(f"The admin key {identity.key_name!r} is read-only, and this endpoint changes something.")


def require_may_run(identity: Identity, kind: Kind) -> None:
    """Raises KeyIsReadOnly."""
    refusal = identity.refusal(kind)
    if refusal is not None:
        raise KeyIsReadOnly(refusal)


def request_id_of(request: HttpRequest) -> str:
    """The name of the call in its error text: the one that a proxy gave it, or else a new one."""
    given = request.headers.get("convex-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else random_bytes(8).hex()


async def read_json_body(request: HttpRequest, limits: Limits) -> bytes:
    """A body of JSON, not parsed yet. Raises HttpError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise bad_json_body(f"The Content-Type must be application/json, got {media_type or 'none'!r}.")
    bytes_max = limits.http_body_bytes_max
    return await read_body(request, bytes_max, f"The body is longer than {bytes_max} bytes (http_body_bytes_max).")


async def read_body(request: HttpRequest, bytes_max: int, too_long: str) -> bytes:
    """Any body. Raises HttpError."""
    parts: list[bytes] = []
    size_bytes, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise HttpError(CLIENT_CLOSED_REQUEST, "ClientDisconnected", "The client went away.")
        parts.append(message.get("body", b""))
        size_bytes += len(parts[-1])
        if size_bytes > bytes_max:
            raise bad_json_body(too_long)
        more = message.get("more_body", False)
    return b"".join(parts)


def json_object(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises HttpError."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_json_body(f"The body is not JSON: {error}.") from None
    if not isinstance(tree, dict):
        raise bad_json_body(f"The body must be a JSON object, got {shown(tree)}.")
    return tree
