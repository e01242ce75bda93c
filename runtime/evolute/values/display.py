"""A value as an error message shows it: `{author: "ada", likes: 1.0, seen: null}`.

Numbers always have a point, so that they differ from an Int64. What is too long to read is cut short.
"""

from __future__ import annotations

from binascii import b2a_base64
from typing import Final

import orjson

from evolute.values.value import Int64, Undefined

_CHARACTERS_MAX: Final = 8192


def display(value: object) -> str:
    """`value` as text of bounded length; what is not a value is shown as Python shows it."""
    parts: list[str] = []
    room = _write(value, parts, _CHARACTERS_MAX)
    return "".join(parts) + ("…" if room <= 0 else "")


def _write(value: object, parts: list[str], room: int) -> int:
    """Appends to `parts` while there is room, and returns the room that is left."""
    if room <= 0:
        return room
    if isinstance(value, list):
        return _write_items("[", [("", item) for item in value[:room]], "]", parts, room)
    if isinstance(value, dict):
        fields = sorted(((str(name), item) for name, item in value.items()), key=lambda field: field[0])
        return _write_items("{", [(f"{name}: ", item) for name, item in fields], "}", parts, room)
    text = _leaf(value, room)[:room]
    parts.append(text)
    return room - len(text)


def _write_items(opening: str, items: list[tuple[str, object]], closing: str, parts: list[str], room: int) -> int:
    parts.append(opening)
    separator = ""
    for label, item in items:
        text = (separator + label)[:room]
        parts.append(text)
        room = _write(item, parts, room - len(text))
        if room <= 0:
            return room
        separator = ", "
    parts.append(closing)
    return room - len(opening) - len(closing)


def _leaf(value: object, room: int) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Int64):
        return str(value)
    if isinstance(value, str):
        return _quoted(value[:room])
    if isinstance(value, bytes):
        return f'b"{_base64(value[:room])}"'
    if isinstance(value, (int, float)):
        try:
            return repr(float(value))
        except OverflowError:
            return "inf"
    if isinstance(value, Undefined):
        return "undefined"
    return repr(value)[:200]


def _quoted(text: str) -> str:
    return orjson.dumps(text.encode(errors="replace").decode()).decode()


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()
