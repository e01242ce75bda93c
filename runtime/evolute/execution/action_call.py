"""What every action passes on its way in and out, whichever lane it runs in."""

from __future__ import annotations

import inspect
from typing import Any

from evolute.errors import BadRequest, InvalidQuery
from evolute.execution.arguments import check_size
from evolute.execution.invocation import check_kind, encode_result, find
from evolute.execution.request import WRONG_DEPLOYMENT, WRONG_LANE, Call, FunctionRequest, Refusal
from evolute.limits import Limits
from evolute.registry.definition import FunctionDefinition
from evolute.registry.registry import Registry
from evolute.values import wire_codec
from evolute.values.validators import Resolver


def refusal(request: FunctionRequest, registry: Registry, *, blocking: bool) -> Refusal | None:
    """Why the request is not for this worker: other code is loaded, or in this code the action is of the other lane.

    Nothing has run then, so the executor may ask again, and another worker.
    """
    if request.deployment != registry.deployment:
        return WRONG_DEPLOYMENT
    (call,) = request.calls
    try:
        definition = find(registry, call)
    except BadRequest:
        return None  # the error of the call
    return WRONG_LANE if definition.kind == "action" and definition.blocking != blocking else None


def taken_in(
    registry: Registry, call: Call, names: Resolver, limits: Limits
) -> tuple[FunctionDefinition, dict[str, Any]]:
    """The action and its keyword arguments. Raises FunctionNotFound, WrongKind, LimitReached, ValidationFailed."""
    definition = find(registry, call)
    check_kind(definition, "action")
    check_size(definition.path, call.arguments, limits)
    arguments = wire_codec.decode_canonical(call.arguments)
    assert isinstance(arguments, dict), "arguments are the JSON of an object"
    return definition, definition.bind(arguments, names)


def given_out(definition: FunctionDefinition, returned: object, names: Resolver, limits: Limits) -> bytes:
    """The canonical JSON of what the action returned. Raises what is wrong with it."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise InvalidQuery(f"Function {definition.path} returned a coroutine; await it.")
    return encode_result(definition, definition.result(returned, names), limits)
