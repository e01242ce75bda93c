"""A call as a caller over HTTP spells it: path, arguments, and the format in which the answer is wanted.

    {"path": "messages:list", "args": {…} or [{…}], "format": "json"}

A request that names no function in a format that there is raises HttpError. Arguments that no function could be given
are the fault of the call, and its answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from evolute.errors import FunctionNotFound
from evolute.limits import Limits
from evolute.protocol.codec import decode_arguments
from evolute.protocol.fields import shown
from evolute.server.http_error import HttpError, bad_json_body
from evolute.server.http_request import HttpRequest
from evolute.values import wire_codec
from evolute.values.export_codec import exported
from evolute.values.function_path import canonical_path, missing_text

Format = Callable[[bytes], bytes]


def _as_it_is(value: bytes) -> bytes:
    return value


_FORMATS: Mapping[str, Format] = {
    "convex_encoded_json": _as_it_is,
    "convex_json": _as_it_is,
    "json": wire_codec.clean,
    "convex_clean_json": wire_codec.clean,
    "export_json": exported,
}

# Clients that were written before there was a choice: they expect the encoded form, and do not say so.
_CLIENT = re.compile(r"(npm|python)-(\d+)\.(\d+)\.(\d+)")
_FIRST_WITH_FORMATS = {"npm": (1, 4, 1), "python": (0, 5, 0)}


@dataclass(frozen=True)
class WantedCall:
    """`fault` is why the arguments cannot be given to any function."""

    path: str
    arguments: bytes
    fault: str | None
    format: Format


def wanted_call(tree: Mapping[str, Any], limits: Limits, *, ancient: bool, where: str = "") -> WantedCall:
    """The call of a body, of an `is_ancient` client or not. `where` comes before the names of its fields in messages.

    Raises HttpError.
    """
    written_path = tree.get("path")
    if not isinstance(written_path, str):
        raise bad_json_body(f"The field `{where}path` must be a string, got {shown(written_path)}.")
    if "args" not in tree:
        raise bad_json_body(f"The field `{where}args` is missing: the object of named arguments.")
    format = _format(tree.get("format"), ancient=ancient)
    try:
        path = canonical_path(written_path)
    except FunctionNotFound as error:
        raise HttpError(400, "BadConvexFunctionIdentifier", str(error)) from None
    if tree.get("componentPath"):
        return WantedCall(path, b"{}", missing_text(path), format)
    arguments, fault = decode_arguments(path, tree["args"], limits)
    return WantedCall(path, arguments, fault, format)


def wanted_by_address(request: HttpRequest, limits: Limits) -> WantedCall:
    """The call of `?path=…&args=<JSON>&format=…`. Raises HttpError."""
    parameters = request.query_params
    if "path" not in parameters:
        raise HttpError(400, "BadQueryParameter", "The parameter `path` is missing: the function to run.")
    try:
        arguments = orjson.loads(parameters.get("args") or "{}")
    except orjson.JSONDecodeError as error:
        raise HttpError(400, "BadQueryParameter", f"The parameter `args` is not JSON: {error}.") from None
    tree = {"path": parameters["path"], "args": arguments, "format": parameters.get("format")}
    return wanted_call(tree, limits, ancient=is_ancient(request))


def path_of_address(written: str) -> str:
    """`folder/module/function`, as it stands in an address, is `folder/module:function`. Raises HttpError."""
    module, _, name = written.rpartition("/")
    if not module or not name:
        text = f"There is no function in /api/run/{written}: it must be /api/run/<module>/<function>."
        raise HttpError(400, "BadConvexFunctionIdentifier", text)
    return f"{module}:{name}"


def _format(name: object, *, ancient: bool) -> Format:
    if name is None:
        name = "convex_encoded_json" if ancient else "json"
    format = _FORMATS.get(name) if isinstance(name, str) else None
    if format is None:
        raise HttpError(400, "BadFormat", f"There is no format {shown(name)}; there are {', '.join(_FORMATS)}.")
    return format


def is_ancient(request: HttpRequest) -> bool:
    """Whether it comes from a client that expects the encoded form without saying so."""
    found = _CLIENT.fullmatch(request.headers.get("convex-client", ""))
    return found is not None and tuple(map(int, found.groups()[1:])) < _FIRST_WITH_FORMATS[found.group(1)]
