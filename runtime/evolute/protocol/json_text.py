"""JSON of what is not a value: what a function logged or raised, and the fields of messages."""

from __future__ import annotations

import orjson


def json_text(tree: object) -> bytes:
    """Text that a function logged or raised may hold lone surrogates; they become `?`, or no client could read it."""
    try:
        return orjson.dumps(tree)
    except orjson.JSONEncodeError:
        return orjson.dumps(_without_surrogates(tree))


def _without_surrogates(tree: object) -> object:
    match tree:
        case str():
            return tree.encode("utf-8", "replace").decode("utf-8")
        case dict():
            return {key: _without_surrogates(item) for key, item in tree.items()}
        case list() | tuple():
            return [_without_surrogates(item) for item in tree]
        case _:
            return tree
