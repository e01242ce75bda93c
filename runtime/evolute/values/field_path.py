"""A dotted path: the name of a nested field, as indexes and filters write it."""

from __future__ import annotations

from collections.abc import Mapping

from evolute.values.value import UNDEFINED, Value


def value_at(document: Mapping[str, Value], path: tuple[str, ...]) -> object:
    """The value at a dotted path, or UNDEFINED where a step is missing or leads into something that is no object."""
    if len(path) == 1:
        return document.get(path[0], UNDEFINED)
    value: object = document
    for step in path:
        if not isinstance(value, dict):
            return UNDEFINED
        value = value.get(step, UNDEFINED)
    return value
