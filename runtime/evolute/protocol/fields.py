"""The fields of one JSON object that came from outside, read one at a time, each with its type.

Every method takes a name and raises MalformedMessage, which says where (`ModifyQuerySet.modifications[1].queryId`),
what was expected and what was found. `optional_*` treats an absent field and `null` alike, as the clients do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from evolute.errors import MalformedMessage

NUMBER_MAX: Final = 2**32 - 1
SHOWN_CHARACTERS_MAX: Final = 64


class Fields:
    def __init__(self, where: str, tree: Mapping[str, object]) -> None:
        self.where = where
        self.tree = tree

    @classmethod
    def of_message(cls, text: str | bytes) -> Fields:
        """The fields of a whole message; `where` is its type."""
        try:
            tree = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise MalformedMessage(f"The message is not JSON: {error}.") from error
        if not isinstance(tree, dict):
            raise MalformedMessage(f"A message must be a JSON object, got {shown(tree)}.")
        kind = tree.get("type")
        return cls(kind[:SHOWN_CHARACTERS_MAX] if isinstance(kind, str) else "The message", tree)

    def has(self, name: str) -> bool:
        return name in self.tree

    def any(self, name: str) -> object:
        try:
            return self.tree[name]
        except KeyError:
            raise MalformedMessage(f"{self.where}.{name} is missing.") from None

    def raw(self, name: str) -> bytes:
        """The field's JSON."""
        return orjson.dumps(self.any(name))

    def string(self, name: str) -> str:
        found = self.tree.get(name)
        if isinstance(found, str):
            return found
        raise self._wrong(name, "a string", self.any(name))

    def boolean(self, name: str) -> bool:
        found = self.any(name)
        if not isinstance(found, bool):
            raise self._wrong(name, "true or false", found)
        return found

    def number(self, name: str) -> int:
        """A version or an id: 0 to 2^32 - 1."""
        found = self.tree.get(name)
        if isinstance(found, int) and 0 <= found <= NUMBER_MAX and not isinstance(found, bool):
            return found
        raise self._wrong(name, f"a whole number from 0 to {NUMBER_MAX}", self.any(name))

    def optional_whole(self, name: str) -> int | None:
        """Any whole number; one that is written with a point (`3.0`) is whole too."""
        match self.tree.get(name):
            case None:
                return None
            case int() as found if not isinstance(found, bool):
                return found
            case float() as found if found.is_integer():
                return int(found)
            case found:
                raise self._wrong(name, "a whole number", found)

    def optional_string(self, name: str) -> str | None:
        return None if self.tree.get(name) is None else self.string(name)

    def optional_boolean(self, name: str) -> bool | None:
        return None if self.tree.get(name) is None else self.boolean(name)

    def strings(self, name: str) -> tuple[str, ...]:
        found = self.any(name)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self._wrong(name, "a list of strings", found)
        return tuple(found)

    def mapping(self, name: str) -> Fields:
        return self._mapping(name, self.any(name))

    def optional_mapping(self, name: str) -> Fields | None:
        return None if self.tree.get(name) is None else self.mapping(name)

    def mappings(self, name: str) -> Iterator[Fields]:
        found = self.any(name)
        if not isinstance(found, list):
            raise self._wrong(name, "a list", found)
        return (self._mapping(f"{name}[{place}]", item) for place, item in enumerate(found))

    def _mapping(self, name: str, found: object) -> Fields:
        if not isinstance(found, dict):
            raise self._wrong(name, "an object", found)
        return Fields(f"{self.where}.{name}", found)

    def _wrong(self, name: str, expected: str, found: object) -> MalformedMessage:
        return MalformedMessage(f"{self.where}.{name} must be {expected}, got {shown(found)}.")


def shown(tree: object) -> str:
    """The beginning of its JSON, for messages."""
    try:
        text = orjson.dumps(tree).decode("utf-8")
    except orjson.JSONEncodeError:
        return "what is too deep to be shown"  # orjson reads deeper trees than it writes
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
