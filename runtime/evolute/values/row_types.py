"""Row types: the classes of authors that describe objects, and how an object is turned into an instance and back.

    TypedDict       stays a dict
    dataclass       an instance of it; its defaults make fields optional
    pydantic model  an instance of it, under the names of its aliases; its own validators run both ways
    msgspec Struct  an instance of it, under its encoded names; its constraints are checked both ways
    `row_type`      what a class of ours names there is what is known of it

The last two are known if their library has been imported, as it has where somebody has written such a class: nothing
here imports it. The types of their fields are those of any row type.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from abc import ABC, abstractmethod
from types import UnionType
from typing import Any, ClassVar

from evolute.errors import DefinitionError
from evolute.values.value import Id

Declared = dict[str, tuple[object, bool]]


class RowType(ABC):
    """One such class."""

    __slots__ = ("python",)
    checks_itself: ClassVar[bool] = False
    """Whether `build` refuses more than what the types of the fields do."""

    def __init__(self, python: Any) -> None:
        self.python = python

    @abstractmethod
    def declared(self) -> Declared:
        """The fields by their names in objects: each one's hint, and whether it may be absent.

        Raises DefinitionError if that cannot be known.
        """

    def build(self, fields: dict[str, object]) -> object:
        """The instance. Fields that the class does not declare are left out. Raises ValueError if it refuses them."""
        return fields

    def fields_of(self, value: object) -> dict[str, object] | None:
        """The fields of an instance; None if `value` is none."""
        return None


def row_type(hint: object) -> RowType | None:
    """What is known of a class; None for one that describes no objects."""
    if typing.is_typeddict(hint):
        return TypedDictRow(hint)
    if not isinstance(hint, type):
        return None
    if isinstance(own := vars(hint).get("row_type"), RowType):
        return own
    if dataclasses.is_dataclass(hint):
        return DataclassRow(hint)
    pydantic, msgspec = sys.modules.get("pydantic.main"), sys.modules.get("msgspec")
    if (
        pydantic is not None
        and issubclass(hint, pydantic.BaseModel)
        and not getattr(hint, "__pydantic_root_model__", 0)
    ):
        return PydanticRow(hint)
    if msgspec is not None and issubclass(hint, msgspec.Struct):
        return MsgspecRow(hint)
    return None


def unresolved(error: Exception) -> str:
    """Why an annotation could not be evaluated, and what to do."""
    if isinstance(error, NameError):
        return (
            f"is not understood: {error.name!r} is not defined at module level. "
            "If it is a class defined inside a function, move the class to module level; "
            "if it is imported under TYPE_CHECKING, import it at run time"
        )
    return f"is not understood: {type(error).__name__}: {error}"


def refusal(error: ValueError) -> str:
    """Why a class did not accept its fields, in a line."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    return "; ".join(": ".join([*(str(step) for step in one["loc"]), one["msg"]]) for one in errors())


def _hints(row: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(row, include_extras=True)
    except Exception as error:
        raise _inside(row, error) from error


def _inside(row: Any, error: Exception) -> DefinitionError:
    return DefinitionError(f"an annotation inside {row.__qualname__} {unresolved(error)}")


class TypedDictRow(RowType):
    __slots__ = ()

    def declared(self) -> Declared:
        required: frozenset[str] = getattr(self.python, "__required_keys__", frozenset())
        return {name: _requirement(hint, name in required) for name, hint in _hints(self.python).items()}


def _requirement(hint: object, required: bool) -> tuple[object, bool]:
    """Takes off `Required` and `NotRequired`, which a TypedDict does not see in a postponed annotation."""
    optional = not required
    while (origin := typing.get_origin(hint)) in (typing.Required, typing.NotRequired, typing.Annotated):
        if origin is not typing.Annotated:
            optional = origin is typing.NotRequired
        hint = typing.get_args(hint)[0]
    return hint, optional


class DataclassRow(RowType):
    __slots__ = ("_accepted", "_names")

    def __init__(self, python: Any) -> None:
        super().__init__(python)
        self._names = [field.name for field in dataclasses.fields(python)]
        self._accepted = {field.name for field in dataclasses.fields(python) if field.init}

    def declared(self) -> Declared:
        missing, hints = dataclasses.MISSING, _hints(self.python)
        return {
            field.name: (hints[field.name], field.default is not missing or field.default_factory is not missing)
            for field in dataclasses.fields(self.python)
            if field.init
        }

    def build(self, fields: dict[str, object]) -> object:
        return self.python(**{name: item for name, item in fields.items() if name in self._accepted})

    def fields_of(self, value: object) -> dict[str, object] | None:
        if not isinstance(value, self.python):
            return None
        return {name: getattr(value, name) for name in self._names}


class PydanticRow(RowType):
    __slots__ = ("_accepted", "_outside")
    checks_itself = True

    def __init__(self, python: Any) -> None:
        super().__init__(python)
        self._outside = {name: field.validation_alias or name for name, field in python.model_fields.items()}
        self._accepted = {name for name in self._outside.values() if isinstance(name, str)}

    def declared(self) -> Declared:
        if not self.python.__pydantic_complete__:
            try:
                self.python.model_rebuild()
            except Exception as error:
                raise _inside(self.python, error) from error
        declared: Declared = {}
        for name, field in self.python.model_fields.items():
            outside = field.validation_alias or name
            if not isinstance(outside, str):
                raise DefinitionError(f"field `{name}` of {self.python.__qualname__}: an alias is one name, a str")
            declared[outside] = (field.annotation, not field.is_required())
        return declared

    def build(self, fields: dict[str, object]) -> object:
        return self.python.model_validate({name: item for name, item in fields.items() if name in self._accepted})

    def fields_of(self, value: object) -> dict[str, object] | None:
        if not isinstance(value, self.python):
            return None
        return {outside: getattr(value, name) for name, outside in self._outside.items()}


class MsgspecRow(RowType):
    __slots__ = ("_accepted", "_outside", "_tag")
    checks_itself = True

    def __init__(self, python: Any) -> None:
        super().__init__(python)
        self._outside = dict(zip(python.__struct_fields__, python.__struct_encode_fields__, strict=True))
        config = python.__struct_config__
        self._tag = {} if config.tag is None else {config.tag_field: config.tag}
        self._accepted = {*self._outside.values(), *self._tag}

    def declared(self) -> Declared:
        if self.python.__struct_config__.array_like:
            raise DefinitionError(f"{self.python.__qualname__} is array_like; it has to be an object")
        try:
            fields = sys.modules["msgspec"].structs.fields(self.python)
        except Exception as error:
            raise _inside(self.python, error) from error
        tags: Declared = {name: (typing.Literal[tag], False) for name, tag in self._tag.items()}
        return tags | {field.encode_name: (_without_unset(field.type), not field.required) for field in fields}

    def build(self, fields: dict[str, object]) -> object:
        accepted = {name: item for name, item in fields.items() if name in self._accepted}
        return sys.modules["msgspec"].convert(accepted, self.python, builtin_types=(bytes,), dec_hook=_from_value)

    def fields_of(self, value: object) -> dict[str, object] | None:
        if not isinstance(value, self.python):
            return None
        unset = sys.modules["msgspec"].UNSET
        items = ((outside, getattr(value, name)) for name, outside in self._outside.items())
        return {**self._tag, **{outside: item for outside, item in items if item is not unset}}


def _without_unset(hint: Any) -> Any:
    """`X | UnsetType` says that the field may be absent."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        unset = sys.modules["msgspec"].UnsetType
        return typing.Union[tuple(member for member in typing.get_args(hint) if member is not unset)]  # noqa: UP007
    return hint


def _from_value(hint: Any, value: Any) -> Any:
    """What msgspec does not know of our types: an id is a str. An Int64 it takes as it is."""
    return Id(value) if Id in (hint, typing.get_origin(hint)) else value
