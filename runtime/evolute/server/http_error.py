"""How the HTTP endpoints say no: a status, and a body of `code` and `message`, on both of which clients rely (§6.2)."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from evolute.errors import BadRequest, DiskFault, EvoluteError, KeyIsReadOnly, Retry, Unauthorized


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
        case KeyIsReadOnly():
            status = 403
        case Unauthorized():
            status = 401
        case BadRequest():
            status = 400
        case _:
            return None
    return HttpError(status, error.code, str(error)).response
