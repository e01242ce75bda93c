"""Validators that hold others: arrays, objects, records and unions.

Objects are closed: a field that the validator does not name is an error. A field may be optional, which means absent;
null is not absent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from evolute.errors import DefinitionError
from evolute.values.display import display
from evolute.values.row_types import RowType, refusal, row_type
from evolute.values.validators import Describable, IdOf, Mismatch, Resolver, String, Validator
from evolute.values.value import UNDEFINED

FIELD_NAME_CHARACTERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True, repr=False)
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
        except Mismatch as mismatch:
            mismatch.steps.append(f"[{len(result)}]")
            raise
        return result

    def to_json(self) -> dict[str, object]:
        return {"type": "array", "value": self.item.to_json()}

    def describe(self) -> str:
        return f"v.array({self.item.describe()})"


@dataclass(frozen=True, slots=True, repr=False)
class Field(Describable):
    """A field of an object; an optional one may be absent."""

    validator: Validator
    optional: bool = False

    def to_json(self) -> dict[str, object]:
        return {"fieldType": self.validator.to_json(), "optional": self.optional}

    def describe(self) -> str:
        return f"v.optional({self.validator.describe()})" if self.optional else self.validator.describe()


@dataclass(frozen=True, slots=True, repr=False)
class ObjectOf(Validator):
    """An object with these fields and no others. `row` is the row type that it was made from, if any."""

    fields: Mapping[str, Field]
    row: type | None = None
    _row_type: RowType | None = dataclasses.field(init=False, compare=False)
    _plain_types: Mapping[str, frozenset[type]] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", dict(sorted(self.fields.items())))
        object.__setattr__(self, "_row_type", None if self.row is None else row_type(self.row))
        plain_types = {name: field.validator.plain_types for name, field in self.fields.items()}
        object.__setattr__(self, "_plain_types", plain_types)

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        given = self._given(value, receiving)
        row = self._row_type
        builds = row is not None and (receiving or row.checks_itself)
        if not builds and self._is_plain(given):
            return given
        result: dict[str, object] = {}
        for name, field in self.fields.items():
            item = given.get(name, UNDEFINED)
            if item is UNDEFINED:
                if not field.optional:
                    raise self._missing(name, given)
                continue
            try:
                result[name] = field.validator._check(item, resolver, receiving)
            except Mismatch as mismatch:
                mismatch.steps.append(f".{name}")
                raise
        if len(result) != len(given):
            extra = sorted(name for name in given if name not in self.fields)
            if extra:
                raise self._extra(extra[0], given)
        if row is not None and builds:
            built = self._built(row, result)
            return built if receiving else result
        return result

    def _is_plain(self, given: dict[str, object]) -> bool:
        """Whether it is easy to see that these are all of the fields, and that they stay as they are."""
        types = self._plain_types
        return len(given) == len(types) and all(
            name in types and type(item) in types[name] for name, item in given.items()
        )

    def _given(self, value: object, receiving: bool) -> dict[str, object]:
        if isinstance(value, dict):
            return value
        fields = None if receiving or self._row_type is None else self._row_type.fields_of(value)
        if fields is None:
            raise self._no_match(value)
        return fields

    def _built(self, row: RowType, fields: dict[str, object]) -> object:
        try:
            return row.build(fields)
        except ValueError as error:
            reason = f"{row.python.__qualname__} does not accept the value: {refusal(error)}"
        raise Mismatch(lambda path: f"{reason}\n{path}\nValue: {display(fields)}\nValidator: {self.describe()}")

    def _missing(self, name: str, given: dict[str, object]) -> Mismatch:
        return Mismatch(
            lambda path: (
                f"Object is missing the required field `{name}`. Consider wrapping the field validator in "
                f"`v.optional(...)` if this is expected.\n"
                f"{path}\nObject: {display(given)}\nValidator: {self.describe()}"
            )
        )

    def _extra(self, name: str, given: dict[str, object]) -> Mismatch:
        return Mismatch(
            lambda path: (
                f"Object contains extra field `{name}` that is not in the validator.\n"
                f"{path}\nObject: {display(given)}\nValidator: {self.describe()}"
            )
        )

    def pick(self, *names: str) -> ObjectOf:
        """An object with these fields only. Raises DefinitionError for a name that it does not have."""
        self._know(names, "pick")
        return ObjectOf({name: self.fields[name] for name in names})

    def omit(self, *names: str) -> ObjectOf:
        """An object without these fields. Raises DefinitionError for a name that it does not have."""
        self._know(names, "omit")
        return ObjectOf({name: field for name, field in self.fields.items() if name not in names})

    def extend(self, fields: Mapping[str, Describable]) -> ObjectOf:
        """An object with these fields too; one of the same name takes the place of the old one."""
        return ObjectOf({**self.fields, **checked_fields(fields, "extend")})

    def partial(self) -> ObjectOf:
        """An object all of whose fields may be absent."""
        return ObjectOf({name: Field(field.validator, optional=True) for name, field in self.fields.items()})

    def _know(self, names: tuple[str, ...], method: str) -> None:
        for name in names:
            if name not in self.fields:
                raise DefinitionError(f"{method}: {self.describe()} has no field `{name}`")

    def to_json(self) -> dict[str, object]:
        return {"type": "object", "value": {name: field.to_json() for name, field in self.fields.items()}}

    def describe(self) -> str:
        return f"v.object({{{', '.join(f'{name}: {field.describe()}' for name, field in self.fields.items())}}})"


@dataclass(frozen=True, slots=True, repr=False)
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
        except Mismatch as mismatch:
            mismatch.steps.append(step)
            raise
        return result

    def to_json(self) -> dict[str, object]:
        return {"type": "record", "keys": self.key.to_json(), "values": Field(self.item).to_json()}

    def describe(self) -> str:
        return f"v.record({self.key.describe()}, {self.item.describe()})"


@dataclass(frozen=True, slots=True, repr=False)
class UnionOf(Validator):
    """What any member accepts; the first that does converts it."""

    members: tuple[Validator, ...]

    def _check(self, value: object, resolver: Resolver, receiving: bool) -> object:
        if len(self.members) == 1:
            return self.members[0]._check(value, resolver, receiving)
        for member in self.members:
            try:
                return member._check(value, resolver, receiving)
            except Mismatch:
                continue
        raise self._no_match(value)

    def to_json(self) -> dict[str, object]:
        return {"type": "union", "value": [member.to_json() for member in self.members]}

    def describe(self) -> str:
        return f"v.union({', '.join(member.describe() for member in self.members)})"


# --- What an author may have written ----------------------------------------------------------------------------------


def checked_validator(given: object, where: str) -> Validator:
    """`given`, if it is a validator. Raises DefinitionError, which begins with `where`."""
    if isinstance(given, Validator):
        return given
    if isinstance(given, Field):
        raise DefinitionError(f"{where}: v.optional(…) stands for a field of an object, and nowhere else")
    if getattr(given, "__module__", "") == "evolute.values.v":
        name = getattr(given, "__name__", given)
        raise DefinitionError(f"{where}: v.{name} is not called; write v.{name}(…)")
    raise DefinitionError(f"{where}: {given!r} is not a validator; validators are v.string(), v.array(v.id(…)) …")


def checked_fields(given: object, where: str) -> dict[str, Field]:
    """The fields of an object, from a dict of validators. Raises DefinitionError, which names the field."""
    if not isinstance(given, Mapping):
        raise DefinitionError(f"{where}: {given!r} is not a dict of validators")
    fields: dict[str, Field] = {}
    for name, item in given.items():
        if not isinstance(name, str):
            raise DefinitionError(f"{where}: {name!r} is not a str, as names of fields are")
        fault = field_name_fault(name)
        if fault is not None:
            raise DefinitionError(f"{where}, field `{name}`: {fault}")
        fields[name] = item if isinstance(item, Field) else Field(checked_validator(item, f"{where}, field `{name}`"))
    return fields


def field_name_fault(name: str) -> str | None:
    """What is wrong with the name of a field, if anything."""
    plain = name.isascii() and name.isprintable() and not name.startswith("$")
    if plain and len(name) <= FIELD_NAME_CHARACTERS_MAX:
        return None
    most = FIELD_NAME_CHARACTERS_MAX
    return f"a field name is printable ASCII, does not begin with `$` and has at most {most} characters"


def is_record_key(validator: Validator) -> bool:
    """Whether the names of a record's fields can be such: strings, ids, and unions of these."""
    if isinstance(validator, UnionOf):
        return bool(validator.members) and all(map(is_record_key, validator.members))
    return isinstance(validator, (String, IdOf))
