"""The arguments of a call that a function makes: Python values in, canonical JSON out, checked against the target."""

from __future__ import annotations

from collections.abc import Mapping

from evolute.errors import InvalidValue, LimitReached
from evolute.limits import Limits
from evolute.registry.definition import FunctionDefinition, named_arguments
from evolute.values import wire_codec
from evolute.values.validators import Resolver
from evolute.values.value import COMMIT_TS, not_a_value


def encode_arguments(
    definition: FunctionDefinition,
    positional: tuple[object, ...],
    named: Mapping[str, object],
    resolver: Resolver,
    limits: Limits,
) -> bytes:
    """Raises ValidationFailed for arguments that the target refuses, LimitReached if they are too large."""
    value = definition.unbind(named_arguments(definition, positional, named), resolver)
    try:
        data = encode_settled(value, limits)
    except InvalidValue as error:
        raise InvalidValue(f"Invalid arguments for {definition.path}: {error}") from None
    check_size(definition.path, data, limits)
    return data


def encode_settled(value: object, limits: Limits) -> bytes:
    """What leaves a transaction: unlike a document it may wait for no commit. Raises InvalidValue."""
    data = wire_codec.encode(value, limits)
    if wire_codec.COMMIT_TS_PLACEHOLDER in data:
        raise InvalidValue(not_a_value(COMMIT_TS))
    return data


def check_size(path: str, arguments: bytes, limits: Limits) -> None:
    """Raises LimitReached."""
    if len(arguments) > limits.arguments_bytes_max:
        raise LimitReached(
            f"Arguments for {path} are too large (actual: {len(arguments)} bytes, "
            f"limit: {limits.arguments_bytes_max} bytes; the setting is arguments_bytes_max)"
        )
