"""How the HTTP endpoints say no: a status, and a body of `code` and `message`, on both of which clients rely (§6.2)."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from evolute.errors import BadRequest, DiskFault, EvoluteError, KeyIsReadOnly, Retry, Unauthorized

RETRY_AFTER_S = "1"


class HttpError(Exception):
    """A request that no function was run for."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def response(self) -> Response:
        return json_response({"code": self.code, "message": str(self)}, self.status)


class JsonResponse(Response):
    """What is JSON already. Starlette's constructor looks for much that is never there."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


def bad_json_body(message: str) -> HttpError:
    return HttpError(400, "BadJsonBody", message)


def json_response(tree: object, status: int = 200) -> Response:
    return JsonResponse(orjson.dumps(tree), status)


def response_to_error(error: EvoluteError) -> Response | None:
    """The answer for an error of ours that is no function's; None if it is not for the client to know."""
    match error:
        case Retry() | DiskFault():
            status = 503
        case KeyIsReadOnly():
            status = 403
        case Unauthorized():
            status = 401
        case BadRequest():
            status = 400
        case _:
            return None
    response = HttpError(status, error.code, str(error)).response
    if isinstance(error, Retry):
        response.headers["retry-after"] = RETRY_AFTER_S
    return response
