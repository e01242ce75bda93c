"""Validators: which values a parameter, a result or a field accepts, and in which Python form a function receives them.

`parse` turns a value into what a function receives: a number annotated `int` arrives as int, one annotated `float` as
float, an object annotated with a dataclass as its instance. `dump` goes the other way, for results and documents, and
checks the same. Both raise ValidationFailed with the texts of semantics E3, which name the place inside the value.

Objects are closed: a field that the validator does not name is an error. A field may be optional, which means absent;
null is not absent. Ids are checked for their table, never for existence.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import ClassVar, Protocol

from evolute.errors import InvalidId, ValidationFailed
from evolute.values.display import display
from evolute.values.document_id import decode_id
from evolute.values.value import UNDEFINED, WHOLE_MAX, Int64, Value


class Resolver(Protocol):
    """What is known of the tables: a transaction, to which a look-up is a read."""

    def table_number(self, name: str) -> int | None: ...

    def table_name(self, number: int) -> str | None: ...


class _Mismatch(Exception):
    """A value that does not match. `render` makes the text of it from the path, to which the way up adds its steps."""

    def __init__(self, render: Callable[[str], str]) -> None:
        super().__init__()
        self.render = render
        self.steps: list[str] = []

    def text(self) -> str:
        return self.render("Path: " + "".join(reversed(self.steps)) if self.steps else "")


class Validator(ABC):
    """Accepts some values and refuses the others. Immutable."""

    __slots__ = ()

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
        except _Mismatch as mismatch:
            raise ValidationFailed(mismatch.text()) from None

    @abstractmethod
    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        """The converted value. Raises _Mismatch."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """As Convex's tools read validators."""

    @abstractmethod
    def describe(self) -> str:
        """As messages show it: `v.object({body: v.string()})`."""

    def _no_match(self, value: object) -> _Mismatch:
        return _Mismatch(
            lambda path: (
                f"Value does not match validator.\n{path}\nValue: {display(value)}\nValidator: {self.describe()}"
            )
        )


# --- Leaves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
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

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if not isinstance(value, self.python_type):
            raise self._no_match(value)
        return value

    def to_json(self) -> dict[str, object]:
        return {"type": self.json_type}

    def describe(self) -> str:
        return f"v.{self.method}()"


@dataclass(frozen=True, slots=True)
class Null(_OfType):
    python_type, json_type, method = NoneType, "null", "null"


@dataclass(frozen=True, slots=True)
class Boolean(_OfType):
    python_type, json_type, method = bool, "boolean", "boolean"


@dataclass(frozen=True, slots=True)
class Int64Number(_OfType):
    python_type, json_type, method = Int64, "bigint", "int64"


@dataclass(frozen=True, slots=True)
class String(_OfType):
    python_type, json_type, method = str, "string", "string"


@dataclass(frozen=True, slots=True)
class Bytes(_OfType):
    python_type, json_type, method = bytes, "bytes", "bytes"


@dataclass(frozen=True, slots=True)
class Number(Validator):
    """A float64. `whole`: it must be a whole number, and arrives as int. `as_float`: it arrives as float."""

    whole: bool = False
    as_float: bool = False

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


@dataclass(frozen=True, slots=True)
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

    def _other_table(self, value: str, found: str | None) -> _Mismatch:
        if found is None:
            return self._no_match(value)
        origin = "a system table" if found.startswith("_") else f"table `{found}`"
        return _Mismatch(
            lambda path: (
                f'Found ID "{value}" from {origin}, which does not match the table name in validator '
                f"`{self.describe()}`.{path}"
            )
        )

    def to_json(self) -> dict[str, object]:
        return {"type": "string"} if self.table is None else {"type": "id", "tableName": self.table}

    def describe(self) -> str:
        return "v.id()" if self.table is None else f'v.id("{self.table}")'


@dataclass(frozen=True, slots=True)
class Literal(Validator):
    """Exactly this value; True is not 1."""

    value: str | int | bool

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        same_kind = isinstance(value, bool) == isinstance(self.value, bool) and not isinstance(value, Int64)
        if not same_kind or value != self.value:
            raise _Mismatch(
                lambda path: f"`{display(value)}` does not match literal validator `{self.describe()}`.{path}"
            )
        return self.value

    def to_json(self) -> dict[str, object]:
        return {"type": "literal", "value": self.value}

    def describe(self) -> str:
        return f"v.literal({display(self.value)})"


# --- Containers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArrayOf(Validator):
    item: Validator

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if not isinstance(value, list):
            raise self._no_match(value)
        result: list[object] = []
        check = self.item._check
        try:
            for item in value:
                result.append(check(item, resolver, receiving))
        except _Mismatch as mismatch:
            mismatch.steps.append(f"[{len(result)}]")
            raise
        return result

    def to_json(self) -> dict[str, object]:
        return {"type": "array", "value": self.item.to_json()}

    def describe(self) -> str:
        return f"v.array({self.item.describe()})"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an object; an optional one may be absent."""

    validator: Validator
    optional: bool = False

    def to_json(self) -> dict[str, object]:
        return {"fieldType": self.validator.to_json(), "optional": self.optional}

    def describe(self) -> str:
        return f"v.optional({self.validator.describe()})" if self.optional else self.validator.describe()


@dataclass(frozen=True, slots=True)
class ObjectOf(Validator):
    """An object with these fields and no others. `row` is the TypedDict or dataclass that it was made from, if any."""

    fields: Mapping[str, Field]
    row: type | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", dict(sorted(self.fields.items())))

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        given = self._given(value, receiving)
        result: dict[str, object] = {}
        for name, field in self.fields.items():
            item = given.get(name, UNDEFINED)
            if item is UNDEFINED:
                if not field.optional:
                    raise self._missing(name, given)
                continue
            try:
                result[name] = field.validator._check(item, resolver, receiving)
            except _Mismatch as mismatch:
                mismatch.steps.append(f".{name}")
                raise
        if len(result) != len(given):
            extra = sorted(name for name in given if name not in self.fields)
            if extra:
                raise self._extra(extra[0], given)
        return self._built(result) if receiving and dataclasses.is_dataclass(self.row) else result

    def _given(self, value: object, receiving: bool) -> dict[str, object]:
        if isinstance(value, dict):
            return value
        # A TypedDict is no class to be an instance of.
        rows = not receiving and dataclasses.is_dataclass(self.row) and isinstance(value, self.row)
        if rows and dataclasses.is_dataclass(value):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        raise self._no_match(value)

    def _built(self, fields: dict[str, object]) -> object:
        assert self.row is not None
        # A document has system fields, which the dataclass of its fields need not declare.
        accepted = {field.name for field in dataclasses.fields(self.row) if field.init}
        return self.row(**{name: item for name, item in fields.items() if name in accepted})

    def _missing(self, name: str, given: dict[str, object]) -> _Mismatch:
        return _Mismatch(
            lambda path: (
                f"Object is missing the required field `{name}`. Consider wrapping the field validator in "
                f"`v.optional(...)` if this is expected.\n"
                f"{path}\nObject: {display(given)}\nValidator: {self.describe()}"
            )
        )

    def _extra(self, name: str, given: dict[str, object]) -> _Mismatch:
        return _Mismatch(
            lambda path: (
                f"Object contains extra field `{name}` that is not in the validator.\n"
                f"{path}\nObject: {display(given)}\nValidator: {self.describe()}"
            )
        )

    def to_json(self) -> dict[str, object]:
        return {"type": "object", "value": {name: field.to_json() for name, field in self.fields.items()}}

    def describe(self) -> str:
        return f"v.object({{{', '.join(f'{name}: {field.describe()}' for name, field in self.fields.items())}}})"


@dataclass(frozen=True, slots=True)
class RecordOf(Validator):
    """An object with any field names that `key` accepts."""

    key: Validator
    item: Validator

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if not isinstance(value, dict):
            raise self._no_match(value)
        result: dict[object, object] = {}
        step = ""
        try:
            for name, item in value.items():
                if item is UNDEFINED:
                    continue
                step = ".keys()"
                key = self.key._check(name, resolver, receiving)
                step = ".values()"
                result[key] = self.item._check(item, resolver, receiving)
        except _Mismatch as mismatch:
            mismatch.steps.append(step)
            raise
        return result

    def to_json(self) -> dict[str, object]:
        return {"type": "record", "keys": self.key.to_json(), "values": Field(self.item).to_json()}

    def describe(self) -> str:
        return f"v.record({self.key.describe()}, {self.item.describe()})"


@dataclass(frozen=True, slots=True)
class UnionOf(Validator):
    """What any member accepts; the first that does converts it."""

    members: tuple[Validator, ...]

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if len(self.members) == 1:
            return self.members[0]._check(value, resolver, receiving)
        for member in self.members:
            try:
                return member._check(value, resolver, receiving)
            except _Mismatch:
                continue
        raise self._no_match(value)

    def to_json(self) -> dict[str, object]:
        return {"type": "union", "value": [member.to_json() for member in self.members]}

    def describe(self) -> str:
        return f"v.union({', '.join(member.describe() for member in self.members)})"
