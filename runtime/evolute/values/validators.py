"""Validators: which values a parameter, a result or a field accepts, and in which Python form a function receives them.
Here is what they all are, and those of single values; `containers.py` has those that hold others.

`parse` turns a value into what a function receives: a number annotated `int` arrives as int, one annotated `float` as
float, an object annotated with a dataclass as its instance. `dump` goes the other way, for results and documents, and
checks the same. Both raise ValidationFailed with the texts of semantics E3, which name the place inside the value.

Ids are checked for their table, never for existence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import ClassVar, Protocol

import orjson

from evolute.errors import InvalidId, ValidationFailed
from evolute.values.display import display
from evolute.values.document_id import decode_id
from evolute.values.value import UNDEFINED, WHOLE_MAX, CommitTs, Int64, Value
from evolute.values.wire_codec import encode


class Resolver(Protocol):
    """What is known of the tables: a transaction, to which a look-up is a read."""

    def table_number(self, name: str) -> int | None: ...

    def table_name(self, number: int) -> str | None: ...


class Mismatch(Exception):
    """A value that does not match. `render` makes the text of it from the path, to which the way up adds its steps."""

    def __init__(self, render: Callable[[str], str]) -> None:
        super().__init__()
        self.render = render
        self.steps: list[str] = []

    def text(self) -> str:
        return self.render("Path: " + "".join(reversed(self.steps)) if self.steps else "")


class Describable(ABC):
    """What may stand for a field of an object: a validator, or one that is optional."""

    __slots__ = ()

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """As Convex's tools read validators."""

    @abstractmethod
    def describe(self) -> str:
        """As messages show it: `v.object({body: v.string()})`."""

    def __repr__(self) -> str:
        return self.describe()


class Validator(Describable):
    """Accepts some values and refuses the others. Immutable.

    `plain_types`: every value of exactly one of these types is accepted, both ways, and stays as it is.
    """

    __slots__ = ()

    @property
    def plain_types(self) -> frozenset[type]:
        return frozenset()

    def parse(self, value: Value, resolver: Resolver) -> object:
        """What a function receives for `value`. Raises ValidationFailed."""
        return self._run(value, resolver, receiving=True)

    def dump(self, value: object, resolver: Resolver) -> Value:
        """The value of what a function gave. Raises ValidationFailed.

        Under an `AnyValue` things pass that are not values; encoding refuses them.
        """
        result: Value = self._run(value, resolver, receiving=False)  # type: ignore[assignment]
        return result

    def _run(self, value: object, resolver: Resolver, receiving: bool) -> object:
        try:
            return self._check(value, resolver, receiving)
        except Mismatch as mismatch:
            raise ValidationFailed(mismatch.text()) from None

    @abstractmethod
    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        """The converted value. Raises Mismatch."""

    def _no_match(self, value: object) -> Mismatch:
        return Mismatch(
            lambda path: (
                f"Value does not match validator.\n{path}\nValue: {display(value)}\nValidator: {self.describe()}"
            )
        )


# --- Leaves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class AnyValue(Validator):
    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if value is UNDEFINED:
            raise self._no_match(value)
        return value

    def to_json(self) -> dict[str, object]:
        return {"type": "any"}

    def describe(self) -> str:
        return "v.any()"


class _OfType(Validator):
    """Accepts the values of one Python type, as they are."""

    __slots__ = ()
    python_type: ClassVar[type]
    json_type: ClassVar[str]
    method: ClassVar[str]

    @property
    def plain_types(self) -> frozenset[type]:
        return frozenset((self.python_type,))

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if not isinstance(value, self.python_type):
            raise self._no_match(value)
        return value

    def to_json(self) -> dict[str, object]:
        return {"type": self.json_type}

    def describe(self) -> str:
        return f"v.{self.method}()"


@dataclass(frozen=True, slots=True, repr=False)
class Null(_OfType):
    python_type, json_type, method = NoneType, "null", "null"


@dataclass(frozen=True, slots=True, repr=False)
class Boolean(_OfType):
    python_type, json_type, method = bool, "boolean", "boolean"


@dataclass(frozen=True, slots=True, repr=False)
class Int64Number(_OfType):
    python_type, json_type, method = Int64, "bigint", "int64"

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if isinstance(value, Int64) or (isinstance(value, CommitTs) and not receiving):
            return value  # the commit makes it one
        raise self._no_match(value)


@dataclass(frozen=True, slots=True, repr=False)
class String(_OfType):
    python_type, json_type, method = str, "string", "string"


@dataclass(frozen=True, slots=True, repr=False)
class Bytes(_OfType):
    python_type, json_type, method = bytes, "bytes", "bytes"


@dataclass(frozen=True, slots=True, repr=False)
class Number(Validator):
    """A float64. `whole`: it must be a whole number, and arrives as int. `as_float`: it arrives as float."""

    whole: bool = False
    as_float: bool = False

    @property
    def plain_types(self) -> frozenset[type]:
        return frozenset((int,) if self.whole else (float,) if self.as_float else (int, float))

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if not isinstance(value, (int, float)) or isinstance(value, (bool, Int64)):
            raise self._no_match(value)
        if self.whole:
            if isinstance(value, float):
                if not (value.is_integer() and -WHOLE_MAX <= value <= WHOLE_MAX):
                    raise self._no_match(value)
                return int(value)
            return value
        return float(value) if receiving and self.as_float else value

    def to_json(self) -> dict[str, object]:
        return {"type": "number"}

    def describe(self) -> str:
        return "v.float64() that is a whole number" if self.whole else "v.float64()"


@dataclass(frozen=True, slots=True, repr=False)
class IdOf(Validator):
    """The id of a document of `table`, whether it exists or not; of any table if that is None."""

    table: str | None = None

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if not isinstance(value, str):
            raise self._no_match(value)
        try:
            number, _ = decode_id(value)
        except InvalidId:
            raise self._no_match(value) from None
        if self.table is not None and resolver.table_number(self.table) != number:
            raise self._other_table(value, resolver.table_name(number))
        return value

    def _other_table(self, value: str, found: str | None) -> Mismatch:
        if found is None:
            return self._no_match(value)
        origin = "a system table" if found.startswith("_") else f"table `{found}`"
        return Mismatch(
            lambda path: (
                f'Found ID "{value}" from {origin}, which does not match the table name in validator '
                f"`{self.describe()}`.{path}"
            )
        )

    def to_json(self) -> dict[str, object]:
        return {"type": "string"} if self.table is None else {"type": "id", "tableName": self.table}

    def describe(self) -> str:
        return "v.id()" if self.table is None else f'v.id("{self.table}")'


@dataclass(frozen=True, slots=True, repr=False)
class Literal(Validator):
    """Exactly this value; True is not 1, and neither is Int64(1)."""

    value: str | int | float | bool

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if _kind(value) is not _kind(self.value) or value != self.value:
            raise Mismatch(
                lambda path: f"`{display(value)}` does not match literal validator `{self.describe()}`.{path}"
            )
        return self.value

    def to_json(self) -> dict[str, object]:
        return {"type": "literal", "value": orjson.loads(encode(self.value))}

    def describe(self) -> str:
        return f"v.literal({display(self.value)})"


def _kind(value: object) -> type:
    """The type that tells values apart which Python takes for equal."""
    for kind in (bool, Int64, str):
        if isinstance(value, kind):
            return kind
    return float if isinstance(value, (int, float)) else object
